"""Files of an export, and documents: streamed, decompressed, and resumed after an interrupted download.

The token is sent only to the host that it was issued for, whatever a manifest says, and never to a redirect's target.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from bot_layer.bulk_sync.rules import bulk_export
from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.file_version import FileVersion, file_version
from bot_layer.bulk_sync.source.hosts import FileRefused, absolute
from bot_layer.bulk_sync.source.keeper import Keeper
from bot_layer.bulk_sync.source.requests import BUSY, MOVED, SERVICE, AuthorizedRequests, OpenRequests, refused
from bot_layer.errors import BotError, TransientError
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
        """The bytes of a file from ``_chunks``, also written to the folder if files are to be kept."""
        chunks = self._chunks(file, requires_token=requires_token)
        return chunks if self.keeper is None else self.keeper.kept(file, chunks)

    def _chunks(self, file: ExportFile, *, requires_token: bool | None) -> Iterator[bytes]:
        """The decompressed bytes of a file; an interrupted download is resumed, or restarted and skipped to its
        position.

        Only the source's own host gets the token, unless the manifest says that none is required. FileChanged if the
        file changed during the download.
        """
        requires_token = requires_token is not False and self.requests.is_own(file.url)
        tools = self.requests.open
        progress, failures = _Progress(), 0
        while True:
            before = progress.done
            try:
                yield from self._from(file, progress, requires_token=requires_token)
            except FileChanged:
                raise
            except TransientError as fault:
                failures = 1 if progress.done > before else failures + 1
                if failures >= tools.tries:
                    raise
                tools.wait(tools.pause(failures, fault.retry_after))
            else:
                return

    def _from(self, file: ExportFile, progress: _Progress, *, requires_token: bool) -> Iterator[bytes]:
        headers = {"Accept": bulk_export.NDJSON_TYPE, "Accept-Encoding": "gzip"}
        offset = progress.done
        if offset and progress.resumable:
            # A range counts compressed bytes, so only the uncompressed form can be resumed.
            headers |= {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"} | progress.version.condition
        skip, begin = offset, 0
        with ExitStack() as stack:
            reply, stream = self._followed(stack, file.url, headers, with_token=requires_token)
            if reply.is_page:
                raise TransientError("A page came in place of a file.", service=SERVICE, method="GET", path=_PATH)
            if reply.status != 200:
                begin = self._begin(reply, progress)
                skip = offset - begin
            if not offset:
                progress.version = file_version(reply.headers)
            passed = hashlib.blake2b()
            for chunk in _unpacked(reply, stream, self.requests.open.transport, progress, resumed=bool(begin)):
                head, kept = chunk[:skip], chunk[skip:]
                skip -= len(head)
                passed.update(head)
                if head and not skip and not begin and passed.digest() != progress.digest.digest():
                    raise FileChanged("A file changed while it was read.", service=SERVICE, method="GET", path=_PATH)
                if kept:
                    progress.hand_on(kept)
                    yield kept
        if skip or progress.done < progress.total:
            raise self._lost()  # less than was received before the interruption, or only a part of the range

    def _begin(self, reply: Answer, progress: _Progress) -> int:
        """The offset where the answer to a range request begins. After 416, another version or another unusable answer,
        ranges are not requested again."""
        match = _RANGE.match(reply.headers.get("content-range", ""))
        same = not file_version(reply.headers).differs(progress.version)
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
        stack = ExitStack()
        reply, stream = self._followed(
            stack, place, {"Accept": accept, "Accept-Encoding": "gzip"}, with_token=self.requests.is_own(place)
        )

        def bytes_() -> Iterator[bytes]:
            with stack:
                yield from _unpacked(
                    reply, stream, self.requests.open.transport, _Progress(), resumed=not _encoding(reply)
                )

        return reply.headers.get("content-type", "application/octet-stream").partition(";")[0], bytes_()

    def _followed(self, stack: ExitStack, url: str, headers: dict[str, str], *, with_token: bool) -> Opened:
        """An open download, after redirects and at most two token renewals; the stack closes it."""
        stale, renewed = "", 0
        for _ in range(8):
            token = self.requests.login.token(stale=stale) if with_token else ""
            sent = headers | ({"Authorization": f"Bearer {token}"} if token else {})
            reply, stream = stack.enter_context(self.requests.open.opened(url, path=_PATH, headers=sent))
            if reply.status in (200, 206) or (reply.status == 416 and "Range" in headers):
                return reply, stream
            stack.close()
            if reply.status in MOVED and reply.headers.get("location"):
                # The redirect's target may belong to anyone (often a signed storage link): it gets no token.
                url, with_token = absolute(url, reply.headers["location"]), False
            elif reply.status == 401 and with_token and renewed < 2:
                stale, renewed = token, renewed + 1
            else:
                raise _unreadable(reply, self.requests.open)
        raise FileRefused("Too many redirects.", service=SERVICE, method="GET", path=_PATH)


@dataclass
class _Progress:
    """The decompressed part of a file that was delivered, and whether a range request can get the rest."""

    done: int = 0
    digest: hashlib.blake2b = field(default_factory=hashlib.blake2b)
    resumable: bool = True
    total: int = 0  # bytes of the whole file, from the answer to a range request
    version: FileVersion = field(default_factory=FileVersion)

    def hand_on(self, chunk: bytes) -> None:
        """Count a chunk. Its digest detects a changed file, even if several servers use different ETags."""
        self.done += len(chunk)
        self.digest.update(chunk)


def _unreadable(reply: Answer, tools: OpenRequests) -> BotError:
    if reply.status in BUSY:
        return TransientError(
            f"A file was answered {reply.status}.",
            service=SERVICE,
            status=reply.status,
            method="GET",
            path=_PATH,
            retry_after=tools.asked_to_wait(reply),
        )
    if reply.status in (401, 403, 404, 410):
        return LinkExpired(f"A file's link is no longer good ({reply.status}).")
    return refused(reply, _PATH)


def _unpacked(
    reply: Answer, stream: Iterator[bytes], transport: Transport, progress: _Progress, *, resumed: bool
) -> Iterator[bytes]:
    """The decompressed bytes. FileRefused for an encoding that was not requested."""
    encoding = _encoding(reply)
    if encoding and encoding not in _PACKINGS:
        raise FileRefused("It is packed in a way that was not asked for.", service=SERVICE, method="GET", path=_PATH)
    first = _start(stream)
    if resumed:
        return _chained(first, stream)
    layers = 0
    # A gzip file may be compressed again in transit, and not every server names the encoding.
    while first.startswith(_GZIP) and layers < _LAYERS:
        progress.resumable = False
        stream = _inflated(_chained(first, stream), zlib.MAX_WBITS | 16, transport)
        first, layers = _start(stream), layers + 1
    if encoding == "deflate" and not layers:
        progress.resumable = False
        # Some servers omit the zlib header: https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1.2
        has_header = len(first) > 1 and first[0] & 15 == 8 and int.from_bytes(first[:2]) % 31 == 0
        return _inflated(_chained(first, stream), zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS, transport)
    return _chained(first, stream)


def _encoding(reply: Answer) -> str:
    named = reply.headers.get("content-encoding", "").strip().lower()
    return "" if named == "identity" else named


def _start(stream: Iterator[bytes]) -> bytes:
    """The first bytes, at least two if available."""
    first = next(stream, b"")
    while 0 < len(first) < 2 and (more := next(stream, b"")):
        first += more
    return first


def _inflated(stream: Iterator[bytes], window: int, transport: Transport) -> Iterator[bytes]:
    """Each member of a compressed stream, in bounded chunks: a small file may expand to a huge one."""
    unpacker = zlib.decompressobj(window)
    try:
        for chunk in stream:
            data = chunk
            while data:
                yield from _nonempty(unpacker.decompress(data, 1 << 20))
                data = unpacker.unconsumed_tail
                if unpacker.eof and unpacker.unused_data:
                    data, unpacker = unpacker.unused_data, zlib.decompressobj(window)
        yield from _nonempty(unpacker.flush())
    except zlib.error as fault:
        raise transport.lost("GET", _PATH, sent=True) from fault
    if not unpacker.eof:
        raise transport.lost("GET", _PATH, sent=True)


def _chained(first: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    yield from _nonempty(first)
    yield from stream


def _nonempty(data: bytes) -> Iterator[bytes]:
    if data:
        yield data
