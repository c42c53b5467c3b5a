"""Log records with fields (`extra`), by the names of docs/observability.md.

The text says everything to a person; the fields say it again to a machine.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from jobq.protocol.values import ClaimedJob


class FieldLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds its own fields to those of each call."""

    def __init__(self, logger: logging.Logger, **fields: object) -> None:
        super().__init__(logger, fields)

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[object, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def log_of_attempt(logger: logging.Logger, claimed: ClaimedJob, worker: str) -> FieldLogger:
    """The logger with what is known of an attempt. To be made when there is something to say."""
    return FieldLogger(
        logger,
        job_id=claimed.lease.job_id,
        token=claimed.lease.token,
        task=claimed.task,
        queue=claimed.queue,
        attempt=claimed.attempt,
        max_attempts=claimed.max_attempts,
        worker=worker,
    )
