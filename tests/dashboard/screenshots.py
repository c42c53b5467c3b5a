"""The pictures in docs/dashboard.md: `python -m tests.dashboard.screenshots`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

from jobq import JobQueue, schema
from jobq.dashboard import create_dashboard
from jobq.embedded import EmbeddedPostgres
from jobq.store.elapsed import elapse
from tests.dashboard.browser import chromium, served
from tests.dashboard.scene import Scene, make_scene

FOLDER = Path(__file__).parents[2] / "docs" / "dashboard"
MINUTES = 55
TOKEN = "a token of more than sixteen characters"
Scheme = Literal["light", "dark"]


def live_an_hour(app: JobQueue) -> None:
    """Have jobs come and go for an hour, a minute in an instant."""
    drawn = random.Random(7)
    send = app.tasks["mail.send"]
    for minute in range(MINUTES):
        busy = 12 + 10 * (minute % 20 > 12)
        count = drawn.randint(busy, 2 * busy)
        with app.worker(queues=["mail"], poll_s=0.01):
            for job in app.enqueue_many(send.request(to=f"{n}@example.org") for n in range(count)):
                job.wait(30)
        app.database.run(elapse(app.database.store.portable, 60.0))


def take(scene: Scene, address: str) -> None:
    shots: list[tuple[str, str, Scheme, tuple[int, int]]] = [
        ("overview", "/", "light", (1200, 900)),
        ("overview-dark", "/", "dark", (1200, 900)),
        ("job", f"/jobs/{scene.zombie}", "light", (1200, 1000)),
        ("jobs", "/jobs", "light", (1200, 760)),
        ("dead", "/dead", "light", (1200, 520)),
        ("integrity", "/integrity", "dark", (1200, 1000)),
        ("queues", "/queues", "light", (1200, 480)),
        ("job-phone", f"/jobs/{scene.zombie}", "light", (360, 740)),
        ("queues-phone", "/queues", "dark", (360, 740)),
        ("overview-phone", "/", "dark", (360, 740)),
    ]
    with chromium() as browser:
        for name, path, scheme, (width, height) in shots:
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(f"{address}/login")
            page.get_by_label("Token").fill(TOKEN)
            page.get_by_label("Your name").fill("ada@example.org")
            page.get_by_role("button", name="Log in").click()
            page.goto(f"{address}{path}")
            if path == "/integrity":
                page.get_by_role("button", name="Check them").click()
                page.locator(".checks").wait_for()
            page.screenshot(path=FOLDER / f"{name}.png")
            page.close()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with EmbeddedPostgres() as server:
        schema.upgrade(server.url())
        history = make_scene(server.url())
        live_an_hour(history.app)
        history.app.close()
        scene = make_scene(server.url())
        with served(create_dashboard(scene.app, token=TOKEN)) as address:
            take(scene, address)
        scene.app.close()


if __name__ == "__main__":
    main()
