"""What a host refuses at its start, and which project it is pinned to."""

from __future__ import annotations

import json
import logging

import pytest
from typer.testing import CliRunner

from bot_layer.cli import serve
from bot_layer.errors import ConfigError
from bot_layer.host import listening, starting
from bot_layer.medplum.client import connect_client
from medplum_sandbox.medplum import MedplumSandbox

SERVER = "https://medplum.example.org"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "192.168.1.2", "203.0.113.9", "host.example.org", ""])  # noqa: S104  # these are refused
def test_another_address_than_loopback_needs_an_option(host: str) -> None:
    """Whatever the tokens are: the Fission route has no login."""
    with pytest.raises(ConfigError) as refused:
        starting.require_safe_start(host, {}, private_network=False)
    assert refused.value.code == "not-loopback"
    starting.require_safe_start(host, {}, private_network=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_needs_no_option(host: str) -> None:
    """The default and its siblings start."""
    starting.require_safe_start(host, {}, private_network=False)


@pytest.mark.parametrize("name", starting.KEYS)
def test_a_key_has_at_least_32_characters(name: str) -> None:
    """A shorter one could be guessed; the error names it, and not its value."""
    starting.require_safe_start("127.0.0.1", {name: "k" * 32}, private_network=False)
    with pytest.raises(ConfigError) as refused:
        starting.require_safe_start("127.0.0.1", {name: "k" * 31}, private_network=False)
    assert (refused.value.code, name in refused.value.message) == ("short-key", True)
    assert "kkk" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("https://bots.example.org/federated", False),
        ("http://127.0.0.1:8765/federated", False),
        ("http://localhost:8765/federated", False),
        ("http://bots.example.org/federated", True),
        ("http://10.0.0.5/federated", True),
        ("http://evil.example.org\\@127.0.0.1/", True),
        ("ftp://127.0.0.1/", True),
    ],
)
def test_the_federated_address_is_https_except_on_loopback(url: str, refused: bool) -> None:
    """Documents and tokens are sent under this address."""
    try:
        starting.require_safe_start("127.0.0.1", {"FEDERATED_BASE_URL": url}, private_network=False)
        found = False
    except ConfigError as error:
        found = error.code == "unsafe-address"
    assert found is refused


def test_the_command_refuses_and_says_so_as_json() -> None:
    """``serve --host 0.0.0.0`` ends with 2 and one JSON line."""
    result = CliRunner().invoke(serve.app, ["--host", "0.0.0.0", "--medplum", SERVER, "--inbox", "off"])  # noqa: S104  # refused
    assert result.exit_code == 2
    assert json.loads(result.output)["message"].startswith("not-loopback: ")


def test_a_host_is_pinned_to_its_own_logins_project_or_to_the_option(caplog: pytest.LogCaptureFixture) -> None:
    """The host's own login's project; ``--project`` overrides it; another server is not pinned, as the log says."""
    with MedplumSandbox() as medplum, caplog.at_level(logging.WARNING):
        servers = [medplum.base_url, SERVER]
        environ = {"MEDPLUM_BASE_URL": f"{medplum.base_url}/"}

        def login() -> object:
            return connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)

        own = starting.pinned_projects(servers, None, environ, login)  # type: ignore[arg-type]  # as the host's login
        asked = len(medplum.requests)
        assert (list(own), own[medplum.base_url]()) == ([medplum.base_url], medplum.project_id)
        assert own[medplum.base_url]() == medplum.project_id
        assert len([each for each in medplum.requests[asked:] if each.path == "/auth/me"]) <= 2, "asked once"
        given = starting.pinned_projects(servers, "p-1", environ, login)  # type: ignore[arg-type]  # as above
        assert given[medplum.base_url]() == "p-1"
    assert caplog.text.count("Any project of this Medplum server may run bots here") == 2
    assert starting.pinned_projects([SERVER], None, {}, None) == {}
    with pytest.raises(ConfigError):
        starting.pinned_projects([SERVER], "..", {}, None)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (("127.0.0.1", 8765), "http://127.0.0.1:8765"),
        (("10.0.0.5", 8765), "http://10.0.0.5:8765"),
        (("0.0.0.0", 80), "http://127.0.0.1:80"),  # noqa: S104  # nothing listens
        (("fd00::5", 8765, 0, 0), "http://[fd00::5]:8765"),
        (("::", 8765, 0, 0), "http://[::1]:8765"),
    ],
)
def test_the_status_page_finds_its_own_host(address: tuple[str, int], url: str) -> None:
    """The doctor on the page asks the address that the host listens on."""
    assert listening.own_url(address) == url
