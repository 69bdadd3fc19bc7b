"""``medplum-bots new`` and ``new-project``: create a working bot, or a project for a team's own bots."""

from __future__ import annotations

import json
import re
from importlib import metadata, resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from bot_layer.bot.collection import BUNDLED, configured
from bot_layer.errors import InputError

app = typer.Typer()
_TEMPLATES = resources.files("bot_layer.cli") / "templates"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_BOT_FILES = {
    "bot.py": "{package}/{stem}.py",
    "operation_definition.json": "operation_definitions/{stem}.json",
    "patient.json": "fixtures/{stem}/example/patient.json",
    "answer.json": "fixtures/{stem}/example/answer.json",
    "test.py": "tests/test_{stem}.py",
}
_PROJECT_FILES = {
    "pyproject.toml": "pyproject.toml",
    "Makefile": "Makefile",
    "ci.yml": ".github/workflows/test.yml",
    "gitignore": ".gitignore",
    "README.md": "README.md",
    "init.py": "{package}/__init__.py",
}


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the bot in kebab case, e.g. say-hello.")],
    folder: Annotated[
        Path, typer.Option("--project", metavar="FOLDER", help="The project that the bot is added to.")
    ] = Path(),
) -> None:
    """Add a working bot to a project: its module, OperationDefinition, fixture and test."""
    _require_name(name, "bot")
    _write(folder, _BOT_FILES, _values(name, _package_of(folder)))
    typer.echo(f"Added {name}. Run its tests with `make test`, or try it with `medplum-bots invoke {name} --sandbox`.")


@app.command("new-project")
def new_project(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that does not exist yet, or is empty.")],
    bot: Annotated[str, typer.Option("--bot", metavar="NAME", help="Name of the first bot.")] = "say-hello",
) -> None:
    """Create a project for a team's own bots, with one bot, its test, a Makefile and a CI file."""
    name = folder.resolve().name.lower().replace("_", "-")
    _require_name(name, "project")
    _require_name(bot, "bot")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: choose another folder.", code="folder-not-empty")
    package = f"{name.replace('-', '_').removesuffix('_bots')}_bots"
    tools = {"requirement": _requirement(), "tools": _requirement("[host,sandbox]")}
    _write(folder, _PROJECT_FILES | _BOT_FILES, _values(bot, package) | {"project": name, **tools})
    typer.echo(f"Made {folder} with the bot {bot}. Next: cd {folder} && make test")


def _require_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name} cannot be the name of a {what}: use lower-case letters, digits and single hyphens, "
            "beginning with a letter.",
            code="invalid-name",
        )


def _package_of(folder: Path) -> str:
    """The package of a project's own bots: the first folder that its pyproject.toml names."""
    for name in configured(folder):
        if name != BUNDLED and Path(name).is_dir():
            return Path(name).name
    raise InputError(
        "There is no folder of bots here: name one in [tool.medplum-bots] bots of pyproject.toml, or make a project "
        "with `medplum-bots new-project FOLDER`.",
        code="no-project",
    )


def _values(name: str, package: str) -> dict[str, str]:
    return {
        "name": name,
        "stem": name.replace("-", "_"),
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "package": package,
        "collection": package.replace("_", "-"),
    }


def _write(folder: Path, files: dict[str, str], values: dict[str, str]) -> None:
    """Write every file, or none if one of them exists."""
    targets = {template: folder / path.format_map(values) for template, path in files.items()}
    existing = [str(path) for path in targets.values() if path.exists()]
    if existing:
        raise InputError(f"These files already exist: {', '.join(existing)}.", code="file-exists")
    for template, path in targets.items():
        text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(values), encoding="utf-8")


def _requirement(extras: str = "") -> str:
    """The new project's dependency: the source of this installation (a wheel, a folder), else its version."""
    name, installed = f"medplum-python-bots{extras}", metadata.distribution("medplum-python-bots")
    source = json.loads(installed.read_text("direct_url.json") or "{}").get("url")
    return f"{name} @ {source}" if source else f"{name}>={installed.version}"
