"""The body of an answer as it arrives. A body that comes too slowly is ended: each byte would restart its timeout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import requests

from bot_layer.http import deadline

_PIECE: Final = 256 * 1024
_GRACE_SECONDS: Final = 120.0
_LEAST_BYTES_A_SECOND: Final = 1000


def pieces(
    response: requests.Response, *, decode: bool = True, clock: Callable[[], float] = time.monotonic
) -> Iterator[bytes]:
    """The body in pieces of at most 256 KB, unpacked if ``decode``; TimeoutError where it comes too slowly."""
    # One read of the socket each: waiting until a piece is full could take forever.
    return paced(iter(lambda: response.raw.read1(_PIECE, decode_content=decode) or b"", b""), clock=clock)


def paced(body: Iterable[bytes], *, clock: Callable[[], float] = time.monotonic) -> Iterator[bytes]:
    """The pieces of a body as they come.

    Raises TimeoutError after two minutes of waiting, plus one second for each 1,000 bytes received, or at the deadline.
    The time that the caller takes between two pieces does not count, but for the deadline.
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
            raise TimeoutError("The answer arrives too slowly.")
        if deadline.left() <= 0:
            raise TimeoutError("The time of this call has ended.")
        yield piece
