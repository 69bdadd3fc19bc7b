"""The files of ``packaging/`` without an engine: the Dockerfile, the compose file and the units fit together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs would serve only this line

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
UNITS = sorted((PACKAGING / "systemd").iterdir())
STATE = "/var/lib/medplum-bots"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, without comments."""
    lines = (PACKAGING / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return [(line.split()[0], line.split(" ", 1)[1]) for line in lines if line and not line.startswith("#")]


def final() -> dict[str, str]:
    """The instructions of the image itself, which starts with the last FROM; the last of each kind counts."""
    found = instructions()
    last = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return dict(found[last:])


def host() -> dict[str, Any]:
    """The host's service of the compose file."""
    compose = yaml.safe_load((PACKAGING / "compose.yaml").read_text(encoding="utf-8"))
    service: dict[str, Any] = compose["services"]["bot-host"]
    return service


def is_command(*words: str) -> bool:
    """True for a command and options that medplum-bots knows."""
    command = [sys.executable, "-m", "bot_layer.cli", *words, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_image_runs_unprivileged_and_says_how_it_is() -> None:
    """A numeric user other than root, a health check, commands in their exec form, and only the installed folder."""
    image = final()
    uid, _, gid = image["USER"].partition(":")
    assert int(uid) > 0 < int(gid)
    assert f"-o {uid} -g {gid} {STATE}" in image["RUN"]
    assert image["VOLUME"] == STATE
    assert image["COPY"].startswith("--from=build /opt/medplum-bots ")
    assert image["HEALTHCHECK"].endswith('CMD ["/opt/medplum-bots/bin/health"]')
    assert json.loads(image["ENTRYPOINT"]) == ["/opt/medplum-bots/bin/run"]
    assert is_command(*json.loads(image["CMD"]))
    assert all(re.search(r":\S+-slim", text) for word, text in instructions() if word == "FROM")


def test_files_that_the_build_copies_exist_and_contain_no_secret() -> None:
    """In a deployment from a checkout, the folder packaging/ contains host.env."""
    sources = [
        source
        for word, text in instructions()
        if word == "COPY" and "--from" not in text
        for source in text.split()[:-1]
    ]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {"packaging/host.env", "**/*.sqlite*"} <= set(ignored)


def test_the_compose_file_fits_the_image() -> None:
    """Read-only except for the image's volume, on loopback, with the port and the stop time that the image needs."""
    service, image = host(), final()
    assert service["read_only"]
    assert [each.partition(":")[2] for each in service["volumes"]] == [image["VOLUME"]]
    assert service["ports"] == [f"127.0.0.1:{image['EXPOSE']}:{image['EXPOSE']}"]
    assert service["cap_drop"] == ["ALL"]
    assert (PACKAGING / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert int(service["stop_grace_period"].removesuffix("s")) > 30


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """systemd knows every directive; the program is at its place in this checkout."""
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/medplum-bots/bin/run", str(PACKAGING / "run"))
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    files = [str(tmp_path / unit.name) for unit in UNITS]
    command = ["systemd-analyze", "verify", "--man=no", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "medplum-bots" in line]) == (0, [])


def test_the_units_start_commands_that_exist() -> None:
    """They run as a dedicated user, who may write only to the state folder."""
    services = {unit.name: unit.read_text(encoding="utf-8") for unit in UNITS if unit.suffix == ".service"}
    assert len(services) == 2
    for name, text in services.items():
        (words,) = re.findall(r"^ExecStart=/opt/medplum-bots/bin/run (.*)$", text, re.MULTILINE)
        assert is_command(*words.split()), name
        assert {"DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes"} <= set(text.splitlines()), name
    assert f"StateDirectory={Path(STATE).name}\n" in services["medplum-bots.service"]
