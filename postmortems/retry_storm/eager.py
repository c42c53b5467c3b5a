"""The worker that the company wrote first: `python -m postmortems.retry_storm.eager`.

A thread and a connection for every job, a charge of one statement, a timeout on this side of the
connection only, leases that nothing extends, and whatever fails is tried again at once. The
protocol is that of the naive queue: no commit record. Everything it does is a line of JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
import psycopg
from psycopg.pq import ExecStatus

from jobq.database.execute import execute
from jobq.database.url import URL_VARIABLE, conninfo, parse_url
from jobq.failure_modes.naive import NaivePostgresStore
from jobq.protocol.states import AttemptEnd
from jobq.protocol.values import AttemptError, ClaimedJob, FailedAttempt, Lease
from postmortems.retry_storm.app import PATIENCE_VARIABLE
from postmortems.scene import Session

CONCURRENCY_VARIABLE = "POSTMORTEM_CONCURRENCY"
LEASE_VARIABLE = "POSTMORTEM_LEASE_S"
TURN_S = 0.05
EVERYTHING = 1_000_000
CHARGE = b"""
INSERT INTO charges (order_id, cents, claimed_at, charged_by) VALUES ($1, $2, $3, $4)
"""
FAILED = AttemptError("ChargeFailed", "it did not answer in time, or was not reached", "")


class End(StrEnum):
    CHARGED = "charged"
    REFUSED = "refused"
    """The server had no connection left."""
    ABANDONED = "abandoned"
    """There was no answer in time. The server was not told."""


class Arguments(msgspec.Struct):
    order_id: int
    cents: int


@dataclass
class EagerWorker:
    url: str
    concurrency: int
    lease_s: float
    patience_s: float
    store: NaivePostgresStore = field(default_factory=NaivePostgresStore)
    is_stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        name = f"eager:{os.getpid()}:0"
        running: dict[Future[End], ClaimedJob] = {}
        with (
            psycopg.connect(self.url, autocommit=True) as control,
            ThreadPoolExecutor(self.concurrency) as threads,
        ):
            execute(self.store.heartbeat(name, [], self.lease_s), control)
            while not self.is_stopping.is_set():
                self._report(control, running)
                with control.transaction():
                    execute(self.store.reconcile(EVERYTHING, lambda _: 0.0), control)
                with control.transaction():
                    execute(self.store.promote(EVERYTHING), control)
                for claimed in self._claim(control, name, self.concurrency - len(running)):
                    running[threads.submit(self._charge, claimed)] = claimed
                self.is_stopping.wait(TURN_S)

    def _claim(self, control: Session, name: str, limit: int) -> Sequence[ClaimedJob]:
        if limit == 0:
            return ()
        claim = self.store.claim(
            worker=name, queues=["billing"], tasks=["charge"], limit=limit, lease_s=self.lease_s
        )
        with control.transaction():
            return execute(claim, control)

    def _report(self, control: Session, running: dict[Future[End], ClaimedJob]) -> None:
        ended = [future for future in running if future.done()]
        done: list[Lease] = []
        failed: list[FailedAttempt] = []
        for future in ended:
            lease = running.pop(future).lease
            if future.result() is End.CHARGED:
                done.append(lease)
            else:
                failed.append(FailedAttempt(lease, AttemptEnd.FAILED, FAILED, 0.0))
        with control.transaction():
            execute(self.store.finalize(done), control)
        with control.transaction():
            execute(self.store.fail(failed), control)

    def _charge(self, claimed: ClaimedJob) -> End:
        end = self._try_to_charge(claimed)
        _say(end, claimed)
        return end

    def _try_to_charge(self, claimed: ClaimedJob) -> End:
        order = msgspec.json.decode(claimed.args, type=Arguments)
        try:
            connection: Session = psycopg.connect(self.url, autocommit=True)
        except psycopg.OperationalError:
            return End.REFUSED
        parameters: Sequence[Any] = (
            order.order_id,
            order.cents,
            claimed.acquired_at,
            os.getpid(),
        )
        pgconn = connection.pgconn
        pgconn.send_query_params(CHARGE, [_text(value) for value in parameters])
        pgconn.flush()
        answered, _, _ = select.select([pgconn.socket], [], [], self.patience_s)
        if not answered:
            connection.close()  # the server finds out when it has done its work
            return End.ABANDONED
        result = pgconn.get_result()
        connection.close()
        is_made = result is not None and result.status == ExecStatus.COMMAND_OK
        return End.CHARGED if is_made else End.REFUSED


def _text(value: int | datetime) -> bytes:
    return (value.isoformat() if isinstance(value, datetime) else str(value)).encode()


def _say(end: End, claimed: ClaimedJob) -> None:
    line = {"at": time.time(), "end": end.value, "job_id": claimed.lease.job_id}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    worker = EagerWorker(
        conninfo(parse_url(os.environ[URL_VARIABLE])),
        int(os.environ[CONCURRENCY_VARIABLE]),
        float(os.environ[LEASE_VARIABLE]),
        float(os.environ[PATIENCE_VARIABLE]),
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.is_stopping.set())
    worker.run()


if __name__ == "__main__":
    main()
