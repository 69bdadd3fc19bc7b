"""Files of an export, and documents: streamed, decompressed, and resumed after an interrupted download.

The token is sent only to the host that it was issued for, whatever a manifest says, and never to a redirect's target.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from bot_layer.bulk_sync.rules import bulk_export
from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.source.hosts import absolute
from bot_layer.bulk_sync.source.keeper import Keeper
from bot_layer.bulk_sync.source.requests import MOVED, AuthorizedRequests
from bot_layer.errors import BotError, PermanentError, TransientError
from bot_layer.http.answer import Answer
from bot_layer.http.transport import Opened, Transport

_GZIP: Final = b"\x1f\x8b"
_LAYERS: Final = 2
_PACKINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
_PATH: Final = "export file"
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")


class LinkExpired(BotError):
    """A file's link has expired: fetch the manifest again. Callers in this package catch it."""

    default_code = "link-expired"


class FileChanged(TransientError):
    """A file changed after a part of it was delivered: start again from its first line."""

    default_code = "file-changed"


@dataclass(frozen=True)
class Files:
    """The downloads from one practice's server."""

    requests: AuthorizedRequests
    keeper: Keeper | None = field(default=None, kw_only=True)

    def chunks(self, file: ExportFile, *, requires_token: bool | None) -> Iterator[bytes]:
        """The decompressed bytes of a file, also written to the folder if files are to be kept.

        An interrupted download is resumed, or restarted and skipped to its position. Only the source's own host gets
        the token, unless the manifest says that none is required. FileChanged if the file changed during the download.
        """
        chunks = self._chunks(file, requires_token=requires_token)
        return chunks if self.keeper is None else self.keeper.kept(file, chunks)

    def _chunks(self, file: ExportFile, *, requires_token: bool | None) -> Iterator[bytes]:
        with_token = requires_token is not False and self.requests.is_own(file.url)
        tools = self.requests.open
        progress, failures = _Progress(), 0
        while True:
            before = progress.done
            try:
                yield from self._from(file, progress, with_token=with_token)
            except FileChanged:
                raise
            except TransientError as fault:
                failures = 1 if progress.done > before else failures + 1
                if failures >= tools.tries:
                    raise
                tools.wait(tools.policy.pause(failures - 1, fault.retry_after))
            else:
                return

    def _from(self, file: ExportFile, progress: _Progress, *, with_token: bool) -> Iterator[bytes]:
        headers = {"Accept": bulk_export.NDJSON_TYPE, "Accept-Encoding": "gzip"}
        offset = progress.done
        if offset and progress.resumable:
            # A range counts compressed bytes, so only the uncompressed form can be resumed.
            headers |= {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
            if progress.condition:
                headers["If-Range"] = progress.condition
        skip, begin = offset, 0
        with self._followed(file.url, headers, with_token=with_token) as (reply, stream):
            if reply.is_page:
                raise reply.unreadable("sent a page in place of a file")
            if reply.status != 200:
                begin = self._begin(reply, progress)
                skip = offset - begin
            if not offset:
                progress.version = _version(reply)
                etag = reply.headers.get("etag", "")
                # A weak tag begins with W/, and identifies no bytes.
                progress.condition = etag if etag.startswith('"') and etag.isascii() and etag.isprintable() else ""
            passed = hashlib.blake2b()
            for chunk in _unpacked(reply, stream, self.requests.open.transport, progress, resumed=bool(begin)):
                head, kept = chunk[:skip], chunk[skip:]
                skip -= len(head)
                passed.update(head)
                if head and not skip and not begin and passed.digest() != progress.digest.digest():
                    raise FileChanged("A file changed while it was read.", service=SERVICE, method="GET", path=_PATH)
                if kept:
                    progress.done += len(kept)
                    progress.digest.update(kept)
                    yield kept
        if skip or progress.done < progress.total:
            raise self._lost()  # less than was received before the interruption, or only a part of the range

    def _begin(self, reply: Answer, progress: _Progress) -> int:
        """The offset where the answer to a range request begins. After 416, another version or another unusable answer,
        ranges are not requested again: parts of two versions are never joined."""
        match = _RANGE.match(reply.headers.get("content-range", ""))
        stated = zip(_version(reply), progress.version, strict=True)
        same = all(now == before for now, before in stated if now and before)
        if reply.status == 206 and match and same and 0 < int(match[1]) <= progress.done:
            progress.total = int(match[2])
            return int(match[1])
        progress.resumable = False
        raise self._lost()

    def _lost(self) -> TransientError:
        return self.requests.open.transport.lost("GET", _PATH, sent=True)

    def content(self, url: str, *, accept: str = "*/*") -> tuple[str, Iterator[bytes]]:
        """An attachment's type and its bytes, with the token only if it is on the source's host."""
        place = absolute(self.requests.source + "/", url)
        headers = {"Accept": accept, "Accept-Encoding": "gzip"}
        stack = ExitStack()
        opened = self._followed(place, headers, with_token=self.requests.is_own(place))
        reply, stream = stack.enter_context(opened)

        def content() -> Iterator[bytes]:
            is_packed = bool(_encoding(reply))  # a document that is a gzip file stays one
            with stack:
                yield from _unpacked(reply, stream, self.requests.open.transport, _Progress(), resumed=not is_packed)

        return reply.headers.get("content-type", "application/octet-stream").partition(";")[0], content()

    @contextmanager
    def _followed(self, url: str, headers: dict[str, str], *, with_token: bool) -> Iterator[Opened]:
        """An open download, after redirects and at most two token renewals."""
        stale, renewed = "", 0
        for _ in range(8):
            token = self.requests.login.token(stale=stale) if with_token else ""
            sent = headers | ({"Authorization": f"Bearer {token}"} if token else {})
            with self.requests.open.opened(url, path=_PATH, headers=sent) as (reply, stream):
                if reply.status in (200, 206) or (reply.status == 416 and "Range" in headers):
                    yield reply, stream
                    return
            if reply.status in MOVED and reply.headers.get("location"):
                # The redirect's target may belong to anyone (often a signed storage link): it gets no token.
                url, with_token = absolute(url, reply.headers["location"]), False
            elif reply.status == 401 and with_token and renewed < 2:
                stale, renewed = token, renewed + 1
            elif reply.status in (401, 403, 404, 410):
                raise LinkExpired(f"A file's link has expired ({reply.status}).")
            else:
                raise reply.error()
        raise PermanentError("Too many redirects.", service=SERVICE, method="GET", path=_PATH)


@dataclass
class _Progress:
    """What was passed on of a file, so that a later attempt resumes there.

    The digest detects a changed file, even if several servers use different ETags.
    """

    done: int = 0
    digest: hashlib.blake2b = field(default_factory=hashlib.blake2b)
    resumable: bool = True
    total: int = 0  # bytes of the whole file, from the answer to a range request
    version: tuple[str, str, str] = ("", "", "")
    condition: str = ""  # the ETag with which only the same version answers a range request


def _version(reply: Answer) -> tuple[str, str, str]:
    """ETag, Last-Modified and size of a file, as far as the server states them."""
    headers = reply.headers
    size = headers.get("content-range", "").rpartition("/")[2]
    if not size and not _encoding(reply):
        size = headers.get("content-length", "")
    etag = headers.get("etag", "").removeprefix("W/")  # compression weakens a tag
    return etag, headers.get("last-modified", ""), size if size.isdecimal() else ""


def _unpacked(
    reply: Answer, stream: Iterator[bytes], transport: Transport, progress: _Progress, *, resumed: bool
) -> Iterator[bytes]:
    """The decompressed bytes. PermanentError for an encoding that was not requested."""
    encoding = _encoding(reply)
    if encoding and encoding not in _PACKINGS:
        raise PermanentError(
            "It has a content encoding that was not requested.", service=SERVICE, method="GET", path=_PATH
        )
    if resumed:
        return stream
    first, stream = _start(stream)
    layers = 0
    # A gzip file may be compressed again in transit, and not every server names the encoding.
    while first.startswith(_GZIP) and layers < _LAYERS:
        first, stream = _start(_inflated(stream, zlib.MAX_WBITS | 16, transport))
        layers += 1
    if encoding == "deflate" and not layers:
        # Some servers omit the zlib header: https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1.2
        has_header = len(first) > 1 and first[0] & 15 == 8 and int.from_bytes(first[:2]) % 31 == 0
        stream = _inflated(stream, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS, transport)
    progress.resumable &= not layers and encoding != "deflate"
    return stream


def _encoding(reply: Answer) -> str:
    named = reply.headers.get("content-encoding", "").strip().lower()
    return "" if named == "identity" else named


def _start(stream: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a stream, at least two if available, and the stream with them."""
    first = b""
    while len(first) < 2 and (more := next(stream, None)) is not None:
        first += more
    return first, chain((first,), stream)


def _inflated(stream: Iterator[bytes], window: int, transport: Transport) -> Iterator[bytes]:
    """Each member of a compressed stream, in bounded chunks: a small file may expand to a huge one."""
    unpacker = zlib.decompressobj(window)
    try:
        for chunk in stream:
            data = chunk
            while data:
                yield unpacker.decompress(data, 1 << 20)
                data = unpacker.unconsumed_tail
                if unpacker.eof and unpacker.unused_data:
                    data, unpacker = unpacker.unused_data, zlib.decompressobj(window)
        yield unpacker.flush()
    except zlib.error as fault:
        raise transport.lost("GET", _PATH, sent=True) from fault
    if not unpacker.eof:
        raise transport.lost("GET", _PATH, sent=True)
