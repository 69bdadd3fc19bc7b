"""What a stranger does with the built wheel in empty folders: install it, try it, serve, deploy, make a bot.

Not part of ``make test``, because it installs the package three times: ``.ci/run`` runs it by its path.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bot_layer.demo.world import free_port
from tests import processes
from tests.host.process import until

ROOT = Path(__file__).parents[2]
PATIENCE = 300
NOTHING = {"resourceType": "Parameters", "parameter": []}


@dataclass
class Stranger:
    """An empty folder, a virtual environment with the wheel, and the settings of a sandbox if one runs."""

    folder: Path
    binaries: Path
    environ: Mapping[str, str]

    def run(self, *words: str, expect: int = 0, cwd: Path | None = None, given: Mapping[str, str] | None = None) -> str:
        """The output of a command; it must exit with the exit code, and never with a traceback."""
        command = [str(self.binaries / words[0]) if (self.binaries / words[0]).exists() else words[0], *words[1:]]
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env={**self.environ, **(given or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == expect, f"{words}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout

    @contextmanager
    def running(self, *words: str, ready: str, given: Mapping[str, str] | None = None) -> Iterator[str]:
        """A command that runs until SIGTERM, which it obeys; the line that says that it is ready."""
        command = [str(self.binaries / words[0]), *words[1:]]
        process = processes.start(
            command,
            cwd=self.folder,
            env={**self.environ, **(given or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if re.search(ready, line):
                break
        else:
            raise AssertionError("".join(lines))
        yield line
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0


def plain_environment(home: Path) -> dict[str, str]:
    """Nothing of this checkout; the locked versions of the libraries, so that a new release of one fails no run."""
    locked = (line.partition(" ")[0] for line in (ROOT / "requirements-dev.lock").read_text().splitlines())
    constraints = home / "constraints.txt"
    constraints.write_text("\n".join(line for line in locked if re.match(r"[A-Za-z].*==", line)))
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_", "LANG"))}
    paths = {"PATH": os.environ["PATH"], "HOME": str(home), "PIP_CONSTRAINT": str(constraints)}
    return kept | paths | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "COLUMNS": "200"}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """The wheel, built as the docs say, in a new virtual environment."""
    home = tmp_path_factory.mktemp("home")
    environ = plain_environment(home)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(home / "dist")]
    subprocess.run([*build, str(ROOT)], check=True, env=environ, timeout=PATIENCE)
    (wheel,) = (home / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True, timeout=PATIENCE)
    pip = [str(home / "venv" / "bin" / "pip"), "install", "-q", "--no-compile", f"{wheel}[all]"]
    subprocess.run(pip, check=True, env=environ, timeout=PATIENCE)
    folder = home / "empty"
    folder.mkdir()
    return Stranger(folder, home / "venv" / "bin", environ)


@contextmanager
def sandbox(stranger: Stranger, *words: str) -> Iterator[dict[str, Any]]:
    """A running sandbox, and its ready line."""
    ports = ("--port", "0", "--health-gorilla-port", "0", "--practice-fusion-port", "0", "--json")
    with stranger.running("medplum-bots", "sandbox", *ports, *words, ready=r"^\{") as line:
        yield json.loads(line)


def login(ready: dict[str, Any]) -> dict[str, str]:
    """The three settings of a Medplum."""
    medplum = ready["medplum"]
    names = {"MEDPLUM_BASE_URL": "baseUrl", "MEDPLUM_CLIENT_ID": "clientId", "MEDPLUM_CLIENT_SECRET": "clientSecret"}
    return {name: medplum[key] for name, key in names.items()}


def curl(stranger: Stranger, medplum: Mapping[str, str], path: str, body: Any = None) -> Any:
    """An answer of Medplum, requested as the README does."""
    base = medplum["MEDPLUM_BASE_URL"].rstrip("/")
    form = f"client_id={medplum['MEDPLUM_CLIENT_ID']}&client_secret={medplum['MEDPLUM_CLIENT_SECRET']}"
    token = stranger.run("curl", "-s", f"{base}/oauth2/token", "-d", f"grant_type=client_credentials&{form}")
    headers = ("-H", f"Authorization: Bearer {json.loads(token)['access_token']}")
    sent = ("-H", "Content-Type: application/fhir+json", "-d", json.dumps(body)) if body is not None else ()
    return json.loads(stranger.run("curl", "-s", f"{base}/fhir/R4/{path}", *headers, *sent))


def test_version_and_demo(stranger: Stranger) -> None:
    """The wheel contains all that the demo needs."""
    assert re.fullmatch(r"medplum-bots \d+\.\d+\.\d+\n", stranger.run("medplum-bots", "--version"))
    assert "steps as expected" in stranger.run("medplum-bots", "demo")


def test_sandbox_serve_deploy_and_doctor(stranger: Stranger) -> None:
    """The bundled bots, deployed from the wheel; the look-alike calls them on the user's own host."""
    port = str(free_port())
    with sandbox(stranger, "--host-port", port) as ready:
        medplum = login(ready)
        serving = stranger.running("medplum-bots", "serve", "--port", port, ready="Serving ", given=medplum)
        with serving:
            assert "+" in stranger.run("medplum-bots", "deploy", "--dry-run", given=medplum)
            stranger.run("medplum-bots", "deploy", given=medplum)
            doctor = ("medplum-bots", "doctor", "--host", f"http://127.0.0.1:{port}")
            assert "sync-practitioner" in stranger.run(*doctor, given=medplum)
            made = curl(stranger, medplum, "Practitioner", {"resourceType": "Practitioner", "name": [{"family": "A"}]})
            answer = curl(stranger, medplum, f"Practitioner/{made['id']}/$sync-practitioner", NOTHING)
            actions = [each["valueCode"] for each in answer["parameter"] if each["name"] == "action"]
            assert actions == ["refused"], answer  # it has no NPI
            until(lambda: "sync-practitioner" in stranger.run("medplum-bots", "logs"))


