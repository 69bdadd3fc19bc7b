"""The body of an answer as it arrives. What only trickles is ended: each byte alone would keep it from timing out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import requests

_PIECE: Final = 256 * 1024
_GRACE_SECONDS: Final = 120.0
_LEAST_BYTES_A_SECOND: Final = 1000


def pieces(
    response: requests.Response, *, decode: bool = True, clock: Callable[[], float] = time.monotonic
) -> Iterator[bytes]:
    """The body in pieces of at most 256 KB, unpacked if ``decode``; TimeoutError where it only trickles."""
    # One read of the socket each: to wait until a piece is full could take for ever.
    return paced(iter(lambda: response.raw.read1(_PIECE, decode_content=decode) or b"", b""), clock=clock)


def paced(body: Iterable[bytes], *, clock: Callable[[], float] = time.monotonic) -> Iterator[bytes]:
    """The pieces of a body as they come.

    Raises TimeoutError after two minutes of waiting, and one more second for each 1,000 bytes that came. The time that
    the caller takes between two pieces does not count.
    """
    waited, received = 0.0, 0
    arriving = iter(body)
    while True:
        began = clock()
        piece = next(arriving, None)
        waited += clock() - began
        if piece is None:
            return
        received += len(piece)
        if waited > _GRACE_SECONDS + received / _LEAST_BYTES_A_SECOND:
            raise TimeoutError("The answer only trickles.")
        yield piece
