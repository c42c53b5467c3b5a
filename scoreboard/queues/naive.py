"""The queue everybody writes first, on jobq's tables: `jobq.failure_modes.naive`.

The adapter, its handler and its settings are jobq's. There is no commit record: the effect is in a
transaction of its own, and the job is marked done afterwards by its id.
"""

from __future__ import annotations

import os
from dataclasses import replace

from jobq import JobQueue
from jobq.failure_modes.naive import naive_queue
from scoreboard.adapter import main
from scoreboard.queues.jobq import Jobq


class Naive(Jobq):
    about = replace(Jobq.about, effect="in a transaction of its own", sources=())

    def open(self) -> JobQueue:
        os.environ["JOBQ_DATABASE_URL"] = self.url
        return naive_queue(schema="jobq")


if __name__ == "__main__":
    main(Naive)
