"""What every test begins with."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _no_handler_outlives_its_stream() -> None:
    """A command run in an earlier test may have left a log handler whose stream went with that test."""
    for logger in (logging.getLogger(), logging.getLogger("dbos")):
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "closed", False):
                logger.removeHandler(handler)
