"""The status page without a browser: who may see it, what it answers, and that it shows no personal data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot_layer.errors import ConfigError
from bot_layer.host.pages import access
from bot_layer.host.pages.values import Practice
from tests.host.pages.site import NAMES, PASSWORD, PLANTED, Site, site, two_weeks
from tests.host.process import until

PAGES = ("/status", "/status/runs", "/status/sync", "/status/setup")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def csrf_of(page: str) -> str:
    """The token of the forms on a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


def test_nobody_sees_anything_without_the_password(here: Site) -> None:
    """Each page and action leads to the sign-in; a wrong password, an old cookie and a forged one open nothing."""
    run = here.runs.listed()[0].id
    for path in (*PAGES, f"/status/runs/{run}"):
        assert here.client.get(path).headers["location"] == "/status/sign-in"
    for path in (f"/status/runs/{run}/replay", "/status/retry-all", "/status/sync/start", "/status/setup/check"):
        assert here.client.post(path, data={"csrf": ""}).headers["location"] == "/status/sign-in"
    assert here.client.post("/status/sign-in", data={"password": "wrong"}).status_code == 403
    here.client.cookies.set(access.COOKIE, "forged", path="/status")
    assert here.client.get("/status").status_code == 303
    assert here.syncs.asked == []


def test_signing_in_and_out(here: Site) -> None:
    """The cookie cannot be read by a script, or sent by another site; after signing out it opens nothing."""
    name = {"Host": "bots.example.org"}
    far = here.client.post("/status/sign-in", data={"password": PASSWORD}, headers=name).headers["set-cookie"].lower()
    assert "secure" in far
    here.client.cookies.clear()
    answer = here.client.post("/status/sign-in", data={"password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/status" in cookie
    assert "secure" not in cookie, "on loopback there is no TLS"
    page = here.client.get("/status")
    assert page.status_code == 200
    kept = dict(here.client.cookies)
    here.client.post("/status/sign-out", data={"csrf": csrf_of(page.text)})
    here.client.cookies.update(kept)
    assert here.client.get("/status").status_code == 303


def test_wrong_passwords_are_limited(here: Site) -> None:
    """After ten wrong ones the right one is not even looked at for five minutes."""
    codes = [here.client.post("/status/sign-in", data={"password": f"wrong-{each}"}).status_code for each in range(11)]
    assert codes == [403] * 10 + [429]
    answer = here.client.post("/status/sign-in", data={"password": PASSWORD})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "300")


def test_a_blocked_address_may_try_again_later() -> None:
    """The limit is a time, not a lock; another address has its own count."""
    now = [0.0]
    page_access = access.Access(PASSWORD, clock=lambda: now[0])
    for _ in range(10):
        assert page_access.sign_in("a", "wrong") is None
    assert (page_access.is_blocked("a"), page_access.is_blocked("b")) == (True, False)
    now[0] = access.BLOCKED_SECONDS + 1.0
    assert not page_access.is_blocked("a")
    assert page_access.sign_in("a", PASSWORD)


def test_an_action_needs_the_token_of_its_own_page(here: Site) -> None:
    """Without it, with another session's, and from another site nothing happens."""
    here.sign_in()
    page = here.client.get("/status/sync").text
    good = csrf_of(page)
    for data, headers in (
        ({"practice": "west"}, {}),
        ({"practice": "west", "csrf": "x" * len(good)}, {}),
        ({"practice": "west", "csrf": good}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        assert (
            here.client.post("/status/sync/start", data=data, headers=headers).headers["location"] == "/status/sign-in"
        )
    assert here.syncs.asked == []
    here.client.post("/status/sync/start", data={"practice": "west", "csrf": good})
    assert here.syncs.asked == [("start", "west")]


def test_every_answer_is_strict(here: Site) -> None:
    """No script, nothing from elsewhere, nothing cached, no frame."""
    here.sign_in()
    for path in (*PAGES, "/status/sign-in"):
        answer = here.client.get(path)
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "<script" not in answer.text
        assert " style=" not in answer.text
        assert re.findall(r'(?:src|href)="(?!/status|\?|#)([^"]+)"', answer.text) == []


def test_nothing_of_a_person_is_on_any_page(here: Site) -> None:
    """Names, dates, identifiers, tokens and texts in events, answers and errors appear on no page."""
    here.sign_in()
    paths = [*PAGES, "/status/runs?state=dead", "/status/runs?state=refused", f"/status/runs?bot={NAMES[0]}"]
    paths += [f"/status/runs/{run.id}" for run in here.runs.listed()]
    assert len(paths) > 20
    for path in paths:
        text = here.client.get(path).text.lower()
        assert [planted for planted in PLANTED if planted.lower() in text] == [], path


def test_the_overview_says_what_is_wrong_and_what_to_do(here: Site) -> None:
    """Dead letters, failures, practices and the set-up each have a sentence with a link."""
    here.sign_in()
    here.client.get("/status/setup")
    page = here.client.get("/status").text
    for part in (
        "Something needs you",
        "events failed for good: refused-by-service.",
        "A partner refused the request.",
        "The bulk sync of west does not work",
        "Set-up: Health Gorilla token.",
        "check HEALTH_GORILLA_CLIENT_SECRET",
        "The last bulk sync of south was partial",
        "1 call failed today: internal-error.",
        "refused today: npi-missing.</a></strong> There is no NPI.",
        "clinic-host-1",
    ):
        assert part in page
    today = re.search(r"Today: (\d+) runs, of which (\d+) succeeded, (\d+) were refused and (\d+) failed", page)
    assert today
    total, *parts = map(int, today.groups())
    assert total == sum(parts) == 18


def test_the_overview_checks_the_set_up_by_itself(here: Site) -> None:
    """The page alone shows what the doctor finds, at the latest after the next refresh."""
    here.sign_in()
    until(lambda: "Set-up: Health Gorilla token." in here.client.get("/status").text)


def test_a_sync_whose_settings_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """It must not look as if no sync were set up."""

    def practices() -> list[Practice]:
        raise ConfigError("PF_PRACTICES is not TOML.")

    with site(tmp_path, with_inbox=False, practices=practices) as here:
        here.sign_in()
        assert "The state of the bulk sync is not known.</a></strong> PF_PRACTICES is not TOML." in (
            here.client.get("/status").text
        )
        page = here.client.get("/status/sync").text
        assert "PF_PRACTICES is not TOML." in page
        assert "No bulk sync is set up" not in page


def test_a_host_on_which_everything_went_well_says_so(tmp_path: Path) -> None:
    """One sentence, and no list."""
    with site(tmp_path, healthy=True) as here:
        here.sign_in()
        assert "Everything works" in here.client.get("/status").text


def test_runs_are_filtered(here: Site) -> None:
    """By bot, state, code and time; operations are included; an invalid filter is ignored."""
    here.sign_in()

    def shown(query: str) -> int:
        return len(re.findall(r'data-label="Run"', here.client.get(f"/status/runs?{query}").text))

    assert shown("") == 18
    assert shown("state=dead") == len(here.runs.listed(state="dead")) > 0
    assert shown("state=failed") == 3, "operations"
    assert shown("code=account-ambiguous") == 3
    assert shown(f"bot={NAMES[1]}") == 3
    assert shown("since=1h") == 18
    assert shown("since=today") == 18
    assert shown("bot=<b>&state='&since=9&before=x") == 18


def test_older_runs_are_a_link_away(here: Site) -> None:
    """Fifty a page, and none of them twice."""
    two_weeks(here.history)
    here.sign_in()
    path, seen = "/status/runs", list[str]()
    while path:
        page = here.client.get(path).text
        seen += re.findall(r'<a href="/status/runs/([^"]+)"><code>', page)
        more = re.search(r'<a href="(\?[^"]+)">Older runs', page)
        path = f"/status/runs{more[1].replace('&amp;', '&')}" if more else ""
    assert len(seen) == len(set(seen)) == len(here.runs.listed(limit=10_000)) > 100


def test_a_dead_letter_is_retried_and_all_of_one_code(here: Site) -> None:
    """One on its page, the others by their code; each has a new run, and the page says so."""
    here.sign_in()
    dead = here.runs.listed(state="dead", code="login-refused")
    page = here.client.get(f"/status/runs/{dead[0].id}").text
    assert "refused the login" in page
    answer = here.client.post(f"/status/runs/{dead[0].id}/retry", data={"csrf": csrf_of(page)})
    new = here.client.get(answer.headers["location"])
    assert "queued and runs again" in new.text
    number = len(here.runs.listed(state="dead", code="refused-by-service"))
    before = len(here.runs.listed())
    answer = here.client.post("/status/retry-all", data={"csrf": csrf_of(page), "code": "refused-by-service"})
    assert answer.headers["location"] == f"/status/runs?did=all&number={number}"
    assert f"{number} runs are queued again" in here.client.get(answer.headers["location"]).text
    until(lambda: len(here.runs.listed()) == before + number)


def test_an_impossible_action_is_explained(here: Site) -> None:
    """An unknown run, an operation that is retried, a run that has ended and is cancelled."""
    here.sign_in()
    token = csrf_of(here.client.get("/status").text)
    assert here.client.get("/status/runs/nothing").status_code == 404
    operation = here.runs.listed(state="failed")[0].id
    answer = here.client.post(f"/status/runs/{operation}/retry", data={"csrf": token})
    assert (answer.status_code, "can call it again" in answer.text) == (409, True)
    done = here.runs.listed(state="refused", bot=NAMES[1])[0].id
    assert "has ended already" in here.client.post(f"/status/runs/{done}/cancel", data={"csrf": token}).text


def test_a_run_links_to_its_resource(here: Site) -> None:
    """The link opens Medplum's own app; the text of the page names only the type."""
    here.sign_in()
    run = next(run for run in here.runs.listed() if run.resource == "Practitioner/p-0")
    page = here.client.get(f"/status/runs/{run.id}").text
    assert '<a href="https://app.example.org/Practitioner/p-0" rel="noreferrer">Open this Practitioner' in page


def test_without_an_inbox_the_page_shows_this_process(tmp_path: Path) -> None:
    """The host's own counts since its start, and the page says so."""
    with site(tmp_path, with_inbox=False) as here:
        here.sign_in()
        page = here.client.get("/status").text
        assert "has no inbox" in page
        assert "6 runs in 14 days" in page
        assert here.client.get("/status/runs").text.count('data-label="Run"') == 6


def test_a_short_password_is_refused_at_the_start() -> None:
    """Without one there is no page; with one that is easy to guess no host."""
    assert access.read_password({}) is None
    assert access.read_password({access.PASSWORD: PASSWORD}) == PASSWORD
    with pytest.raises(ConfigError, match="at least 12"):
        access.read_password({access.PASSWORD: "short"})
