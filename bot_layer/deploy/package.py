"""One zip file for each bot, in AWS Lambda's format: the bot, ``bot_layer``, and the libraries that bots need.

The same input gives the same bytes: sorted files, one date, no caches.
https://docs.aws.amazon.com/lambda/latest/dg/python-package.html
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from bot_layer.bot.declaration import Bot
from bot_layer.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES: Mapping[str, str] = {"x86_64": "manylinux2014_x86_64", "arm64": "manylinux2014_aarch64"}
LARGEST = 50 * 1024 * 1024
_PROJECT = "medplum-python-bots"
_EXTRAS = ("sync",)  # the extras that bots import; the others are for the host and the look-alikes
_MAIN = '"""The entry point of {name}."""\n\nfrom bot_layer.host.aws_lambda import entry\n\nhandler = entry("{name}")\n'
# Records of how a library was installed differ between machines.
_LEFT_OUT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")


def package(bot: Bot, folder: Path, *, architecture: str = "x86_64") -> Path:
    """The zip file of a bot for an architecture; for this machine's own, the installed libraries are copied."""
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"Choose an architecture: {', '.join(ARCHITECTURES)}.", code="unknown-architecture")
    own = [ROOT / "bots" / "__init__.py", ROOT / "bots" / f"{bot.stem}.py", *sorted((ROOT / "bot_layer").rglob("*.py"))]
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in own}
    files["main.py"] = _MAIN.format(name=bot.name).encode()
    operation = ROOT / "operation_definitions" / f"{bot.stem}.json"
    if operation.is_file():
        files[f"operation_definitions/{operation.name}"] = operation.read_bytes()
    files |= _libraries(architecture)
    target = folder / f"{bot.name}-{architecture}.zip"
    folder.mkdir(parents=True, exist_ok=True)
    _write(target, files)
    if target.stat().st_size > LARGEST:
        raise ConfigError(f"The package of {bot.name} is larger than Lambda accepts (50 MB).", code="package-too-large")
    return target


def _libraries_needed() -> list[metadata.Distribution]:
    """The installed libraries that the bots need, with their dependencies, sorted by name."""
    waiting = [Requirement(f"{_PROJECT}[{','.join(_EXTRAS)}]")]
    found: dict[str, metadata.Distribution] = {}
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        distribution = metadata.distribution(requirement.name)
        found[distribution.name] = distribution
        for needed in map(Requirement, distribution.requires or []):
            extras = [{"extra": extra} for extra in ("", *requirement.extras)]
            if needed.marker is None or any(needed.marker.evaluate(each) for each in extras):
                waiting.append(needed)
    del found[_PROJECT]
    return [found[name] for name in sorted(found)]


def _libraries(architecture: str) -> dict[str, bytes]:
    """The files of the libraries: the installed ones on such a machine, else the same versions downloaded for it."""
    wanted = _libraries_needed()
    here = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if sys.platform == "linux" and here.get(platform.machine().lower()) == architecture:
            files = [(file.as_posix(), Path(str(file.locate()))) for one in wanted for file in one.files or ()]
        else:
            _download(wanted, architecture, folder)
            files = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*")]
        return {name: path.read_bytes() for name, path in files if _belongs(name) and path.is_file()}


def _download(wanted: list[metadata.Distribution], architecture: str, folder: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = folder.with_suffix(".requirements")
    pinned.write_text("".join(_pin(one) for one in wanted), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:"),
        *("--platform", ARCHITECTURES[architecture], "--python-version", version, "--target", str(folder)),
        *("--requirement", str(pinned)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # pip, our arguments
    pinned.unlink()
    if done.returncode != 0:
        raise ConfigError(f"pip cannot install the libraries for {architecture}.", code="libraries-missing")


def _pin(distribution: metadata.Distribution) -> str:
    """A library as a pip requirement: with the lock file's hashes, if the lock file has this version."""
    lock = ROOT / "requirements.lock"
    name = re.sub(r"[-_.]+", "-", distribution.name).lower()
    block = rf"^{re.escape(name)}=={re.escape(distribution.version)}(?: ;[^\n]*?)? \\\n((?:    --hash=[^\n]+\n)+)"
    found = re.search(block, lock.read_text(encoding="utf-8"), re.MULTILINE) if lock.is_file() else None
    hashes = found[1].replace("\\\n", "").replace("\n", "") if found else ""
    return f"{name}=={distribution.version}{hashes}\n"


def _belongs(name: str) -> bool:
    parts = name.split("/")
    return not (
        name.startswith(("..", "bin/"))
        or "__pycache__" in parts
        or name.endswith(".pyc")
        or parts[-1] in _LEFT_OUT
        or "tests" in parts[:2]
    )


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            archive.writestr(entry, files[name])
