"""Settings: one precedence everywhere, logins whole from one place, every problem in one error."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bot_layer
from bot_layer.bot.collection import BUNDLED, load
from bot_layer.bot.event import read as read_event
from bot_layer.errors import ConfigError
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.http.policy import RetryPolicy
from bot_layer.settings import Reader, Setting, combine, missing, resolve, secret_text, secret_values

LOGIN = (
    Setting("X_BASE_URL", "", default="https://x.example", login="X"),
    Setting("X_TOKEN_URL", "", default="https://x.example/token", login="X"),
    Setting("X_CLIENT_ID", "", required=True, login="X"),
    Setting("X_CLIENT_SECRET", "", required=True, instead="X_PRIVATE_KEY", login="X"),
    Setting("X_PRIVATE_KEY", "", login="X"),
)
PLAIN = (Setting("COLOR", ""), Setting("SIZE", ""))
ALL = (*LOGIN, *PLAIN)
HOST = {"X_CLIENT_ID": "host", "X_CLIENT_SECRET": "secret of the host"}


def test_an_event_never_combines_its_token_url_with_a_secret_of_the_host() -> None:
    """The secret would be sent to whatever address the event names."""
    forged = {"X_TOKEN_URL": "https://attacker.example", "X_BASE_URL": "https://attacker.example", "X_PRIVATE_KEY": "k"}
    assert resolve(ALL, HOST, forged) == HOST


@given(
    st.dictionaries(st.sampled_from([each.name for each in ALL]), st.just("env")),
    st.dictionaries(st.sampled_from([each.name for each in ALL]), st.just("project")),
)
def test_a_login_comes_complete_from_one_place_and_other_settings_one_by_one(
    environ: dict[str, str], secrets: dict[str, str]
) -> None:
    """Wherever values are set, no two parts of a login come from different places."""
    login = {each.name for each in LOGIN}
    try:
        found = resolve(ALL, environ, secrets)
    except ConfigError as error:
        assert login & environ.keys()
        assert set(error.missing) == {
            name
            for name in ("X_CLIENT_ID", "X_CLIENT_SECRET")
            if name not in environ and not (name == "X_CLIENT_SECRET" and "X_PRIVATE_KEY" in environ)
        }
        assert error.missing
        return
    place = environ if login & environ.keys() else secrets
    assert {name: value for name, value in found.items() if name in login} == {
        name: value for name, value in place.items() if name in login
    }
    for name in ("COLOR", "SIZE"):
        assert found.get(name) == environ.get(name, secrets.get(name))


@pytest.mark.parametrize("part", [each.name for each in LOGIN])
def test_half_a_login_in_the_environment_names_the_rest(part: str) -> None:
    """Even if the project's secrets have the rest: the operator must see that they are not used."""
    with pytest.raises(ConfigError) as caught:
        resolve(ALL, {part: "env"}, {**HOST, "X_PRIVATE_KEY": "k"})
    assert caught.value.code == "missing-settings"
    rest = {"X_CLIENT_ID", "X_CLIENT_SECRET"} - {part} - ({"X_CLIENT_SECRET"} if part == "X_PRIVATE_KEY" else set())
    assert set(caught.value.missing) == rest
    assert all(name in caught.value.message for name in rest)


def test_an_empty_variable_is_as_none() -> None:
    """A compose file sets variables to nothing."""
    environ = {"X_CLIENT_ID": " ", "X_TOKEN_URL": "", "COLOR": ""}
    assert resolve(ALL, environ, {**HOST, "COLOR": "red"}) == {**HOST, "COLOR": "red"}


def test_the_route_does_not_hide_the_settings_of_the_bots() -> None:
    """FEDERATED_BASE_URL and its like are the route's own; the bots' FEDERATED_ settings are no part of a login."""
    bot = load(BUNDLED).named("register-patient").bot
    route = {"FEDERATED_BASE_URL": "https://bots.example/federated", "FEDERATED_CLIENTS": "[]"}
    secrets = {"FEDERATED_PATIENT_SYSTEM": "https://clinic.example", "HEALTH_GORILLA_CLIENT_ID": "project"}
    assert resolve(bot.settings, route, secrets) == secrets


