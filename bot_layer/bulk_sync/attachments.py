"""Copies the content of Attachments: fetches it, checks it, stores it in Medplum and rewrites the link."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, Final

from bot_layer.bulk_sync.rules import provenance, references, upsert
from bot_layer.bulk_sync.rules.attachments import (
    attachments_in,
    bare,
    binary_content,
    media_type,
    refusal,
    with_attachments,
)
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.rules.source_identity import ATTACHMENT_DIGEST_URL, ATTACHMENT_URL
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.state.task_store import LeaseLost
from bot_layer.errors import AuthError, BotError, TransientError
from bot_layer.fhir.json import Json, objects, read_object
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.retry import repeat

_MEMORY: Final = 1024 * 1024
_INLINE: Final = 500_000  # Medplum accepts resources up to 1 MB
_POLICY: Final = RetryPolicy(retries=4, backoff=0.2)
_OCTETS: Final = "application/octet-stream"
_NOTES: Final = (ATTACHMENT_URL, ATTACHMENT_DIGEST_URL)


class _Unusable(Exception):
    """The content cannot be copied; the text says why."""


@dataclass(frozen=True)
class Carried:
    """A resource with its links rewritten to Medplum, and which links still lead to the source."""

    resource: Json
    missed: bool = False  # for now, because the content is temporarily unavailable
    uncopied: tuple[str, ...] = ()  # permanently, for these reasons


@dataclass(frozen=True)
class Attachments:
    """Copies content from the source to Medplum. Safe to share between threads."""

    session: Session

    def carry(self, resource: Json, found: Found | None, *, owner: str, known: Mapping[Key, str]) -> Carried:
        """Copy the content of a resource's attachments; content that Medplum already has is not fetched again.

        ``owner`` is the Patient in Medplum to whom the content belongs; ``known`` are Medplum's ids of what the
        attachments may link to.
        """
        there = [each for each in attachments_in(upsert.comparable(found.resource)) if _noted(each)] if found else []
        copied: list[Json] = []
        missed, uncopied = False, list[str]()
        # Content may change behind the same link: a hash shows that, or the source's unchanged resource rules it out.
        kind = str(resource["resourceType"])
        same = found is not None and (
            provenance.source_version(found.resource, kind) == provenance.source_version(resource, kind)
        )

        def change(attachment: Json) -> Json:
            nonlocal missed
            # Content that occurs twice in a resource is stored once.
            likely = [each for each in (*copied, *there) if _may_hold(each, attachment)]
            is_sure = same or bool(attachment.get("hash")) or any(each in copied for each in likely)
            try:
                copied.append(self._carried(attachment, likely, owner, known, is_sure=is_sure))
                return copied[-1]
            except _Unusable as fault:
                uncopied.append(str(fault))
            except LeaseLost:
                raise
            except TransientError:
                missed = True
            except BotError as fault:
                if isinstance(fault, AuthError) and fault.code.startswith("medplum"):
                    raise
                uncopied.append(fault.code)
            url = attachment.get("url")
            if not isinstance(url, str) or ":" in url:
                return attachment
            # The link is kept as an absolute URL, so that users with rights at the source can follow it.
            return attachment | {"url": f"{self.session.settings.source}/{url}"}

        return Carried(with_attachments(resource, change), missed, tuple(uncopied))

    def targets(self, resource: Json) -> set[Key]:
        """The source resources that attachments link to."""
        source = self.session.settings.source
        links = [url for each in attachments_in(resource) if isinstance(url := each.get("url"), str)]
        return {key for url in links if (key := references.read_reference(url, source)) is not None}

    def _carried(
        self, attachment: Json, likely: list[Json], owner: str, known: Mapping[Key, str], *, is_sure: bool
    ) -> Json:
        """The Attachment with a link to Medplum. Data that would make the resource too large for Medplum is moved.

        ``likely`` are the attachments in Medplum that may have the same content.
        """
        url, data = attachment.get("url"), b""
        if isinstance(url, str):
            if not url.startswith(("http://", "https://")) and ":" in url:
                raise _Unusable(f"its address is none of the web ({url.partition(':')[0][:10]}:)")
            exported = references.read_reference(url, self.session.settings.source)
            if exported is not None and exported in known:
                return attachment | {"url": f"{exported.type}/{known[exported]}"}
            address = url
        else:
            text = str(attachment.get("data") or "")
            if len(text) < _INLINE:
                return attachment
            address, data = inline_address(text), _decoded(text)
        rest = attachment if isinstance(url, str) else {name: attachment[name] for name in attachment if name != "data"}
        if likely and is_sure:
            return _linked(rest, address, str(likely[0]["url"]), _digest(likely[0]))
        with tempfile.SpooledTemporaryFile(max_size=_MEMORY) as spool:
            spool.write(data)
            kind = _OCTETS
            if isinstance(url, str):
                wait = self.session.pause
                kind = repeat(lambda: self._fetch(address, spool, attachment), _POLICY, when=lambda _: True, wait=wait)
            digest = _check(spool, attachment)
            target = next((str(each["url"]) for each in likely if _digest(each) == digest), "")
            if not target:
                kind = media_type(attachment.get("contentType"), kind)
                target = f"Binary/{self.session.medplum.store_content(kind, _Pieces(spool), owner=owner)}"
        return _linked(rest, address, target, digest)

    def _fetch(self, url: str, spool: IO[bytes], attachment: Json, *, accept: str = "*/*") -> str:
        """Fetch the content into the spool, unwrapped if the source sends a FHIR Binary; returns its media type."""
        largest = self.session.settings.max_attachment_bytes
        spool.seek(0)
        spool.truncate()
        kind, chunks = self.session.source.files.content(url, accept=accept)
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > largest * 3 // 2:  # base64 needs a third more
                raise _Unusable("too large")
            spool.write(chunk)
        wanted = media_type(attachment.get("contentType"))
        start = b"".join(islice(_Pieces(spool), 1))
        if "fhir" not in wanted and bare(start)[:1] in (b"{", b"<"):
            try:
                found = binary_content(whole := b"".join(_Pieces(spool)), read_object(whole))
            except ValueError as fault:
                if accept == "*/*":
                    return self._fetch(url, spool, attachment, accept=wanted)
                raise _Unusable("a Binary without readable data") from fault
            if found is not None:
                kind, data = found
                spool.seek(0)
                spool.truncate()
                spool.write(data)
                size, start = len(data), data[:1000]
        if size > largest:
            raise _Unusable("too large")
        if reason := refusal(kind, start, size, attachment):
            if reason == "a page":
                raise TransientError("A page came in place of a document.", service=SERVICE, code="unreadable-answer")
            raise _Unusable(f"the answer is {reason}")
        return kind


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as fault:  # also for non-ASCII characters
        raise _Unusable("its data is not base64") from fault


def inline_address(data: str) -> str:
    """A substitute address for content that the source sends inline."""
    return f"urn:sha1:{hashlib.sha1(data.encode(), usedforsecurity=False).hexdigest()}"


def stored_contents(resource: Json) -> list[str]:
    """The ids of the Binaries that the sync made for a resource's attachments."""
    urls = (str(each.get("url")) for each in attachments_in(upsert.comparable(resource)) if _noted(each))
    return [url.removeprefix("Binary/") for url in urls if url.startswith("Binary/")]


