"""FHIR R4 structure, checked with fhir.resources before a payload leaves."""

from __future__ import annotations

from pydantic import ValidationError

from bot_layer.errors import InputError
from bot_layer.fhir.json import Json


def require_valid(resource: Json) -> None:
    """Raise InputError that names the elements which are not FHIR R4B; their values are not included."""
    # Imported here because it costs a third of a second, and a sync that writes nothing does without.
    from fhir.resources.R4B import get_fhir_model_class  # noqa: PLC0415

    model = get_fhir_model_class(resource["resourceType"])
    try:
        model.model_validate(resource)
    except ValidationError as fault:
        places = sorted({".".join(str(step) for step in error["loc"]) for error in fault.errors(include_input=False)})
        raise InputError(
            f"The resource to send is not valid FHIR: see {', '.join(places)}.",
            code="invalid-payload",
            expression=places,
        ) from fault
