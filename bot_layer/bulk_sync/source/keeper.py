"""Keeps the original files of an export, its manifests, and a log in a folder, for audits.

The log has the format of SMART's bulk-data-client: one JSON object a line with ``exportId``, ``timestamp``, ``eventId``
and ``eventDetail`` (https://github.com/smart-on-fhir/bulk-data-client#logs).
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bot_layer.bulk_sync.rules.bulk_export import Complete, ExportFile, Failed, Wait
from bot_layer.bulk_sync.rules.run_state import Job
from bot_layer.bulk_sync.source.hosts import shown
from bot_layer.errors import BotError, ConfigError
from bot_layer.fhir.json import Json

_FOLDERS: Final = {"output": "", "deleted": "deleted/", "error": "error/"}


@dataclass
class Keeper:
    """Keeps what one command exports. Thread-safe."""

    folder: Path
    export_id: str
    clock: Callable[[], float]
    _names: dict[str, str] = field(default_factory=dict)
    _turns: Counter[str] = field(default_factory=Counter)
    _total: dict[str, int] = field(default_factory=lambda: {"files": 0, "resources": 0, "bytes": 0})
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._began = self.clock()
        try:
            for each in _FOLDERS.values():
                (self.folder / each).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as fault:
            raise ConfigError(
                "The folder of --keep cannot be created.", code="wrong-settings", missing=["--keep"]
            ) from fault

    def kickoff(self, url: str, job: Job, *, refused: str = "", status: int = 0) -> None:
        """Log a kick-off; ``refused`` is the source's reason."""
        parameters = {"_type": ",".join(job.types), "_since": job.since, "level": job.level}
        detail: Json = {"exportUrl": shown(url), "requestParameters": parameters}
        self._log("kickoff", detail | {"errorCode": status if refused else None, "errorBody": refused or None})

    def status(self, answer: Wait | Complete | Failed, body: bytes) -> None:
        """Log the answer to a status request, and keep a manifest."""
        if isinstance(answer, Wait):
            self._log("status_progress", {"xProgress": answer.progress, "retryAfter": answer.seconds, "body": None})
        elif isinstance(answer, Failed):
            self._log("status_error", {"code": answer.status, "message": answer.reason, "body": None})
        else:
            self._manifest(answer, body)

    def _manifest(self, answer: Complete, body: bytes) -> None:
        manifest = answer.manifest
        with self._lock:
            for each in manifest.files:
                if each.url in self._names:
                    continue
                place = f"{_FOLDERS[each.kind]}{{}}.{re.sub('[^A-Za-z]', '', each.type) or 'unknown'}.ndjson"
                self._turns[place] += 1
                self._names[each.url] = place.format(self._turns[place])
            self._turns["manifest"] += 1
            number = self._turns["manifest"]
            (self.folder / ("manifest.json" if number == 1 else f"manifest.{number}.json")).write_bytes(body)
        counts = {f"{kind}FileCount": sum(each.kind == kind for each in manifest.files) for kind in _FOLDERS}
        self._log("status_complete", {"transactionTime": manifest.transaction_time})
        self._log("status_page_complete", {"transactionTime": manifest.transaction_time} | counts)

    def kept(self, file: ExportFile, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks, also written to the folder; an interrupted download leaves no file."""
        path = self.folder / self._names.get(file.url, f"{file.type}.ndjson")
        part = path.with_name(f"{path.name}.{threading.get_ident()}.part")
        self._log("download_request", {"fileUrl": shown(file.url), "itemType": file.kind})
        size = lines = 0
        last = b"\n"
        try:
            with part.open("wb") as out:
                for chunk in chunks:
                    out.write(chunk)
                    size, lines, last = size + len(chunk), lines + chunk.count(b"\n"), chunk[-1:] or last
                    yield chunk
            part.replace(path)
        except BotError as fault:
            self._log("download_error", {"fileUrl": shown(file.url), "code": fault.code, "message": fault.message})
            raise
        finally:
            part.unlink(missing_ok=True)
        lines += last != b"\n"
        with self._lock:
            for name, number in (("files", 1), ("resources", lines), ("bytes", size)):
                self._total[name] += number
        self._log("download_complete", {"fileUrl": shown(file.url), "resourceCount": lines, "fileSize": size})

    def complete(self) -> None:
        """Log the end of the export."""
        duration = round((self.clock() - self._began) * 1000)
        self._log("export_complete", {**self._total, "attachments": 0, "duration": duration})

    def _log(self, event: str, detail: dict[str, Any]) -> None:
        moment = datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"exportId": self.export_id, "timestamp": moment, "eventId": event, "eventDetail": detail}
        with self._lock, (self.folder / "log.ndjson").open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
