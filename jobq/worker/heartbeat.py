"""Leases are kept alive from a thread and a connection of its own.

Not from the event loop, which a handler may block; not from a pool, which handlers may empty;
and until the last handler has ended, a draining worker's too.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable

from jobq.database.base import Database
from jobq.errors import JobqError
from jobq.logs import FieldLogger
from jobq.protocol.progress import Told
from jobq.protocol.values import Heartbeat, Lease
from jobq.store.progress import report_progress

logger = logging.getLogger("jobq.worker")

RETRY_S = 0.5
PROGRESS_INTERVAL_S = 1.0
"""Progress is written no more often."""


class HeartbeatThread:
    """Extends every lease when a third of its time has passed.

    `tell` is called from the thread with what each heartbeat learned.
    """

    def __init__(
        self,
        database: Database,
        worker: str,
        lease_s: float,
        tell: Callable[[Heartbeat], None],
        about: str | None = None,
    ) -> None:
        self._link = database.link()
        self._store = database.store
        self._worker = worker
        self.log = FieldLogger(logger, worker=worker)
        self._lease_s = lease_s
        self._tell = tell
        self._about = about
        self._extended_s: dict[Lease, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._nudge = threading.Event()
        self._told: dict[Lease, Told] = {}
        self._thread = threading.Thread(target=self._beat, name="jobq-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Blocks until the heartbeat under way is done."""
        self._stop.set()
        self._nudge.set()
        self._thread.join()
        self._link.close()

    def add(self, leases: Iterable[Lease], granted_s: float) -> None:
        """Keep leases that were asked for at `granted_s` on the monotonic clock."""
        with self._lock:
            self._extended_s.update(dict.fromkeys(leases, granted_s))

    def remove(self, lease: Lease) -> None:
        with self._lock:
            self._extended_s.pop(lease, None)

    def report_progress(self, lease: Lease, told: Told) -> None:
        """Write this soon; of several reports of one attempt the last. Does not block."""
        with self._lock:
            if lease in self._extended_s:
                self._told[lease] = told
                self._nudge.set()

    def has_expired(self, lease: Lease) -> bool:
        """Whether so much time passed that the lease may be gone: a job not yet started is not
        worth starting. (Whether it is gone, only the database can say.)"""
        with self._lock:
            extended_s = self._extended_s.get(lease)
        return extended_s is None or time.monotonic() - extended_s >= self._lease_s

    def _beat(self) -> None:
        beat_s = self._lease_s / 6
        while not self._stop.is_set():
            try:
                self._extend_due()
                if self._write_progress():
                    self._stop.wait(min(PROGRESS_INTERVAL_S, beat_s))
            except JobqError as error:
                self.log.warning(
                    "heartbeat failed and will be repeated: %s",
                    error,
                    extra={
                        "error_type": type(error).__qualname__,
                        "error_message": str(error),
                    },
                )
                self._stop.wait(min(RETRY_S, beat_s) * random.uniform(0.5, 1.5))  # noqa: S311
            except Exception:
                self.log.exception("heartbeat failed and will be repeated")
                self._stop.wait(RETRY_S)
            else:
                # Asked again, since the nudge that came with it may just have been cleared.
                if not self._stop.is_set():
                    self._nudge.wait(beat_s)

    def _write_progress(self) -> bool:
        with self._lock:
            self._nudge.clear()
            told, self._told = self._told, {}
        if told:
            self._link.run(report_progress(self._store.portable, told))
        return bool(told)

    def _extend_due(self) -> None:
        began_s = time.monotonic()
        with self._lock:
            due = [
                lease
                for lease, extended_s in self._extended_s.items()
                if began_s - extended_s >= self._lease_s / 3
            ]
        step = self._store.heartbeat(self._worker, due, self._lease_s, self._about)
        learned = self._link.run(step)
        with self._lock:
            for lease in due:
                if lease in self._extended_s and lease not in learned.lost:
                    self._extended_s[lease] = began_s
        if learned.lost or learned.cancelled:
            self._tell(learned)
