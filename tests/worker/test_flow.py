"""Workers release what waited for the jobs they end, and find what others left."""

from __future__ import annotations

from sqlalchemy import Connection, insert

from jobq import Job, JobQueue, State, chain, group
from tests.worker.charges import ledger
from tests.worker.conftest import BOUND_S, Site, wait_for


def test_stages_run_in_their_order_and_the_callback_once(site: Site) -> None:
    app = JobQueue(site.url)

    @app.task(name="part")
    def part(db: Connection, job: Job, stage: int) -> None:
        db.execute(insert(ledger).values(job_id=job.id, charged_by=str(stage)))

    stages = [[part.request(stage=number) for _ in range(8)] for number in range(3)]
    requests = group(chain(*stages), then=part.request(stage=3))
    handles = app.enqueue_many(requests)
    with app.worker(poll_s=0.05), app.worker(poll_s=0.05):
        assert handles[-1].wait(BOUND_S).state in (State.COMMITTED, State.DONE)
        site.wait_until_done(len(handles))
    with site.engine.connect() as connection:
        rows = connection.execute(ledger.select()).all()
    stage_of = {row.job_id: int(row.charged_by) for row in rows}
    assert sorted(stage_of) == sorted(handle.id for handle in handles)
    records = site.rows("commit_records")
    ended = sorted((row["recorded_at"], stage_of[row["job_id"]]) for row in records)
    assert [stage for _, stage in ended] == sorted(stage for _, stage in ended)
    app.close()


def test_a_dead_member_cancels_what_follows_and_runs_the_alarm(site: Site) -> None:
    app = JobQueue(site.url)

    @app.task(name="fails", max_attempts=1)
    def fails() -> None:
        raise ValueError

    @app.task(name="works")
    def works() -> None: ...

    handles = app.enqueue_many(
        group([works.request(), fails.request()], then=works.request(), otherwise=works.request())
    )
    _, member, then, otherwise = handles
    afterwards = works.using(after=member, when="ended").enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: then.status().state is State.CANCELLED, "what follows to go", site)
        assert otherwise.wait(BOUND_S).state in (State.COMMITTED, State.DONE)
        assert afterwards.wait(BOUND_S).state in (State.COMMITTED, State.DONE)
    app.close()
