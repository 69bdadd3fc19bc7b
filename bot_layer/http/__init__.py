"""The only HTTP code: sessions, limits of size and time, what is repeated, Retry-After, host checks, URL templates."""

from __future__ import annotations

import logging

# These libraries write whole URLs, with the names and birth dates of a search, at levels up to WARNING.
for _name in ("httpcore", "httpx", "requests", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
