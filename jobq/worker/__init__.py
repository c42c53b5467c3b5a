"""A worker: claims jobs, runs their handlers, keeps their leases, reports what became of them."""

from jobq.worker.options import WorkerOptions, WorkerSettings
from jobq.worker.running import RunningWorker
from jobq.worker.worker import Worker

__all__ = ["RunningWorker", "Worker", "WorkerOptions", "WorkerSettings"]
