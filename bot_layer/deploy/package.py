"""One zip for each bot, as AWS Lambda takes it: the bot, the modules that it imports, and the libraries of those.

The same input makes the same bytes: files in order, one date, no caches. Imports are read from the source, so that what
a function imports late is there too. https://docs.aws.amazon.com/lambda/latest/dg/python-package.html
"""

from __future__ import annotations

import ast
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from bot_layer.bot.declaration import Bot
from bot_layer.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES: Mapping[str, str] = {"x86_64": "manylinux2014_x86_64", "arm64": "manylinux2014_aarch64"}
LARGEST = 50 * 1024 * 1024
_PROJECT = "medplum-python-bots"
_OWN = ("bots", "bot_layer")
_DATE = (1980, 1, 1, 0, 0, 0)
_MAIN = '"""The entry point of {name}."""\n\nfrom bot_layer.host.aws_lambda import entry\n\nhandler = entry("{name}")\n'
# Records of how a library was installed differ from machine to machine.
_LEFT_OUT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")


def package(bot: Bot, folder: Path, *, architecture: str = "x86_64") -> Path:
    """The zip of a bot for an architecture; libraries for this machine's own come from where they are installed."""
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"Choose an architecture: {', '.join(ARCHITECTURES)}.", code="unknown-architecture")
    own, imported = closure(f"bots.{bot.stem}", "bot_layer.host.aws_lambda")
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in own}
    files["main.py"] = _MAIN.format(name=bot.name).encode()
    operation = ROOT / "operation_definitions" / f"{bot.stem}.json"
    if operation.is_file():
        files[f"operation_definitions/{operation.name}"] = operation.read_bytes()
    files |= _libraries(distributions(imported), architecture)
    target = folder / f"{bot.name}-{architecture}.zip"
    folder.mkdir(parents=True, exist_ok=True)
    _write(target, files)
    if target.stat().st_size > LARGEST:
        raise ConfigError(f"The package of {bot.name} is larger than Lambda accepts (50 MB).", code="package-too-large")
    return target


def closure(*modules: str) -> tuple[list[Path], set[str]]:
    """The project's own files that the modules need, and the names of the other top-level modules that they import."""
    waiting, files, others = list(modules), {}, set[str]()
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if path is None or path in files:
            continue
        files[path] = name
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        for imported in _imports(path):
            if imported.partition(".")[0] in _OWN:
                waiting.append(imported)
            else:
                others.add(imported.partition(".")[0])
    return sorted(files), others - set(sys.stdlib_module_names)


def distributions(imported: Iterable[str]) -> list[metadata.Distribution]:
    """The installed libraries of the imported modules, with all that they require, by name."""
    providers = _providers()
    direct = {
        requirement.name.lower(): requirement for requirement in map(Requirement, metadata.requires(_PROJECT) or [])
    }
    waiting = [
        (name, frozenset(direct[name.lower()].extras if name.lower() in direct else ()))
        for module in sorted(imported)
        for name in providers.get(module, [])[:1]
    ]
    found: dict[str, metadata.Distribution] = {}
    while waiting:
        name, extras = waiting.pop()
        distribution = metadata.distribution(name)
        if distribution.name in found:
            continue
        found[distribution.name] = distribution
        for line in distribution.requires or []:
            requirement = Requirement(line)
            wanted = [{"extra": extra} for extra in ("", *extras)]
            if requirement.marker is None or any(requirement.marker.evaluate(each) for each in wanted):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return [found[name] for name in sorted(found)]


@cache
def _providers() -> Mapping[str, list[str]]:
    """Which installed libraries bring each top-level module: a look at every file of theirs."""
    return metadata.packages_distributions()


def _libraries(wanted: list[metadata.Distribution], architecture: str) -> dict[str, bytes]:
    here = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
    if sys.platform == "linux" and here.get(platform.machine().lower()) == architecture:
        return {name: path.read_bytes() for one in wanted for name, path in _installed(one)}
    with tempfile.TemporaryDirectory() as folder:
        _download(wanted, architecture, folder)
        root = Path(folder)
        paths = ((path.relative_to(root).as_posix(), path) for path in sorted(root.rglob("*")) if path.is_file())
        return {name: path.read_bytes() for name, path in paths if _belongs(name)}


def _installed(distribution: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    for file in distribution.files or []:
        name = file.as_posix()
        path = Path(str(distribution.locate_file(file)))
        if _belongs(name) and path.is_file():
            yield name, path


def _download(wanted: list[metadata.Distribution], architecture: str, folder: str) -> None:
    """The same versions, built for the other architecture."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = Path(folder).with_suffix(".requirements")
    pinned.write_text("".join(_pin(one) for one in wanted), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:"),
        *("--platform", ARCHITECTURES[architecture], "--python-version", version, "--target", folder),
        *("--requirement", str(pinned)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # pip, with names of our own
    pinned.unlink()
    if done.returncode != 0:
        raise ConfigError(f"pip cannot install the libraries for {architecture}.", code="libraries-missing")


def _pin(distribution: metadata.Distribution) -> str:
    """A library as pip is asked for it: by the lock file's hashes, where there is one that has this version."""
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
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            archive.writestr(entry, files[name])


def _file_of(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file may import, wherever in it, but not those for the type checker alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)
