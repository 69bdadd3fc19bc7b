"""Medplum's own JavaScript client and command line, and pymedplum, do their work on the sandbox.

``npm ci`` in this folder installs them; ``.ci/run`` does so. Without npm and without the folder they are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymedplum import MedplumClient

from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.medplum.vmcontext import bundled_node

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
IN_CI = bool(os.environ.get("CI"))


@pytest.fixture(scope="module")
def modules() -> Path:
    """The installed packages; installed now if npm is available and the lock file can be used."""
    if not (MODULES / "@medplum" / "cli").is_dir():
        npm = shutil.which("npm")
        if npm is None and not IN_CI:
            pytest.skip("npm is missing: it installs Medplum's JavaScript client and command line")
        assert npm is not None, "npm is missing"
        done = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund"], cwd=HERE, capture_output=True, text=True, check=False
        )
        if done.returncode != 0 and not IN_CI:
            pytest.skip("npm can't install Medplum's client here (no network?)")
        assert done.returncode == 0, done.stderr
    return MODULES


@pytest.fixture
def sandbox() -> Iterator[MedplumSandbox]:
    with MedplumSandbox() as server:
        yield server


def _bot(sandbox: MedplumSandbox, client: MedplumClient) -> str:
    made = client.post(f"admin/projects/{sandbox.project_id}/bot", {"name": "hello", "runtimeVersion": "vmcontext"})
    return str(made["id"])


def _login(sandbox: MedplumSandbox) -> MedplumClient:
    return MedplumClient(
        sandbox.base_url, client_id=sandbox.client_id, client_secret=sandbox.client_secret, allow_insecure_http=True
    )


def test_medplums_client_and_command_line_work(sandbox: MedplumSandbox, modules: Path, tmp_path: Path) -> None:
    """``bot deploy`` puts a bot there; the client signs in, creates, updates, patches, batches, pages and calls it."""
    client = _login(sandbox)
    bot = _bot(sandbox, client)
    (tmp_path / "hello.js").write_text("exports.handler = async (medplum, event) => ({ got: event.input });\n")
    config = {"bots": [{"name": "hello", "id": bot, "source": "hello.js", "dist": "hello.js"}]}
    (tmp_path / "medplum.config.json").write_text(json.dumps(config))
    # Medplum requires a newer Node than distributions have: the tests use the one that is installed for bots.
    newer = [str(Path(found).parent)] if (found := bundled_node()) else []
    environ = {
        "PATH": os.pathsep.join([str(modules / ".bin"), *newer, os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "MEDPLUM_BASE_URL": sandbox.base_url,
        "MEDPLUM_CLIENT_ID": sandbox.client_id,
        "MEDPLUM_CLIENT_SECRET": sandbox.client_secret,
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    deployed = run("medplum", "bot", "deploy", "hello")
    assert "deployed: 1" in deployed
    listed = json.loads(run("medplum", "get", "Bot?name=hello"))
    assert [entry["resource"]["id"] for entry in listed["entry"]] == [bot]

    login = (sandbox.base_url, sandbox.client_id, sandbox.client_secret)
    seen = json.loads(run("node", str(HERE / "client.mjs"), *login, bot))
    assert seen == {
        "signedInAs": "ClientApplication",
        "createdOnce": True,
        "newVersion": True,
        "patched": False,
        "history": 3,
        "batch": ["201", "201", "201", "201"],
        "pages": [2, 2, 1],
        "bot": {"got": {"hello": "world"}},
        "notFound": "not-found",
    }


def test_pymedplum_does_the_same(sandbox: MedplumSandbox) -> None:
    """Sign in, create, search pages, batch, deploy and execute a bot with pymedplum."""
    client = _login(sandbox)
    entries = [
        {"request": {"method": "POST", "url": "Patient"}, "resource": {"resourceType": "Patient", "active": True}}
        for _ in range(5)
    ]
    answers = client.execute_batch({"resourceType": "Bundle", "type": "batch", "entry": entries})
    assert [entry["response"]["status"] for entry in answers["entry"]] == ["201"] * 5
    found = list(client.search_resource_pages("Patient", {"_count": "2"}))
    assert len({patient["id"] for patient in found}) == 5
    bot = _bot(sandbox, client)
    client.deploy_bot(bot, "exports.handler = async (medplum, event) => ({ got: event.input });\n", "index.js")
    assert client.execute_bot(bot, {"hello": "world"}) == {"got": {"hello": "world"}}
