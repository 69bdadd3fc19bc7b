"""Documents: the bytes of a Binary, and the signed URLs under which they can be fetched for an hour.

https://www.medplum.com/docs/fhir-datastore/binary-data
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.outcomes import bad_request
from medplum_sandbox.medplum.store import Store, Stored
from medplum_sandbox.medplum.world import World

_BINARY = re.compile(r"Binary/([0-9a-fA-F-]{36})")


def content_of(world: World, reference: str) -> bytes | None:
    """The bytes behind ``Binary/{id}`` or a storage URL of this server."""
    match = _BINARY.search(_stable(world, reference))
    if match is None:
        return None
    with world.lock:
        return world.store.blob(match[1])


def keep_content(store: Store, resource: Json) -> None:
    """Stores the bytes that a FHIR JSON Binary carries in ``data``."""
    if not isinstance(resource.get("data"), str):
        return
    try:
        store.put_blob(resource["id"], base64.b64decode(resource["data"], validate=True))
    except binascii.Error:
        raise bad_request("Invalid base64Binary format", "Binary.data") from None


def storage_url(world: World, id: str, version: str, project: str | None) -> str:
    """The URL of the content, valid for an hour. A newer server includes the project in an extended answer."""
    expires = int(world.clock().timestamp()) + world.settings.storage_seconds
    path = f"/storage/{id}/{version}"
    named = f"&Project={project}" if project and world.settings.behavior.names_project else ""
    return f"{world.base_url}{path}?Expires={expires}{named}&Signature={signature(world, path, f'{expires}{named}')}"


def signature(world: World, path: str, expires: str) -> str:
    """The signature of a URL of this server."""
    mac = hmac.new(world.signing_key.encode(), f"{path}?Expires={expires}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(mac.digest()).decode().rstrip("=")


def signed_attachments(
    world: World, resource: Json, read: Callable[[str], Stored | None], *, extended: bool = False
) -> Json:
    """The resource with every attachment ``Binary/{id}`` that exists as a signed URL."""

    def rewrite(url: str) -> str:
        match = _BINARY.fullmatch(url)
        found = read(match[1]) if match else None
        return storage_url(world, found.id, found.version, found.project if extended else None) if found else url

    changed: Json = _rewrite(resource, rewrite)
    return changed


def stable_attachments(world: World, resource: Json) -> Json:
    """The resource with the server's own storage URLs as ``Binary/{id}``, so that it can be written as it was read."""
    changed: Json = _rewrite(resource, lambda url: _stable(world, url))
    return changed


def _stable(world: World, url: str) -> str:
    head = f"{world.base_url}/storage/"
    return f"Binary/{url.removeprefix(head).partition('/')[0]}" if url.startswith(head) else url


def _rewrite(value: Any, change: Callable[[str], str]) -> Any:
    """The value with each ``url`` changed; the same object if none is."""
    if isinstance(value, dict):
        items = {
            k: change(v)
            if k == "url" and isinstance(v, str)
            else _rewrite(v, change)
            if isinstance(v, dict | list)
            else v
            for k, v in value.items()
        }
        return items
    if isinstance(value, list):
        return [_rewrite(v, change) if isinstance(v, dict | list) else v for v in value]
    return value