def test_a_project_of_ones_own(stranger: Stranger) -> None:
    """Created, tested in its own environment, served on the sandbox, and called with curl."""
    stranger.run("medplum-bots", "new-project", "clinic")
    folder = stranger.folder / "clinic"
    assert "5 passed" in stranger.run("make", "test", cwd=folder)
    own = Stranger(folder, folder / ".venv" / "bin", stranger.environ)
    own.run("medplum-bots", "new", "check-allergies")
    assert "10 passed" in own.run("make", "test", cwd=folder)
    with sandbox(own, "--with-bots", "--host-port", "0") as ready:
        medplum = login(ready)
        made = curl(own, medplum, "Patient", {"resourceType": "Patient", "name": [{"given": ["Ada"]}]})
        answer = curl(own, medplum, f"Patient/{made['id']}/$say-hello", NOTHING)
        texts = [each["valueString"] for each in answer["parameter"] if each["name"] == "text"]
        assert texts
        assert "Ada" in texts[0]


def copied(folder: Path) -> None:
    """The files that the Dockerfile copies, and no others."""
    for line in (ROOT / "packaging" / "Dockerfile").read_text().splitlines():
        if not line.startswith("COPY ") or "--from" in line:
            continue
        *sources, target = line.split()[1:]
        for source in sources:
            here, there = ROOT / source, folder / target
            if here.is_dir():
                shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(here, there)


# A mount namespace in which everything but the data folder ($1) and /tmp is read-only, as with `read_only: true`; then
# another user.
AS_IN_A_CONTAINER = """
mount --make-rprivate / && mount --bind "$1" "$1" && mount --bind / / && mount -o remount,ro,bind / && shift &&
mount -t tmpfs -o mode=1777 tmpfs /var/tmp &&
case "$2" in "$1"/*)  # a Python in root's home, which other users may not enter: nothing else of it is there
  mkdir /var/tmp/python && mount --bind "$2" /var/tmp/python && mount -t tmpfs -o mode=755 tmpfs "$1" &&
  mkdir -p "$2" && mount --bind /var/tmp/python "$2" ;;
esac && shift 2 &&
exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs "$@"
"""


@pytest.fixture
def container(stranger: Stranger) -> Iterator[tuple[Path, Path]]:
    """The folder that the Dockerfile's script installed from the files that it copies, and one for the data."""
    folder = Path(tempfile.mkdtemp(prefix="stranger-"))
    folder.chmod(0o755)  # pytest's own folders are closed to other users
    try:
        (folder / "source").mkdir()
        copied(folder / "source")
        environ = {name: value for name, value in stranger.environ.items() if name != "PIP_CONSTRAINT"}
        place, state = folder / "medplum-bots", folder / "state"
        install = [str(folder / "source" / "packaging" / "install"), str(place)]
        subprocess.run(install, check=True, env=environ | {"PYTHON": sys.executable}, timeout=PATIENCE)
        state.mkdir(mode=0o700)
        os.chown(state, 65534, 65534)
        yield place, state
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root can start a process as another user.")
def test_the_containers_way(container: tuple[Path, Path], stranger: Stranger) -> None:
    """What the Dockerfile runs, without a container: an unprivileged user, a read-only tree, a folder for the data."""
    place, state = container
    port = str(free_port())
    with sandbox(stranger, "--host-port", port) as ready:
        settings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "BOT_STATE_DIR": str(state), "BOT_PORT": port}
        settings |= {**login(ready), "BOT_HOST_INBOX_KEY": "k" * 64}
        inside = Stranger(state.parent, Path("/usr/bin"), settings)
        command = ("unshare", "-m", "sh", "-c", AS_IN_A_CONTAINER, "sh", str(state), str(Path.home()), sys.base_prefix)
        serve = (str(place / "bin" / "run"), "serve", "--host", "0.0.0.0", "--private-network", "--port", port)  # noqa: S104
        inside.run(str(place / "bin" / "health"), expect=1)
        with inside.running(*command, *serve, ready="Serving "):
            inside.run(*command, str(place / "bin" / "health"))
            stranger.run("medplum-bots", "deploy", given=login(ready))
            curl(stranger, login(ready), "Practitioner", {"resourceType": "Practitioner", "name": [{"family": "A"}]})
            runs = (*command, str(place / "bin" / "run"), "runs", "list")
            until(lambda: "sync-practitioner" in inside.run(*runs))
        kept = {path.name for path in state.iterdir()}
        assert "bot-host.sqlite" in kept
        assert all(path.stat().st_uid == 65534 and path.stat().st_mode & 0o077 == 0 for path in state.iterdir())
