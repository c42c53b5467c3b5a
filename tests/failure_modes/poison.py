"""The poison job on a queue that counts failures only, for worker processes to import."""

from __future__ import annotations

import os
import signal

from jobq import Retry
from jobq.failure_modes.fm_010_poison_job import weaken
from jobq.failure_modes.weakened import WeakenedQueue

app = WeakenedQueue(weaken)


@app.task(
    name="tests.worker.charges.kill_own_process",
    max_attempts=3,
    retry=Retry(base_s=0.05, cap_s=0.1),
)
def kill_own_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
