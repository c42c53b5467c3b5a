"""The dashboard by HTTP: what it shows, to whom, and what it lets whom do."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient

from jobq import InvalidOption, JobQueue, State
from jobq.dashboard import create_dashboard
from jobq.dashboard.redaction import HIDDEN, Redaction
from jobq.encryption import Encryption
from tests.dashboard.scene import HOSTILE, Scene

TOKEN = "a token of more than sixteen characters"
PAGES = (
    *("/", "/queues", "/jobs", "/schedules", "/workers", "/dead", "/ambiguous", "/integrity"),
    *("/integrity/invariants", "/audit", "/live"),
)


class Tags(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def logged_in(app: JobQueue, name: str = "ada") -> TestClient:
    client = TestClient(create_dashboard(app, token=TOKEN), follow_redirects=False)
    answer = client.post("/login", data={"token": TOKEN, "name": name})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return client


def csrf_of(client: TestClient, path: str = "/queues") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def test_every_page_as_everybody_may_see_it(still: Scene) -> None:
    client = TestClient(create_dashboard(still.app))
    paths = [*PAGES, *(f"/jobs/{job_id}" for job_id in (still.done, still.dead, still.zombie))]
    for path in [*paths, f"/jobs/{still.hostile}", f"/jobs/{still.ambiguous}"]:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert 'method="post" action="/queues' not in answer.text
        for tag, attributes in Tags(answer.text).seen:
            assert "style" not in attributes, (path, tag)
            assert not [name for name in attributes if name.startswith("on")], (path, tag)
            assert tag not in ("img", "iframe", "style"), path
            assert tag != "script" or (attributes.get("src") or "").startswith("/static/"), path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_what_the_pages_tell(still: Scene) -> None:
    client = TestClient(create_dashboard(still.app))
    assert "sent to ada@example.org" in client.get(f"/jobs/{still.done}").text
    zombie = client.get(f"/jobs/{still.zombie}").text
    assert 'class="zombie"' in zombie
    assert 'class="refused"' in zombie
    assert "committed: the record, token 2" in zombie
    assert "it changed nothing" in zombie
    assert "card of 7 was declined" in client.get("/dead?error_type=ValueError").text
    assert "card of 7" not in client.get("/dead?error_type=TypeError").text
    assert "nightly" in client.get("/schedules").text
    assert ">2100-01-01 00:00:00<" in client.get("/queues").text
    assert "queue.pause" in client.get("/audit").text
    assert f">{still.zombie}</a>" in client.get("/integrity").text
    assert "violated" not in client.get("/integrity/invariants").text
    assert client.get("/jobs/999999").status_code == 404
    assert client.get("/nothing").status_code == 404


def test_what_has_just_been_done_is_counted(scene: Scene) -> None:
    """A scene is younger than a minute, or not much older."""
    recent = scene.app.jobs.recent(1)
    page = TestClient(create_dashboard(scene.app)).get("/").text
    shown = re.findall(r"<dd>(\d+)<small>this minute and the last<", page)
    assert shown == [str(sum(one.committed for one in recent.minutes)), *shown[1:]]
    assert int(shown[1]) == sum(one.enqueued for one in recent.minutes) > 0


def test_jobs_are_filtered_and_paged(scene: Scene) -> None:
    client = TestClient(create_dashboard(scene.app))
    assert f">{scene.scheduled}</a>" in client.get("/jobs?state=scheduled").text
    assert f">{scene.done}</a>" not in client.get("/jobs?state=scheduled").text
    scene.app.enqueue_many(scene.app.tasks["mail.send"].request(to="x") for _ in range(60))
    first = client.get("/jobs?task=mail.send")
    older = re.search(r'href="(/jobs\?[^"]+)" rel="next"', first.text)
    assert older is not None
    second = client.get(older[1].replace("&amp;", "&"))
    ids = [set(re.findall(r'href="/jobs/(\d+)"', page.text)) for page in (first, second)]
    assert len(ids[0]) == 50
    assert not ids[0] & ids[1]
    rows = client.get("/jobs?queue=odd", headers={"HX-Request": "true"}).text
    assert "<html" not in rows
    assert f">{scene.hostile}</a>" in rows
    assert client.get("/jobs?state=lost").status_code == 400


def test_hostile_text_stays_text(still: Scene) -> None:
    client = TestClient(create_dashboard(still.app))
    for path in ("/jobs", f"/jobs/{still.hostile}", f"/jobs/{still.dead}", "/dead", "/integrity"):
        assert "<script>alert" not in client.get(path).text, path
        assert "<img" not in client.get(path).text, path
    assert "&lt;script&gt;" in client.get(f"/jobs/{still.hostile}").text
    assert HOSTILE not in client.get("/jobs", params={"task": HOSTILE}).text


def test_secrets_are_hidden(still: Scene) -> None:
    shown = TestClient(create_dashboard(still.app)).get(f"/jobs/{still.done}").text
    assert "hunter2" not in shown
    assert HIDDEN in shown
    hiding = TestClient(create_dashboard(still.app, show_arguments=False))
    for path in (f"/jobs/{still.done}", f"/jobs/{still.dead}", "/jobs", "/dead"):
        assert "example.org" not in hiding.get(path).text
        assert "was declined" not in hiding.get(path).text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('{"Password": "x", "b": [{"api_key": "y", "c": 2}]}', None),
        ("no json", HIDDEN),
        (Encryption([Fernet.generate_key().decode()]).seal("arguments", "{}"), '"(encrypted)"'),
    ],
)
def test_redaction(text: str, shown: str | None) -> None:
    found = Redaction().shown(text)
    assert found == (shown or '{"Password": "•••", "b": [{"api_key": "•••", "c": 2}]}')


def test_nothing_is_done_without_a_token(still: Scene) -> None:
    client = TestClient(create_dashboard(still.app))
    answer = client.post("/jobs/cancel", data={"job": str(still.scheduled), "csrf": ""})
    assert answer.status_code == 403
    assert "read-only" in answer.text
    assert still.app.status(still.scheduled).state is State.SCHEDULED


def test_with_a_token_nobody_else_sees_anything(still: Scene) -> None:
    client = TestClient(create_dashboard(still.app, token=TOKEN), follow_redirects=False)
    for path in PAGES:
        answer = client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
    assert client.get("/live", headers={"HX-Request": "true"}).status_code == 401
    wrong = client.post("/login", data={"token": "guessed, and long enough", "name": "eve"})
    assert wrong.status_code == 401
    assert not client.cookies
    for short in ("", "short"):
        with pytest.raises(InvalidOption, match="16 characters"):
            create_dashboard(still.app, token=short)


def test_the_session_is_signed_and_kept_from_scripts(still: Scene) -> None:
    client = logged_in(still.app)
    cookie = client.cookies["jobq_session"]
    assert client.get("/").status_code == 200
    client.cookies.clear()
    client.cookies["jobq_session"] = f"{cookie[:-2]}xx"
    assert client.get("/").status_code == 303
    again = TestClient(create_dashboard(still.app, token=TOKEN), base_url="https://testserver")
    set_cookie = again.post(
        "/login", data={"token": TOKEN, "name": ""}, follow_redirects=False
    ).headers["set-cookie"]
    for word in ("HttpOnly", "SameSite=strict", "Secure", "Path=/"):
        assert word in set_cookie


@pytest.mark.parametrize(
    ("headers", "csrf"),
    [
        ({}, ""),
        ({}, "made up"),
        ({"sec-fetch-site": "cross-site"}, None),
        ({"sec-fetch-site": "same-site"}, None),
        ({"origin": "https://evil.example"}, None),
    ],
)
def test_forged_requests_change_nothing(
    still: Scene, headers: dict[str, str], csrf: str | None
) -> None:
    client = logged_in(still.app)
    given = csrf_of(client) if csrf is None else csrf
    answer = client.post(
        "/jobs/cancel", data={"job": str(still.scheduled), "csrf": given}, headers=headers
    )
    assert answer.status_code == 403
    assert still.app.status(still.scheduled).state is State.SCHEDULED


def test_actions_are_done_and_audited(scene: Scene) -> None:
    app = scene.app
    client = logged_in(app, "ada@example.org")
    csrf = csrf_of(client)

    def act(path: str, **fields: object) -> str:
        answer = client.post(path, data={"csrf": csrf, **fields})
        assert answer.status_code == 303, answer.text
        page = client.get(answer.headers["location"]).text
        found = re.search(r'role="status">([^<]+)<', page)
        assert found is not None, page
        return found[1]

    assert act("/queues/pause", queue="mail", **{"for": "1h"}) == "queue mail is paused"
    assert act("/queues/resume", queue="mail") == "queue mail goes on"
    ids = [str(scene.dead), str(scene.done)]
    assert act("/jobs/retry", job=ids) == "1 of 2 jobs are to run again"
    assert act("/jobs/cancel", job=[str(scene.scheduled)], back=str(scene.scheduled)) == (
        "1 of 1 jobs were cancelled"
    )
    assert act("/schedules/run", schedule="nightly").endswith("is enqueued")
    assert act("/schedules/pause", schedule="nightly") == "schedule nightly is paused"
    assert act("/schedules/resume", schedule="nightly") == "schedule nightly goes on"
    assert act("/schedules/delete", schedule="nightly") == "schedule nightly is deleted"
    assert act("/dead/retry", task="billing.charge", spread="1") == "0 dead jobs are to run again"
    (asked,) = app.ambiguous.list()
    stale = {"job": asked.id, "of_token": asked.token + 1, "resolution": "done"}
    assert act("/ambiguous/resolve", **stale).startswith("nothing was changed")
    settled = {**stale, "of_token": asked.token}
    assert act("/ambiguous/resolve", **settled) == f"job {asked.id}: done"
    assert act("/ambiguous/resolve", **settled).startswith("nothing was changed")
    failed = client.post("/schedules/run", data={"csrf": csrf, "schedule": "hourly"})
    assert failed.status_code == 400
    assert "no schedule &#39;hourly&#39;" in failed.text

    done = [(one.actor, one.action) for one in app.audit.list() if one.actor != "ada"]
    assert {actor for actor, _ in done} == {"ada@example.org"}
    assert len(done) == 10
    out = client.post("/logout", data={"csrf": csrf})
    assert out.headers["location"] == "/login"
    assert client.get("/").status_code == 303


def test_words_are_not_put_into_its_mouth(still: Scene) -> None:
    client = TestClient(create_dashboard(still.app))
    assert "send money" not in client.get("/?told=send+money").text


def test_mounted_into_a_service_with_its_own_authentication(scene: Scene) -> None:
    async def name_of(request: Request) -> str | None:
        return request.headers.get("x-user")

    service = FastAPI()
    service.mount("/ops/jobs", create_dashboard(scene.app, authorize=name_of))
    client = TestClient(service, follow_redirects=False)
    assert client.get("/ops/jobs/").status_code == 403
    client.headers["x-user"] = "grace"
    page = client.get("/ops/jobs/queues")
    assert page.status_code == 200
    links = [its["href"] for tag, its in Tags(page.text).seen if tag == "a" and its.get("href")]
    assert all(link == "#main" or (link or "").startswith("/ops/jobs/") for link in links), links
    assert client.get("/ops/jobs/static/style.css").status_code == 200
    csrf = csrf_of(client, "/ops/jobs/queues")
    answer = client.post("/ops/jobs/queues/pause", data={"csrf": csrf, "queue": "mail"})
    assert answer.headers["location"].startswith("/ops/jobs/queues?told=")
    client.headers["x-user"] = "mallory"
    assert (
        client.post("/ops/jobs/queues/resume", data={"csrf": csrf, "queue": "mail"}).status_code
        == 403
    )
    assert scene.app.audit.list()[0].actor == "grace"


def test_only_the_names_it_was_given(still: Scene) -> None:
    client = TestClient(create_dashboard(still.app, allowed_hosts=["127.0.0.1"]))
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"host": "127.0.0.1:8080"}).status_code == 200


def test_a_token_or_the_hosts_own_authentication(still: Scene) -> None:
    with pytest.raises(InvalidOption, match="pass one of them"):
        create_dashboard(still.app, token=TOKEN, authorize=lambda _: "x")
