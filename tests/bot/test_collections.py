"""Collections: where bots come from, and the errors of a broken collection."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot_layer.bot.collection import BUNDLED, configured, load
from bot_layer.errors import BotError, ConfigError, InputError

BOT = """
from bot_layer.bot.declaration import Bot
from bot_layer.bot.handler import Handler

def act(event):
    return {{"resourceType": "Parameters"}}

handler = Handler(Bot("{name}", "{identifier}", "greets"), act)
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes a package of bots; its modules are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)

    def folder(name: str, **modules: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        for stem, text in modules.items():
            (root / f"{stem}.py").write_text(text, encoding="utf-8")
        return root

    yield folder
    for added in set(sys.modules) - before:
        del sys.modules[added]
    sys.path[:] = path


def greeter(name: str = "say-hello", identifier: str = "clinic/say-hello") -> str:
    return BOT.format(name=name, identifier=identifier)


def test_without_a_name_the_bundled_bots_are_loaded() -> None:
    """The bundled bots are one collection among others, under the name of their entry point."""
    assert load().handlers == load(BUNDLED).handlers == load("bots").handlers
    assert load().names == (BUNDLED,)


def test_a_folder_is_a_collection_with_its_definitions_in_it_or_next_to_it(write: Write) -> None:
    """`operation_definitions` is searched in the folder of the bots, then beside it."""
    folder = write("collections_beside", say_hello=greeter(), say_bye=greeter("say-bye", "clinic/say-bye"))
    beside, inside = folder.parent / "operation_definitions", folder / "operation_definitions"
    for definitions, stem in ((beside, "say_hello"), (inside, "say_bye")):
        definitions.mkdir()
        (definitions / f"{stem}.json").write_text('{"resourceType": "OperationDefinition", "code": "x"}')
    found = load(str(folder))
    assert sorted(found.handlers) == ["say-bye", "say-hello"]
    assert set(found.origins.values()) == {"collections_beside"}
    assert all(handler.operation is not None for handler in found)


def test_several_collections_are_one_list(write: Write) -> None:
    """A team's bots are served together with the bundled ones."""
    folder = write("collections_joined", say_hello=greeter())
    both = load(BUNDLED, str(folder))
    assert set(both.handlers) == {*load().handlers, "say-hello"}
    assert (both.origins["say-hello"], both.origins["sync-location"]) == ("collections_joined", BUNDLED)
    assert both.names == (BUNDLED, "collections_joined")


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ({"say_hello": "x = 1"}, "no handler"),
        ({"say_hullo": greeter()}, "name the file say_hello.py"),
        ({"a_bot": greeter("a-bot"), "b_bot": greeter("b-bot")}, "share the identifier"),
    ],
)
def test_a_broken_collection_is_named_in_one_line(write: Write, modules: dict[str, str], said: str) -> None:
    """The message says which module it is and what to do."""
    folder = write(f"collections_broken_{len(said)}", **modules)
    with pytest.raises(ConfigError, match=said) as caught:
        load(str(folder))
    assert (caught.value.code, "\n" in caught.value.message) == ("broken-collection", False)


@pytest.mark.parametrize("name", ["no_such_package", "./no-such-folder", "json.decoder"])
def test_a_collection_that_does_not_exist_is_an_input_error(name: str) -> None:
    """The message lists the collections that are installed."""
    with pytest.raises(InputError) as caught:
        load(name)
    assert caught.value.code == "unknown-collection"


def test_a_missing_dependency_of_a_package_is_not_called_a_missing_collection(write: Write) -> None:
    """Otherwise the reader would look for the wrong thing."""
    folder = write("collections_dependency", __init__="import no_such_dependency_anywhere")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency_anywhere"):
        load(str(folder))


def test_an_unknown_bot_is_answered_with_the_nearest_name() -> None:
    """And with every name that there is."""
    with pytest.raises(BotError, match=r"Did you mean sync-practitioner\?.*Known bots: .*sync-location"):
        load().named("sync-practicioner")


def test_pyproject_names_the_collections_of_a_project(tmp_path: Path) -> None:
    """Folders are relative to the file; other names stay as they are; without the table all installed ones serve."""
    (tmp_path / "clinic_bots").mkdir()
    assert configured(tmp_path) == (BUNDLED,)
    (tmp_path / "pyproject.toml").write_text('[tool.medplum-bots]\nbots = ["clinic_bots", "bundled"]\n')
    assert configured(tmp_path) == (str(tmp_path / "clinic_bots"), "bundled")
    (tmp_path / "pyproject.toml").write_text('[tool.medplum-bots]\nbots = "clinic_bots"\n')
    with pytest.raises(ConfigError, match="list"):
        configured(tmp_path)
