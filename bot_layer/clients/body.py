"""The body of an answer as it arrives. What only trickles is ended: each byte alone would keep it from timing out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import requests

_PIECE: Final = 256 * 1024
_GRACE_SECONDS: Final = 120.0
_LEAST_BYTES_A_SECOND: Final = 1000


def pieces(
    response: requests.Response, *, decode: bool = True, clock: Callable[[], float] = time.monotonic
) -> Iterator[bytes]:
    """The body in pieces of at most 256 KB, unpacked if ``decode``.

    Raises requests' ReadTimeout after two minutes of waiting, and one more second for each 1,000 bytes that came. The
    time that the caller takes between two pieces does not count.
    """
    waited, received = 0.0, 0
    while True:
        began = clock()
        # One read of the socket: to wait until a piece is full could take for ever.
        piece = response.raw.read1(_PIECE, decode_content=decode)
        waited += clock() - began
        if not piece:
            return
        received += len(piece)
        if waited > _GRACE_SECONDS + received / _LEAST_BYTES_A_SECOND:
            raise requests.exceptions.ReadTimeout("The answer only trickles.")
        yield piece
