"""The search parameters of the resource types in use, in a notation of one word each.

``name:type=path|path``: the type is t(oken), s(tring), r(eference), d(ate), u(ri), n(umber) or q(uantity); without a path the
element has the parameter's name; ``code*`` is a choice of types; ``telecom/phone`` keeps the ContactPoints of one system;
``subject>Patient`` keeps references to that type. (https://hl7.org/fhir/R4/searchparameter-registry.html)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from bot_layer.sandbox.medplum.structure import Element, Shape, shape

TYPES = {
    "t": "token",
    "s": "string",
    "r": "reference",
    "d": "date",
    "u": "uri",
    "n": "number",
    "q": "quantity",
}

_COMMON = "_compartment:r=meta.compartment _profile:u=meta.profile _security:t=meta.security _source:u=meta.source _tag:t=meta.tag"
_PERSON = (
    "identifier:t name:s family:s=name.family given:s=name.given gender:t birthdate:d=birthDate telecom:t "
    "email:t=telecom/email phone:t=telecom/phone address:s address-city:s=address.city address-state:s=address.state "
    "address-postalcode:s=address.postalCode address-country:s=address.country address-use:t=address.use phonetic:s=name"
)
_PLACE = (
    "identifier:t name:s=name|alias address:s address-city:s=address.city address-state:s=address.state "
    "address-postalcode:s=address.postalCode address-country:s=address.country address-use:t=address.use"
)
_SUBJECT = "identifier:t status:t subject:r patient:r=subject>Patient"
_DEFINITION = "url:u version:t name:s title:s status:t date:d description:s publisher:s"

_TABLE = {
    "AccessPolicy": "name:s",
    "Account": f"{_SUBJECT} name:s owner:r type:t period:d=servicePeriod",
    "AllergyIntolerance": "identifier:t patient:r code:t clinical-status:t=clinicalStatus category:t criticality:t type:t "
    "verification-status:t=verificationStatus date:d=recordedDate onset:d=onset* recorder:r asserter:r "
    "last-date:d=lastOccurrence severity:t=reaction.severity manifestation:t=reaction.manifestation",
    "Appointment": "identifier:t status:t date:d=start patient:r=participant.actor>Patient actor:r=participant.actor "
    "practitioner:r=participant.actor>Practitioner location:r=participant.actor>Location service-type:t=serviceType "
    "appointment-type:t=appointmentType specialty:t reason-code:t=reasonCode based-on:r=basedOn",
    "AsyncJob": "status:t type:t",
    "AuditEvent": "type:t subtype:t action:t outcome:t date:d=recorded agent:r=agent.who entity:r=entity.what "
    "patient:r=agent.who>Patient|entity.what>Patient source:r=source.observer site:t=source.site "
    "agent-name:s=agent.name entity-type:t=entity.type",
    "Basic": "identifier:t code:t subject:r patient:r=subject>Patient author:r created:d",
    "Bot": "identifier:t name:s category:t",
    "Bundle": "identifier:t type:t timestamp:d",
    "CarePlan": f"{_SUBJECT} category:t date:d=period encounter:r intent:t based-on:r=basedOn condition:r=addresses "
    "goal:r care-team:r=careTeam activity-code:t=activity.detail.code",
    "CareTeam": f"{_SUBJECT} category:t date:d=period encounter:r participant:r=participant.member",
    "ChargeItem": f"{_SUBJECT} code:t context:r occurrence:d=occurrence*",
    "Claim": "identifier:t status:t use:t patient:r provider:r insurer:r created:d",
    "ClientApplication": "name:s",
    "CodeSystem": f"{_DEFINITION} identifier:t system:u=url code:t=concept.code",
    "Communication": f"{_SUBJECT} category:t medium:t sender:r recipient:r encounter:r sent:d received:d based-on:r=basedOn "
    "part-of:r=partOf topic:t",
    "Composition": f"{_SUBJECT} type:t category:t date:d title:s author:r encounter:r",
    "Condition": "identifier:t code:t subject:r patient:r=subject>Patient clinical-status:t=clinicalStatus category:t "
    "verification-status:t=verificationStatus onset-date:d=onset* abatement-date:d=abatement* "
    "recorded-date:d=recordedDate encounter:r asserter:r severity:t body-site:t=bodySite",
    "Consent": "identifier:t status:t patient:r category:t scope:t date:d=dateTime period:d=provision.period "
    "consentor:r=performer organization:r",
    "Coverage": "identifier:t status:t patient:r=beneficiary beneficiary:r payor:r policy-holder:r=policyHolder subscriber:r "
    "type:t dependent:s",
    "Device": "identifier:t status:t type:t patient:r organization:r=owner location:r manufacturer:s model:s=modelNumber "
    "device-name:s=deviceName.name udi-di:s=udiCarrier.deviceIdentifier udi-carrier:s=udiCarrier.carrierHRF url:u",
    "DiagnosticReport": f"{_SUBJECT} code:t category:t date:d=effective* issued:d encounter:r performer:r based-on:r=basedOn "
    "result:r specimen:r conclusion:t=conclusionCode results-interpreter:r=resultsInterpreter",
    "DocumentReference": f"{_SUBJECT} type:t category:t date:d author:r custodian:r authenticator:r encounter:r=context.encounter "
    "period:d=context.period description:s contenttype:t=content.attachment.contentType location:u=content.attachment.url "
    "related:r=context.related relatesto:r=relatesTo.target format:t=content.format setting:t=context.practiceSetting",
    "Encounter": f"{_SUBJECT} class:t type:t date:d=period participant:r=participant.individual "
    "practitioner:r=participant.individual>Practitioner location:r=location.location service-provider:r=serviceProvider "
    "appointment:r based-on:r=basedOn episode-of-care:r=episodeOfCare part-of:r=partOf reason-code:t=reasonCode "
    "reason-reference:r=reasonReference diagnosis:r=diagnosis.condition account:r length:q "
    "participant-type:t=participant.type special-arrangement:t=hospitalization.specialArrangement",
    "Endpoint": "identifier:t status:t name:s connection-type:t=connectionType organization:r=managingOrganization",
    "EpisodeOfCare": "identifier:t status:t patient:r date:d=period organization:r=managingOrganization type:t "
    "care-manager:r=careManager",
    "FamilyMemberHistory": "identifier:t status:t patient:r relationship:t date:d code:t=condition.code sex:t",
    "Goal": "identifier:t subject:r patient:r=subject>Patient category:t lifecycle-status:t=lifecycleStatus "
    "achievement-status:t=achievementStatus start-date:d=start* target-date:d=target.due*",
    "Group": "identifier:t type:t code:t actual:t member:r=member.entity managing-entity:r=managingEntity name:s "
    "characteristic:t=characteristic.code exclude:t=characteristic.exclude",
    "HealthcareService": "identifier:t active:t name:s location:r organization:r=providedBy service-category:t=category "
    "service-type:t=type specialty:t endpoint:r",
    "ImagingStudy": f"{_SUBJECT} started:d encounter:r modality:t=series.modality basedon:r=basedOn",
    "Immunization": "identifier:t status:t patient:r vaccine-code:t=vaccineCode date:d=occurrence* location:r "
    "lot-number:s=lotNumber manufacturer:r performer:r=performer.actor reason-code:t=reasonCode "
    "reaction-date:d=reaction.date status-reason:t=statusReason series:s=protocolApplied.series",
    "Invoice": f"{_SUBJECT} date:d recipient:r issuer:r account:r",
    "List": f"{_SUBJECT} code:t date:d title:s encounter:r source:r item:r=entry.item",
    "Location": f"{_PLACE} status:t type:t operational-status:t=operationalStatus organization:r=managingOrganization "
    "partof:r=partOf endpoint:r",
    "Media": f"{_SUBJECT} type:t created:d=created* encounter:r based-on:r=basedOn",
    "Medication": "identifier:t status:t code:t form:t manufacturer:r ingredient:r=ingredient.itemReference "
    "ingredient-code:t=ingredient.itemCodeableConcept lot-number:t=batch.lotNumber expiration-date:d=batch.expirationDate",
    "MedicationAdministration": f"{_SUBJECT} code:t=medicationCodeableConcept medication:r=medicationReference "
    "context:r effective-time:d=effective* performer:r=performer.actor request:r",
    "MedicationDispense": f"{_SUBJECT} code:t=medicationCodeableConcept medication:r=medicationReference context:r "
    "whenhandedover:d=whenHandedOver whenprepared:d=whenPrepared performer:r=performer.actor "
    "prescription:r=authorizingPrescription type:t",
    "MedicationRequest": f"{_SUBJECT} code:t=medicationCodeableConcept medication:r=medicationReference intent:t "
    "authoredon:d=authoredOn encounter:r requester:r priority:t category:t date:d=dosageInstruction.timing.event "
    "intended-performer:r=performer intended-dispenser:r=dispenseRequest.performer",
    "MedicationStatement": f"{_SUBJECT} code:t=medicationCodeableConcept medication:r=medicationReference context:r "
    "effective:d=effective* category:t source:r=informationSource part-of:r=partOf",
    "Observation": f"{_SUBJECT} code:t category:t date:d=effective* encounter:r performer:r device:r specimen:r focus:r "
    "based-on:r=basedOn part-of:r=partOf has-member:r=hasMember derived-from:r=derivedFrom method:t "
    "value-quantity:q=valueQuantity value-concept:t=valueCodeableConcept value-string:s=valueString "
    "value-date:d=valueDateTime|valuePeriod data-absent-reason:t=dataAbsentReason component-code:t=component.code "
    "combo-code:t=code|component.code",
    "OperationDefinition": f"{_DEFINITION} code:t kind:t system:t type:t instance:t base:u",
    "Organization": f"{_PLACE} active:t type:t partof:r=partOf endpoint:r phonetic:s=name",
    "Parameters": "",
    "Patient": f"{_PERSON} active:t deceased:t=deceasedBoolean death-date:d=deceasedDateTime "
    "general-practitioner:r=generalPractitioner organization:r=managingOrganization link:r=link.other "
    "language:t=communication.language",
    "Person": f"{_PERSON} organization:r=managingOrganization link:r=link.target patient:r=link.target>Patient",
    "Practitioner": f"{_PERSON} active:t communication:t qualification-code:t=qualification.code",
    "PractitionerRole": "identifier:t active:t date:d=period practitioner:r organization:r location:r role:t=code specialty:t "
    "service:r=healthcareService endpoint:r telecom:t email:t=telecom/email phone:t=telecom/phone",
    "Procedure": f"{_SUBJECT} code:t category:t date:d=performed* encounter:r performer:r=performer.actor location:r "
    "based-on:r=basedOn part-of:r=partOf reason-code:t=reasonCode reason-reference:r=reasonReference",
    "Project": "name:s identifier:t owner:r",
    "ProjectMembership": "project:r user:r profile:r user-name:s=userName external-id:t=externalId "
    "access-policy:r=accessPolicy admin:t identifier:t",
    "Provenance": "target:r agent:r=agent.who recorded:d entity:r=entity.what patient:r=target>Patient location:r "
    "agent-type:t=agent.type agent-role:t=agent.role when:d=occurredDateTime signature-type:t=signature.type",
    "Questionnaire": f"{_DEFINITION} identifier:t code:t=item.code effective:d=effectivePeriod subject-type:t=subjectType",
    "QuestionnaireResponse": f"{_SUBJECT} questionnaire:u authored:d author:r encounter:r source:r based-on:r=basedOn",
    "RelatedPerson": f"{_PERSON} active:t patient:r relationship:t",
    "Schedule": "identifier:t active:t actor:r date:d=planningHorizon service-type:t=serviceType specialty:t",
    "ServiceRequest": f"{_SUBJECT} code:t category:t intent:t priority:t authored:d=authoredOn occurrence:d=occurrence* "
    "encounter:r requester:r performer:r based-on:r=basedOn replaces:r requisition:t specimen:r "
    "performer-type:t=performerType body-site:t=bodySite",
    "Slot": "identifier:t status:t schedule:r start:d appointment-type:t=appointmentType service-type:t=serviceType specialty:t",
    "Specimen": "identifier:t status:t type:t subject:r patient:r=subject>Patient accession:t=accessionIdentifier parent:r "
    "collected:d=collection.collected* collector:r=collection.collector bodysite:t=collection.bodySite",
    "Subscription": "status:t criteria:s url:u=channel.endpoint type:t=channel.type payload:t=channel.payload contact:t",
    "Task": "identifier:t status:t code:t intent:t priority:t subject:r=for patient:r=for>Patient focus:r owner:r requester:r "
    "encounter:r authored-on:d=authoredOn modified:d=lastModified period:d=executionPeriod based-on:r=basedOn part-of:r=partOf "
    "business-status:t=businessStatus group-identifier:t=groupIdentifier performer:t=performerType "
    "due-date:d=restriction.period",
    "User": "identifier:t email:t external-id:t=externalId project:r",
    "ValueSet": f"{_DEFINITION} identifier:t reference:u=compose.include.system code:t=expansion.contains.code",
}
# A type without a line of its own has those of these that its definition has an element for.
_FALLBACK = "identifier:t status:t code:t name:s title:s url:u date:d type:t category:t subject:r patient:r encounter:r"


@dataclass(frozen=True, slots=True)
class Path:
    """Where a value lies: the element names of the way down, the ContactPoint system kept, and the type of what lies there."""

    steps: tuple[tuple[str, ...], ...]
    system: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A search parameter of a type. ``targets`` are the types that a reference may lead to."""

    name: str
    type: str
    paths: tuple[Path, ...]
    targets: tuple[str, ...] = ()