def every_setting() -> Iterable[Setting]:
    return [setting for handler in load(BUNDLED) for setting in handler.bot.settings]


@pytest.mark.parametrize("setting", every_setting(), ids=lambda each: each.name)
def test_every_address_and_login_is_declared_as_one(setting: Setting) -> None:
    """A part that is not declared in its login could be combined with the rest of another place."""
    parts = (
        r"BASE_URL|TOKEN_URL|CLIENT_\w+|PRIVATE_KEY|KEY_ID|JWKS_URL|\w*ALGORITHM|GRANT|ISSUER|SUBJECT|AUDIENCE"
        r"|\w*TENANT_ID|GROUP_ID"
    )
    is_partner = setting.name.startswith(("HEALTH_GORILLA_", "PF_"))
    is_part = is_partner and re.fullmatch(rf"(HEALTH_GORILLA|PF|PF_FHIR)_({parts})", setting.name) is not None
    assert bool(setting.login) is is_part


def test_the_rule_holds_for_the_event_of_a_bot() -> None:
    """The attack as it would arrive: a forged envelope at a host whose environment has the login."""
    bot = load(BUNDLED).named("sync-practitioner").bot
    environ = {
        "HEALTH_GORILLA_CLIENT_ID": "host",
        "HEALTH_GORILLA_CLIENT_SECRET": "of the host",
        "HEALTH_GORILLA_TENANT_ID": "t-1",
    }
    forged = {
        name: {"name": name, "valueString": "https://attacker.example"}
        for name in ("HEALTH_GORILLA_TOKEN_URL", "HEALTH_GORILLA_BASE_URL", "HEALTH_GORILLA_AUDIENCE")
    }
    event = read_event({"secrets": forged}, settings=bot.settings, environ=environ)
    found = hg.read(event.secrets)
    assert found.client_secret == "of the host"
    assert "attacker" not in f"{found.token_url} {found.base_url} {found.audience}"


FLAG = (Setting("FLAG", "", default="false", kind="flag"),)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *((word, True) for word in ("true", "True", "TRUE", "1", "yes", "Yes", "on", "ON", "y", "t", " true ")),
        *((word, False) for word in ("false", "False", "0", "no", "off", "n", "f", "", "  ")),
    ],
)
def test_a_flag_is_read_in_every_usual_spelling(word: str, value: bool) -> None:
    """``True``, ``1`` and ``yes`` were silently false."""
    reader = Reader(FLAG, {"FLAG": word})
    assert reader.flag("FLAG") is value
    reader.complain()


@pytest.mark.parametrize("word", ["perhaps", "2", "ja", "tru", "-1"])
def test_another_word_is_no_flag(word: str) -> None:
    """It is neither: the operator meant another value."""
    with pytest.raises(ConfigError, match="FLAG"):
        check(FLAG, {"FLAG": word})


def check(declared: tuple[Setting, ...], values: dict[str, str]) -> None:
    reader = Reader(declared, values)
    reader.check()
    reader.complain()


@pytest.mark.parametrize(
    "text", ["1000000000", "21", "-1", "nan", "inf", "1e300", "1_0", "٣", "²", "many", ".", "1,5", "0x1", "9" * 5000]
)
def test_a_number_outside_its_limits_is_refused(text: str) -> None:
    """A billion retries would block a thread forever."""
    with pytest.raises(ConfigError, match="BOT_RETRIES") as caught:
        RetryPolicy.from_settings({"BOT_RETRIES": text})
    assert caught.value.code == "invalid-setting"


