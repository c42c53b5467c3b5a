"""Every page and every action of the dashboard, in a real Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from jobq import State
from jobq.dashboard import create_dashboard
from tests.dashboard.browser import chromium, served, watch
from tests.dashboard.scene import Scene, make_scene

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="there is no chromium (Debian: chromium)"
)
TOKEN = "a token of more than sixteen characters"
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture
def scene(postgres_url: str) -> Iterator[Scene]:
    made = make_scene(postgres_url)
    yield made
    made.app.close()


@pytest.fixture
def address(scene: Scene) -> Iterator[str]:
    with served(create_dashboard(scene.app, token=TOKEN)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Logged in, and without a single complaint at the end."""
    context = browser.new_context()
    page = context.new_page()
    wrong: Callable[[], list[str]] = watch(page, address)
    page.goto(address)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_label("Your name").fill("ada")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    yield page
    context.close()
    assert wrong() == []


def test_every_page_can_be_reached_and_read_on_a_phone(
    page: Page, scene: Scene, address: str
) -> None:
    for size in ({"width": 1280, "height": 800}, PHONE):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.goto(address)
        links = page.get_by_role("navigation").get_by_role("link")
        names = links.all_inner_texts()
        assert len(names) == 9
        for name in names:
            page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
            expect(page.locator("h1")).to_be_visible()
            wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{name} is {wide} px too wide at {size['width']}"
        page.goto(f"{address}/jobs/{scene.zombie}")
        expect(page.locator("rect.zombie")).to_have_count(1)
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0


def test_the_overview_is_live(page: Page, scene: Scene) -> None:
    ready = page.locator(".tiles div", has_text="Ready").locator("dd")
    before = ready.inner_text()
    scene.app.enqueue_many(scene.app.tasks["mail.send"].request(to="x") for _ in range(500))
    expect(ready).not_to_have_text(before, timeout=10_000)
    expect(ready).to_contain_text("500")


def test_the_timeline_shows_the_overlap(page: Page, scene: Scene, address: str) -> None:
    """The frozen worker's attempt reaches into the time of the one that won, and is marked."""
    page.goto(f"{address}/jobs/{scene.zombie}")
    won, zombie = (
        page.locator("rect.won").bounding_box(),
        page.locator("rect.zombie").bounding_box(),
    )
    assert won is not None
    assert zombie is not None
    assert zombie["x"] <= won["x"]
    assert won["x"] + won["width"] <= zombie["x"] + zombie["width"]
    assert won["y"] > zombie["y"]
    expect(page.locator("g.refused")).to_have_count(1)
    expect(page.locator("text.record")).to_have_text("committed: the record, token 2")


def test_jobs_are_filtered_without_leaving_the_page(page: Page, address: str) -> None:
    page.goto(f"{address}/jobs")
    page.get_by_label("State").select_option("dead")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "state=dead" in page.url
    page.go_back()
    page.goto(f"{address}/jobs?state=scheduled")
    expect(page.get_by_label("State")).to_have_value("scheduled")


def test_many_jobs_are_cancelled_at_once(page: Page, scene: Scene, address: str) -> None:
    handles = scene.app.enqueue_many(
        scene.app.tasks["reports.render"].request(pages=n) for n in range(3)
    )
    page.goto(f"{address}/jobs?task=reports.render&state=throttled")
    page.get_by_label("all on this page").check()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("4 of 4 jobs were cancelled")
    assert {handle.status().state for handle in handles} == {State.CANCELLED}


def test_each_action_by_its_button(page: Page, scene: Scene, address: str) -> None:
    def said(text: str | re.Pattern[str]) -> None:
        expect(page.get_by_role("status")).to_have_text(text)

    page.goto(f"{address}/queues")
    page.get_by_role("row", name="reports").get_by_role("button", name="Resume").click()
    said("queue reports goes on")
    page.get_by_label("Pause queue").fill("mail")
    page.get_by_label("for").select_option("8h")
    page.get_by_role("button", name="Pause").last.click()
    said("queue mail is paused")

    page.goto(f"{address}/schedules")
    page.get_by_role("button", name="Run now").click()
    said(re.compile(r"job \d+ is enqueued"))
    page.get_by_role("button", name="Pause").click()
    said("schedule nightly is paused")
    page.get_by_role("button", name="Resume").click()
    said("schedule nightly goes on")
    page.get_by_role("button", name="Delete").click()
    said("schedule nightly is deleted")

    page.goto(f"{address}/jobs/{scene.scheduled}")
    page.get_by_role("button", name="Cancel").click()
    said("1 of 1 jobs were cancelled")

    page.goto(f"{address}/dead")
    page.get_by_role("button", name="Retry all dead jobs").click()
    said("1 dead jobs are to run again")

    page.goto(f"{address}/ambiguous")
    page.get_by_role("button", name="It is done").click()
    said(f"job {scene.ambiguous}: done")

    page.goto(f"{address}/integrity")
    page.get_by_role("button", name="Check them").click()
    expect(page.locator(".checks li.ok")).to_have_count(10)

    page.goto(f"{address}/audit")
    expect(page.locator("tbody tr", has_text="job.resolve")).to_have_count(1)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_it_is_used_by_the_keyboard(page: Page, address: str) -> None:
    page.goto(f"{address}/jobs")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("State")).to_be_focused()


def test_hostile_text_runs_nothing(page: Page, scene: Scene, address: str) -> None:
    """A dialog would have to be closed before the page could be read."""
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    for path in ("/jobs", f"/jobs/{scene.hostile}", f"/jobs/{scene.dead}", "/dead"):
        page.goto(f"{address}{path}")
    assert dialogs == []