def _check(spool: IO[bytes], attachment: Json) -> str:
    """The SHA-1 of the content, after checking it against the one that the source states
    (https://hl7.org/fhir/R4/datatypes.html)."""
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in _Pieces(spool):
        digest.update(piece)
    found = base64.b64encode(digest.digest()).decode()
    stated = attachment.get("hash")
    if isinstance(stated, str) and found != stated:
        raise _Unusable("its hash is not the stated one")
    return found


@dataclass(frozen=True)
class _Pieces:
    """The content in chunks; each iteration starts at the beginning."""

    spool: IO[bytes]

    def __iter__(self) -> Iterator[bytes]:
        self.spool.seek(0)
        while piece := self.spool.read(256 * 1024):
            yield piece


def _linked(attachment: Json, url: str, target: str, digest: str) -> Json:
    notes = [{"url": ATTACHMENT_URL, "valueUrl": url}]
    if digest:
        notes.append({"url": ATTACHMENT_DIGEST_URL, "valueString": digest})
    others = [each for each in objects(attachment.get("extension")) if each.get("url") not in _NOTES]
    return attachment | {"url": target, "extension": [*others, *notes]}


def _may_hold(there: Json, attachment: Json) -> bool:
    """True if the content in Medplum came from the same link, and no stated property differs."""
    same = all(there.get(name) == attachment.get(name) for name in ("hash", "size", "creation", "contentType"))
    address = attachment.get("url") or inline_address(str(attachment.get("data")))
    return _noted(there) == [address] and same and str(there.get("url", "")).startswith("Binary/")


def _digest(attachment: Json) -> str:
    notes = (each for each in objects(attachment.get("extension")) if each.get("url") == ATTACHMENT_DIGEST_URL)
    return next((str(each.get("valueString")) for each in notes), "")


def _noted(attachment: Json) -> list[Any]:
    """The source addresses of the content that the sync stored."""
    return [each.get("valueUrl") for each in objects(attachment.get("extension")) if each.get("url") == ATTACHMENT_URL]