@cache
def parameters(resource_type: str) -> dict[str, Parameter]:
    """The parameters that are kept in the index, by name. ``_id`` and ``_lastUpdated`` are columns of their own."""
    kind = shape(resource_type)
    if kind is None:
        return {}
    words = f"{_TABLE[resource_type]} {_COMMON}".split() if resource_type in _TABLE else _fallback(kind)
    found = [_parameter(word, kind) for word in words]
    return {p.name: p for p in found}


def _fallback(kind: Shape) -> list[str]:
    return [w for w in _FALLBACK.split() if w.partition(":")[0] in kind.elements] + _COMMON.split()


def _parameter(word: str, kind: Shape) -> Parameter:
    head, _, where = word.partition("=")
    name, _, letter = head.partition(":")
    paths: list[Path] = []
    targets: list[str] = []
    for text in (where or name).split("|"):
        dotted, _, only = text.partition(">")
        dotted, _, system = dotted.partition("/")
        steps, elements = _walk(dotted, kind)
        paths.append(Path(steps, system or None, only or None))
        targets += [only] if only else [t for e in elements for t in e.targets]
    return Parameter(name, TYPES[letter], tuple(paths), tuple(dict.fromkeys(targets)))


def _walk(dotted: str, kind: Shape) -> tuple[tuple[tuple[str, ...], ...], list[Element]]:
    """The element names of each step (several for a choice), and the elements at the end."""
    steps: list[tuple[str, ...]] = []
    here: Shape | None = kind
    last: list[Element] = []
    for step in dotted.split("."):
        if here is None:
            raise ValueError(f"The path {dotted} leads nowhere in {kind.name}.")
        known = here.elements
        last = [e for e in known.values() if e.choice == step[:-1]] if step.endswith("*") else [known[step]]
        steps.append(tuple(e.name for e in last))
        here = shape(last[0].type) if last and not last[0].primitive else None
    if not last:
        raise ValueError(f"The path {dotted} leads nowhere in {kind.name}.")
    return tuple(steps), last


SUPPORTED_TYPES = tuple(sorted(_TABLE))
