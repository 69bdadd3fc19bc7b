"""The tables of codes in the docs, as the status page shows them.

``python -m tests.codes`` writes them to bot_layer/codes.json. A code that is on several pages is explained as on the
first one: the host's own page, then those of the bots.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("deploy", "health-gorilla", "patients", "practice-fusion")
FILE = ROOT / "bot_layer" / "codes.json"
_TABLE = re.compile(r"^\| code \|.*\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE)


def explained() -> dict[str, str]:
    """The sentences of each code."""
    found: dict[str, str] = {}
    for page in PAGES:
        for rows in _TABLE.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")):
            for row in rows.splitlines():
                named, *texts = row.strip("| ").split(" | ")
                for code in re.findall(r"`([^`]+)`", named):
                    found.setdefault(code, " ".join(map(_sentence, texts)))
    return dict(sorted(found.items()))


def _sentence(text: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").strip().removesuffix(".")
    return f"{plain[:1].upper()}{plain[1:]}{'' if plain.endswith('?') else '.'}"


if __name__ == "__main__":
    FILE.write_text(json.dumps(explained(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
