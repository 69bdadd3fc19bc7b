"""The status page in a real Chromium: every page and action, at phone width, by keyboard, and under axe-core's rules.

``STATUS_PAGE_IMAGES=docs/images`` takes the screenshots that docs/deploy.md shows. ``CHROMIUM`` names another browser.
axe-core comes by npm (package.json beside this file).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.pages.site import PASSWORD, PLANTED, Site, site, two_weeks
from tests.host.process import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[dev]'")

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE: Any = {"width": 360, "height": 740}
DESK: Any = {"width": 1200, "height": 800}
RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is missing: apt-get install chromium")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as made:
        two_weeks(made.history)
        yield made


@pytest.fixture(scope="module")
def browser(here: Site) -> Iterator[Browser]:  # DBOS must start before playwright's loop
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def tab(browser: Browser, here: Site) -> Iterator[Page]:
    """A page that is not signed in; scripts are off, as the policy has it. Nothing may be fetched from elsewhere."""
    context = browser.new_context(base_url=here.server.base_url, viewport=DESK, java_script_enabled=False)
    fetched: list[str] = []
    made = context.new_page()
    made.on("request", lambda request: fetched.append(request.url))
    yield made
    assert [url for url in fetched if not url.startswith(here.server.base_url)] == []
    context.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's source, installed by its lock file where npm is there."""
    source = HERE / "node_modules" / "axe-core" / "axe.min.js"
    if not source.is_file():
        npm = shutil.which("npm")
        done = npm and subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund"], cwd=HERE, capture_output=True, check=False
        )
        if not done or done.returncode != 0:
            pytest.skip("axe-core is missing: run npm ci in tests/host/pages")
    return source.read_text(encoding="utf-8")


def look(size: dict[str, int], scheme: str) -> Any:
    """How large the screen is, and whether it is dark."""
    return {"viewport": size, "color_scheme": scheme}


def sign_in(tab: Page) -> None:
    tab.goto("/status")
    tab.get_by_label("Password").fill(PASSWORD)
    tab.get_by_role("button", name="Sign in").click()
    tab.wait_for_url("**/status")


def pages(here: Site) -> dict[str, str]:
    """Every page, by the name of its screenshot."""
    dead = here.runs.listed(state="dead")[0].id
    return {
        "overview": "/status",
        "runs": "/status/runs",
        "run": f"/status/runs/{dead}",
        "bulk-sync": "/status/sync",
        "set-up": "/status/setup",
    }


def test_somebody_finds_out_what_failed_and_retries_it(tab: Page, here: Site) -> None:
    """Links and buttons lead from the sentence at the top to the run and its retry."""
    sign_in(tab)
    tab.get_by_role("link", name="failed for good: refused-by-service").click()
    assert "runs?state=dead&code=refused-by-service" in tab.url
    tab.locator("table a").first.click()
    assert tab.get_by_role("heading", level=1).inner_text().endswith("failed for good")
    tab.get_by_role("button", name="Retry").click()
    assert "queued and runs again" in tab.get_by_role("status").inner_text()
    tab.get_by_role("link", name="Runs", exact=True).click()
    tab.get_by_role("button", name="Retry").first.click()
    assert "queued again" in tab.get_by_role("status").inner_text()
    until(lambda: not here.runs.listed(state="waiting") and not here.runs.listed(state="running"))


def test_somebody_cancels_a_run_that_waits(tab: Page, here: Site) -> None:
    """An event that waits behind another one of its resource is found by its state, and never runs."""
    with here.with_a_waiting_run():
        sign_in(tab)
        tab.get_by_role("region", name="Inbox").get_by_role("link").first.click()
        assert "state=waiting" in tab.url
        tab.locator("table a").first.click()
        tab.get_by_role("button", name="Cancel").click()
        assert "The run is cancelled" in tab.get_by_role("status").inner_text()
        assert tab.get_by_role("heading", level=1).inner_text().endswith("cancelled")
    until(lambda: not here.runs.listed(state="running"))
    assert [run.resource for run in here.runs.listed(state="cancelled")] == ["Practitioner/slow"]


def test_somebody_starts_and_cancels_a_sync_and_checks_the_set_up(tab: Page, here: Site) -> None:
    """Each practice has its own button; the set-up is checked again."""
    sign_in(tab)
    tab.get_by_role("link", name="Bulk sync", exact=True).click()
    tab.get_by_role("region", name="west").get_by_role("button", name="Start a run now").click()
    tab.get_by_role("region", name="north").get_by_role("button", name="Cancel this run").click()
    assert here.syncs.asked == [("start", "west"), ("cancel", "north")]
    tab.get_by_role("link", name="Set-up", exact=True).click()
    tab.get_by_role("button", name="Check again").click()
    assert "Health Gorilla refused the login" in tab.inner_text("main")
    tab.get_by_role("button", name="Sign out").click()
    assert tab.get_by_label("Password").is_visible()


