"""What the caller of a custom operation gets of a bot's return value: the definition's out parameters decide."""

from __future__ import annotations

from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.outcomes import bad_request
from medplum_sandbox.medplum.results import javascript_type


def build_output(definition: Json, returned: Any) -> Json:
    """The resource that is answered; raises the recorded 400 where the return value does not fit.

    One out parameter named ``return`` passes a resource as it is; others are looked up as keys of a plain object.
    """
    outs = [one for one in definition.get("parameter", []) if one.get("use") == "out"]
    if len(outs) == 1 and outs[0]["name"] == "return":
        return returned_resource(returned, outs[0].get("type"))
    parameters = parameters_of(outs, returned)
    return {"resourceType": "Parameters", "parameter": parameters} if parameters else {"resourceType": "Parameters"}


def returned_resource(returned: Any, wanted: str | None) -> Json:
    """The returned resource, if it is of the type that the definition names; of any type where it names none."""
    found = returned.get("resourceType") if isinstance(returned, dict) else None
    if isinstance(returned, dict) and found and wanted in (None, found):
        return returned
    raise bad_request(f"Expected {wanted or 'Resource'} output, but got unexpected {javascript_type(returned)}")


def parameters_of(outs: list[Json], returned: Any) -> list[Json]:
    """The keys that the definition names, in its order. A returned Parameters resource has none of them."""
    source = returned if isinstance(returned, dict) else {}
    return [one for out in outs for one in parameter_of(out, source.get(out["name"]))]


def parameter_of(out: Json, value: Any) -> list[Json]:
    """One entry for each value of an out parameter, after its ``min`` and ``max``."""
    values = [one for one in (value if isinstance(value, list) else [value]) if one is not None]
    least, most = out.get("min", 0), out.get("max", "1")
    if len(values) < least:
        raise bad_request(f"Expected {least} or more values for output parameter '{out['name']}', got {len(values)}")
    if most != "*" and len(values) > int(most):
        raise bad_request(f"Expected at most {most} values for output parameter '{out['name']}', got {len(values)}")
    if "type" not in out:
        return [{"name": out["name"], "part": parameters_of(out.get("part", []), one)} for one in values]
    key = f"value{out['type'][:1].upper()}{out['type'][1:]}"
    return [{"name": out["name"], key: one} for one in values]