def test_zero_and_fractions_are_numbers() -> None:
    """As the docs say of BOT_RETRIES and its like."""
    policy = RetryPolicy.from_settings(
        {
            "BOT_RETRIES": "0",
            "BOT_BACKOFF_SECONDS": ".25",
            "BOT_LONGEST_WAIT_SECONDS": "1.5",
            "BOT_TIMEOUT_SECONDS": "0",
        }
    )
    assert (policy.retries, policy.backoff, policy.longest_wait, policy.read) == (0, 0.25, 1.5, 0.0)


def test_everything_that_is_missing_or_wrong_is_in_one_error() -> None:
    """An operator corrects it once. No value is shown: one may be a secret."""
    declared = (*LOGIN, *FLAG, Setting("SHADE", "", kind="choice", choices=("Dark", "Light")))
    with pytest.raises(ConfigError) as caught:
        check(declared, {"FLAG": "do-not-show", "SHADE": "do-not-show", "X_CLIENT_ID": ""})
    message = caught.value.message
    assert all(name in message for name in ("X_CLIENT_ID", "X_CLIENT_SECRET", "FLAG", "SHADE"))
    assert "do-not-show" not in message
    assert set(caught.value.missing) == {"X_CLIENT_ID", "X_CLIENT_SECRET"}


def test_a_choice_is_given_in_the_spelling_of_its_declaration() -> None:
    """A caller that compares it need not consider case."""
    reader = Reader((Setting("SHADE", "", kind="choice", choices=("Dark", "Light")),), {"SHADE": " dark"})
    assert reader.choice("SHADE") == "Dark"


def test_a_secret_of_every_type_is_text() -> None:
    """Medplum's admin page stores strings, booleans and numbers."""
    listed = [
        {"name": "A", "valueString": "a"},
        {"name": "B", "valueBoolean": False},
        {"name": "C", "valueDecimal": 0.5},
        {"name": "D"},
        {"valueString": "x"},
        "odd",
    ]
    assert secret_values(listed) == {"A": "a", "B": "false", "C": "0.5"}
    assert secret_text(True) == "true"


def test_one_setting_may_replace_another() -> None:
    """A private key in place of a secret."""
    assert missing(LOGIN, {"X_CLIENT_ID": "i", "X_PRIVATE_KEY": "k"}) == []
    assert combine(LOGIN, {"X_CLIENT_ID": "i"}, HOST) == {"X_CLIENT_ID": "i"}


@pytest.mark.parametrize("kind", ["whole", "number"])
@pytest.mark.parametrize("limits", [{}, {"least": 0}, {"most": 9}])
def test_a_number_without_limits_cannot_be_declared(kind: Any, limits: Any) -> None:
    """A number such as ``BOT_RETRIES=1000000000`` would block a thread forever, so each has two limits."""
    with pytest.raises(ValueError, match="SOME_NUMBER"):
        Setting("SOME_NUMBER", "a number", default="1", kind=kind, **limits)


@pytest.mark.parametrize("text", ["1e12", "999999999999999", "-1"])
def test_no_number_of_the_project_can_be_absurd(text: str) -> None:
    """Every number that the host, a bot, a client or the sync reads refuses a value far beyond its limits."""
    numbers = [each for each in _declared_by_the_project() if each.kind in {"whole", "number"}]
    assert {"BOT_RETRIES", "BOT_HOST_ATTEMPTS", "FEDERATED_ATTEMPTS", "PF_WORKERS"} <= {each.name for each in numbers}
    for each in numbers:
        with pytest.raises(ConfigError):
            reader = Reader([each], {each.name: text})
            getattr(reader, each.kind)(each.name)
            reader.complain()


def _declared_by_the_project() -> set[Setting]:
    """Every Setting in a tuple of some module's global names."""
    modules = [importlib.import_module(each.name) for each in pkgutil.walk_packages(bot_layer.__path__, "bot_layer.")]
    values = [value for module in modules for value in vars(module).values() if isinstance(value, tuple)]
    return {each for value in values for each in value if isinstance(each, Setting)}