def test_runs_are_filtered_in_the_browser(tab: Page) -> None:
    """Bot, state, code and time."""
    sign_in(tab)
    tab.get_by_role("link", name="Runs", exact=True).click()
    tab.get_by_label("State").select_option("refused")
    tab.get_by_label("Code").fill("account-ambiguous")
    tab.get_by_label("Time").select_option("24h")
    tab.get_by_role("button", name="Show").click()
    assert set(tab.locator("td[data-label=Result]").all_inner_texts()) == {"account-ambiguous"}
    tab.get_by_role("link", name="Pause").click()
    assert tab.get_by_role("link", name="Resume").is_visible()
    assert set(tab.locator("td[data-label=Result]").all_inner_texts()) == {"account-ambiguous"}, "the filter stays"


def test_the_keyboard_alone_is_enough(tab: Page) -> None:
    """Sign in, skip to the content, open a page and press a button without a mouse; the focus is visible."""
    tab.goto("/status")

    def go_to(name: str) -> None:
        for _ in range(60):
            tab.keyboard.press("Tab")
            focused = tab.locator(":focus")
            if focused.count() and name in (focused.inner_text(), focused.get_attribute("id")):
                return
        raise AssertionError(f"{name} is not reached by the Tab key")

    go_to("password")
    tab.keyboard.type(PASSWORD)
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/status")
    go_to("Skip to the content")
    box = tab.locator(":focus").bounding_box()
    assert box
    assert box["x"] >= 0, "it comes into view"
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#main")
    go_to("The bulk sync of west does not work.")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/sync")
    go_to("Runs")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/runs")
    go_to("Show")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/runs?bot=*")
    go_to("Sign out")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/sign-in")


def test_a_phone_shows_every_page(tab: Page, here: Site) -> None:
    """No page is wider than the screen, and buttons are large enough."""
    tab.set_viewport_size(PHONE)
    sign_in(tab)
    for path in pages(here).values():
        tab.goto(path)
        box = tab.locator("body").bounding_box()
        assert box is not None
        shown = tab.context.new_cdp_session(tab).send("Page.getLayoutMetrics")
        assert shown["cssContentSize"]["width"] <= PHONE["width"], path
        for button in tab.get_by_role("button").all():
            size = button.bounding_box()
            assert size is not None
            assert size["height"] >= 24, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing(browser: Browser, here: Site, axe: str, scheme: str, size: dict[str, int]) -> None:
    """axe-core's rules of WCAG 2.2 AA and its best practices, on every page, light and dark."""
    context = browser.new_context(base_url=here.server.base_url, **look(size, scheme), bypass_csp=True)
    tab = context.new_page()
    found: list[str] = []
    tab.goto("/status/sign-in")
    found += _violations(tab, axe, "sign-in")
    sign_in(tab)
    for name, path in pages(here).items():
        tab.goto(path)
        found += _violations(tab, axe, name)
    context.close()
    assert found == []


def _violations(tab: Page, axe: str, name: str) -> list[str]:
    tab.evaluate(axe)
    result = tab.evaluate("rules => axe.run(document, rules)", RULES)
    assert result["passes"], "the rules ran"
    return [f"{name}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in result["violations"]]


def test_nothing_of_a_person_can_be_seen(tab: Page, here: Site) -> None:
    """What the browser shows and what it received, on every page and every run."""
    sign_in(tab)
    for path in [*pages(here).values(), *(f"/status/runs/{run.id}" for run in here.runs.listed(limit=24))]:
        tab.goto(path)
        text = (tab.content() + tab.inner_text("body")).lower()
        assert [planted for planted in PLANTED if planted.lower() in text] == [], path


@pytest.mark.skipif("STATUS_PAGE_IMAGES" not in os.environ, reason="STATUS_PAGE_IMAGES names no folder")
def test_screenshots(browser: Browser, here: Site) -> None:
    """The images of the docs, and others to look at."""
    folder = Path(os.environ["STATUS_PAGE_IMAGES"])
    for scheme, size, suffix in (("light", DESK, ""), ("dark", DESK, "-dark"), ("light", PHONE, "-phone")):
        context = browser.new_context(base_url=here.server.base_url, **look(size, scheme))
        tab = context.new_page()
        sign_in(tab)
        tab.goto("/status/setup")  # so that the overview knows it
        for name, path in pages(here).items():
            tab.goto(path)
            tab.screenshot(path=folder / f"status-{name}{suffix}.png", full_page=size is PHONE)
        context.close()
