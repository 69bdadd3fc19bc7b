"""What each extra of the package is enough for: the libraries of the others are hidden, as if not installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ALL = frozenset({"host", "otel", "sandbox", "sync"})
# Runs a command, or imports modules, while the modules of argv[1] are unavailable.
HIDING = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
hidden = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Hidden())
what, *words = sys.argv[2:]
if what == "import":
    import importlib, pkgutil
    for word in words:
        package = importlib.import_module(word)
        for found in pkgutil.walk_packages(getattr(package, "__path__", []), f"{word}."):
            importlib.import_module(found.name)
else:
    sys.argv = ["medplum-bots", *words]
    from bot_layer.cli.main import main
    main()
"""


def libraries(*extras: str) -> set[str]:
    """Names of all libraries that an installation with these extras has."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    waiting, seen, found = [Requirement(line) for line in lines], set[str](), {"packaging"}  # pytest's own too
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        found.add(canonicalize_name(requirement.name))
        for line in metadata.requires(requirement.name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                waiting.append(needed)
    return found


@cache
def modules() -> dict[str, set[str]]:
    """Top-level modules, and the libraries that provide them."""
    return {
        module: {str(canonicalize_name(name)) for name in names}
        for module, names in metadata.packages_distributions().items()
    }


def run(
    extras: frozenset[str], *words: str, code: str = HIDING, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A process in which, of the package's libraries, only those of some extras can be imported."""
    here, everything = libraries(*extras), libraries(*ALL)
    hidden = [module for module, names in modules().items() if names & everything and not names & here]
    return subprocess.run(
        [sys.executable, "-c", code, ",".join(hidden), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )


@pytest.mark.parametrize(
    ("extras", "names"),
    [
        (
            (),
            "bot_layer.bot bot_layer.fhir bot_layer.medplum bot_layer.http bot_layer.health_gorilla bot_layer.cli.main "
            "bot_layer.patient_registration bot_layer.deploy bot_layer.host.aws_lambda bots.sync_practitioner "
            "bot_layer.cli.deploy bot_layer.cli.doctor bot_layer.cli.invoke bot_layer.cli.new bot_layer.cli.keys "
            "bot_layer.cli.adt bot_layer.cli.enroll bot_layer.cli.federated_client bots.federated_documents",
        ),
        (("sync",), "bot_layer.bulk_sync bot_layer.cli.pf_sync bots"),
        (
            ("host",),
            "bot_layer.federation bot_layer.cli.serve bot_layer.cli.runs bot_layer.host.host bot_layer.host.durable "
            "bot_layer.host.catch_up bot_layer.testing",
        ),
        (("host", "otel"), "bot_layer.host"),
        (("sandbox",), "medplum_sandbox"),
        (("sandbox", "host"), "bot_layer.demo.world bot_layer.cli.sandbox"),
    ],
)
def test_modules_import_with_the_libraries_of_their_extra(extras: tuple[str, ...], names: str) -> None:
    """A bot's author needs no extra; the host, the sync and the look-alikes need only their own."""
    done = run(frozenset(extras), "import", *names.split())
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("serve", "--medplum", "http://127.0.0.1:1"), "[host]"),
        (("runs", "list"), "[host]"),
        (("pf-sync", "status"), "[sync]"),
        (("sandbox",), "[host,sandbox]"),
        (("demo",), "[all]"),
    ],
)
def test_a_command_without_its_extra_names_what_to_install(words: tuple[str, ...], wanted: str) -> None:
    """In one line, with exit code 2."""
    done = run(frozenset(), "run", *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.endswith(f": pip install 'medplum-python-bots{wanted}'.\n"), done.stderr


def test_a_library_of_somebody_elses_bot_is_not_ours_to_install(tmp_path: Path) -> None:
    """The message names the library and no extra."""
    (tmp_path / "green_bots").mkdir()
    (tmp_path / "green_bots" / "__init__.py").write_text("")
    (tmp_path / "green_bots" / "say.py").write_text("import no_such_library\nhandler = None\n")
    done = run(frozenset(), "run", "deploy", "--dry-run", "--bots", str(tmp_path / "green_bots"))
    assert done.returncode == 2
    assert "no_such_library" in done.stderr
    assert "[" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_the_look_alikes_plugin_needs_no_other_extra(tmp_path: Path) -> None:
    """pytest loads both plugins with only ``[sandbox]`` installed, and a test has its sandbox."""
    (tmp_path / "test_it.py").write_text(
        "def test_it(medplum, health_gorilla, practice_fusion):\n"
        "    assert medplum.create({'resourceType': 'Patient'})['id']\n"
    )
    plugins = ("-p", "medplum_sandbox.pytest_plugin", "-p", "bot_layer.pytest_plugin", "-p", "no:cacheprovider")
    code = HIDING.replace("from bot_layer.cli.main import main", "import pytest; sys.exit(pytest.main(sys.argv[1:]))")
    words = ("run", "-q", *plugins, str(tmp_path))
    done = run(frozenset({"sandbox"}), *words, code=code, cwd=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_every_library_before_1_0_has_an_upper_bound() -> None:
    """Such a library may change its interface with each release."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for each in ALL for line in extras[each])]
    for requirement in map(Requirement, lines):
        if metadata.version(requirement.name).startswith("0."):
            assert "<" in str(requirement.specifier), requirement


def test_every_imported_library_is_required() -> None:
    """No library is used that only another library requires, except those of pytest's plugins."""
    import grimp  # noqa: PLC0415  # import-linter's own graph: only this test needs it

    graph = grimp.build_graph(
        "bots", "bot_layer", "medplum_sandbox", include_external_packages=True, exclude_type_checking_imports=True
    )
    external = {module.partition(".")[0] for module in graph.modules if graph.is_module_squashed(module)}
    named = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    for extra in ALL:
        named |= {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"][extra]}
    used = {name for module in external & modules().keys() for name in modules()[module]}
    used = {name for name in used if not name.startswith("opentelemetry")}
    named = {name for name in named if not name.startswith("opentelemetry")}
    # PyJWT[crypto] is cryptography; pytest calls the plugins.
    assert used - named <= {"cryptography", "pytest"}
    assert named - used <= {"httptools", "psycopg"}  # loaded by uvicorn, and by name
