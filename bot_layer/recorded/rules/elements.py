"""The type of each FHIR element and the codes that it may have, from the models of ``fhir.resources``."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from fhir.resources.R4B import fhirtypes, get_fhir_model_class
from fhir.resources.R4B.resource import Resource


def words(text: str) -> frozenset[str]:
    """The words of a table that is too long for a line each."""
    return frozenset(text.split())


# Medplum's own types, of which FHIR has no models.
_MEDPLUM_TYPES: Final = words(
    "AccessPolicy Agent AsyncJob Bot BulkDataExport ClientApplication DomainConfiguration JsonWebKey Login Project "
    "ProjectMembership SmartAppLaunch SubscriptionStatus User UserConfiguration UserSecurityRequest"
)
# fhirtypes has a class PatientContactType for the model PatientContact.
_MODELS: Final = frozenset(
    name.removesuffix("Type")
    for name, found in vars(fhirtypes).items()
    if name.endswith("Type") and hasattr(found, "get_model_klass")
)


@dataclass(frozen=True)
class Element:
    """``type`` is the name of a data type or of a backbone element's model (``Patient.contact`` is PatientContact)."""

    type: str
    codes: frozenset[str] = frozenset()


UNKNOWN: Final = Element("")


@lru_cache(maxsize=4096)
def element(model: str, name: str) -> Element:
    """The element of a model; ``UNKNOWN`` if it has none of this name."""
    found = _elements(model).get(name)
    return UNKNOWN if found is None else found


def is_resource_type(name: object) -> bool:
    """True for the name of a resource type, Medplum's own included."""
    if not isinstance(name, str) or name in _MEDPLUM_TYPES:
        return name in _MEDPLUM_TYPES
    return name in _MODELS and issubclass(get_fhir_model_class(name), Resource)


@lru_cache(maxsize=1024)
def _elements(model: str) -> dict[str, Element]:
    if model not in _MODELS:
        return {}
    found = {}
    for field in get_fhir_model_class(model).model_fields.values():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        codes = extra.get("enum_values")
        found[str(field.alias)] = Element(
            _type(field.annotation), frozenset(map(str, codes)) if isinstance(codes, list) else frozenset()
        )
    return found


def _type(annotation: Any) -> str:
    """The data type in an annotation such as ``Optional[List[abc.HumanNameType]]`` or ``Annotated[str, Code()]``."""
    metadata = getattr(annotation, "__metadata__", ())
    named = [type(each).__name__ for each in metadata if type(each).__module__.startswith("fhir")]
    if named:
        return named[-1]
    inner = [_type(each) for each in typing.get_args(annotation) if each is not type(None)]
    if inner:
        return next((each for each in inner if each), "")
    if annotation is bool:
        return "Boolean"
    return getattr(annotation, "__name__", "").removesuffix("Type")
