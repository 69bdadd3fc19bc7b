"""A partner that answers no request until a test lets it."""

from __future__ import annotations

import threading


class Gate:
    """Holds a partner's requests back until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, _method: str, _path: str) -> bool:
        assert self.open.wait(240)
        return False
