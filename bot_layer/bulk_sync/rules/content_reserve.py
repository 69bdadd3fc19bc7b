"""Room for content in Medplum, made before the content is sent: so that none is ever stored where nothing names it.

A Binary can't be searched, and the client can't choose its id: what a lost answer leaves behind would stay for ever.
But the entries of a batch may name each other before they are made, and run in their order. So a Basic, which can be
searched, comes first and names the Binaries that follow it; the content is then written by PUT, which may be repeated.
https://www.medplum.com/docs/fhir-datastore/fhir-batch-requests
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from bot_layer.bulk_sync.rules.provenance import CONTENT_URL, ORIGIN_URL, SYNC_TAG
from bot_layer.bulk_sync.rules.source_identity import ROOT
from bot_layer.fhir.json import Json

RESERVE_SYSTEM: Final = f"{ROOT}/content-reserve"
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def reserve_entries(name: str, urns: Sequence[str], source: str) -> list[Json]:
    """The entries of a batch that makes room: the Basic first, then an empty Binary for each ``urn:uuid:``."""
    basic: Json = {
        "resourceType": "Basic",
        "identifier": [{"system": RESERVE_SYSTEM, "value": name}],
        "code": {"coding": [{"system": SYNC_TAG, "code": "content-reserve"}]},
        "extension": [
            {"url": ORIGIN_URL, "valueUri": source},
            *({"url": CONTENT_URL, "valueReference": {"reference": urn}} for urn in urns),
        ],
    }
    empty = {"resourceType": "Binary", "contentType": "application/octet-stream"}
    binaries = ({"fullUrl": urn, "request": {"method": "POST", "url": "Binary"}, "resource": empty} for urn in urns)
    return [{"request": {"method": "POST", "url": "Basic"}, "resource": basic}, *binaries]


def reserved_ids(basic: Json, source: str) -> list[str]:
    """The ids of the Binaries that a reserve of this source names; those of another source are nobody's business."""
    extensions = [each for each in basic.get("extension") or [] if isinstance(each, dict)]
    if source not in [each.get("valueUri") for each in extensions if each.get("url") == ORIGIN_URL]:
        return []
    named = [each.get("valueReference") or {} for each in extensions if each.get("url") == CONTENT_URL]
    return [str(each.get("reference", "")).removeprefix("Binary/") for each in named]


def ids_named(resources: Iterable[Json]) -> set[str]:
    """Every id that stands anywhere in these resources, be it in a reference or in a link to Medplum's storage."""
    return {found for each in resources for found in _ID.findall(json.dumps(each))}
