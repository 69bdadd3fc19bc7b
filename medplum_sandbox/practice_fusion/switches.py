"""How the bulk data source behaves: the exact shape of Practice Fusion, or what other servers do, one switch each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, Self

# The types with a system scope at Practice Fusion: https://www.practicefusion.com/fhir/api-specifications/
EXPORTABLE: Final = (
    "Patient",
    "Practitioner",
    "Organization",
    "RelatedPerson",
    "Coverage",
    "Device",
    "Encounter",
    "Condition",
    "AllergyIntolerance",
    "Specimen",
    "ServiceRequest",
    "Observation",
    "DiagnosticReport",
    "DocumentReference",
    "Procedure",
    "Immunization",
    "MedicationRequest",
    "MedicationDispense",
    "Goal",
    "CareTeam",
    "CarePlan",
    "Provenance",
)
# Types that resources there refer to, without a system scope of their own.
OTHER_TYPES: Final = ("Medication", "Location", "Binary", "MedicationStatement", "PractitionerRole")
ALL_TYPES: Final = EXPORTABLE + OTHER_TYPES

Level = Literal["system", "Patient", "Group"]
PARAMETERS: Final = frozenset({"_type", "_since", "_outputFormat"})


@dataclass(frozen=True)
class Switches:
    """One source's behavior. ``exact()`` and ``general()`` create the usual two; keyword arguments change a part."""

    # Where things are, and how a client logs in
    practice_id: str | None = None
    discovery: Literal["smart", "metadata", "none"] = "smart"
    token_methods: frozenset[str] = frozenset({"private_key_jwt", "client_secret_basic", "client_secret_post"})
    algorithms: frozenset[str] = frozenset({"RS384", "ES384"})
    scope_syntax: frozenset[str] = frozenset({"v1", "v2"})
    odd_refusals: bool = False  # Practice Fusion's own error bodies in place of OAuth's
    narrows_scopes: bool = False  # grants the rest when one scope is refused
    needs_app_authorization: bool = False
    token_seconds: int = 3600
    # Kick-off
    types: tuple[str, ...] = ALL_TYPES
    open_types: frozenset[str] = frozenset({"Group"})  # readable by REST with any token
    levels: frozenset[Level] = frozenset({"system", "Patient", "Group"})
    group_limit: int | None = None
    methods: frozenset[str] = frozenset({"GET", "POST"})
    parameters: frozenset[str] = PARAMETERS | {"_typeFilter", "patient", "allowPartialManifests"}
    honors: frozenset[str] = frozenset({"_type", "_since", "_typeFilter"})
    since_brings_new_members: bool = False
    one_job: bool = False  # a second kick-off is refused until the first job is deleted
    # Waiting
    polls: int = 1  # answers "still running" before the job is complete
    transient_polls: int = 0  # answers 503 with an OperationOutcome of code "transient" before that
    retry_after: Literal["none", "seconds", "date", "epoch", "hours"] = "seconds"
    progress: bool = True
    job_seconds: float | None = None  # life of a job; afterwards 404
    # Manifest
    deleted: bool = True
    outcomes: tuple[str, ...] = ()  # severities of the OperationOutcomes beside the output
    outcome_key: Literal["error", "outcome"] = "error"
    counts: bool = True
    manifest_files: int | None = None  # files on one page of the manifest; the rest by link.next
    endless_manifest: bool = False  # each page names a next one
    partial_manifests: bool = False  # pages are listed in 202 answers while the rest is generated
    lists_extension: bool = False  # STU4: `extension` is an array, and `request` is absent
    # Files
    part_size: int = 10_000
    shape: Literal["ndjson", "messy", "pretty", "array", "bundle"] = "ndjson"
    text: Literal["compact", "spaced", "ascii", "slashes"] = "compact"
    signed_urls: bool = False  # on another host, which refuses an Authorization header
    link_seconds: float | None = None
    gzip: bool = True
    ranges: bool = False
    # REST
    search_page: int = 100

    @classmethod
    def exact(cls, **changes: object) -> Self:
        """Practice Fusion as its documents and a live probe describe it."""
        shape = cls(
            practice_id="5f2d7d2e-1c0b-4a63-9a40-7c1f7f3b9d10",
            token_methods=frozenset({"private_key_jwt"}),
            scope_syntax=frozenset({"v2"}),
            odd_refusals=True,
            needs_app_authorization=True,
            types=EXPORTABLE,
            # The CapabilityStatement lists read for more types than there are scopes. Which ones a system token may
            # read is not documented: here those that an exported resource is useless without, so that a client
            # meets both answers.
            open_types=frozenset({"Group", "Binary", "Location", "Medication"}),
            levels=frozenset({"Group"}),
            group_limit=1000,
            methods=frozenset({"GET"}),
            parameters=PARAMETERS,
            honors=PARAMETERS,
            retry_after="none",
            progress=False,
            deleted=False,
            counts=False,
            gzip=False,
        )
        return replace(shape, **changes)  # type: ignore[arg-type]  # the names are checked by replace

    @classmethod
    def general(cls, **changes: object) -> Self:
        """A server with all that STU2 and STU3 of the Bulk Data guide offer."""
        return replace(cls(), **changes)  # type: ignore[arg-type]  # the names are checked by replace
