"""What handlers return, as JSON in their jobs' records. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from jobq.errors import InvalidResult, InvalidTask
from jobq.protocol.arguments import from_json, to_json

MAX_RESULT_BYTES = 256 * 1024
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""As JSON escapes it, and not the text of such an escape."""


class Results:
    """The results of one task: written from what its handler returns, read by its annotation."""

    def __init__(self, task: str, returned: Any) -> None:
        """`returned`: the handler's return annotation. Raises InvalidTask."""
        self._task = task
        self._type = returned
        try:
            self._decoder = msgspec.json.Decoder(returned, dec_hook=from_json)
        except (TypeError, ValueError) as error:
            raise InvalidTask(
                f"task {task!r} returns {returned!r}, which cannot be read from JSON ({error}): "
                "annotate what JSON can hold, or register it with keep_result=False"
            ) from error

    def encode(self, result: object) -> str:
        """Return it as JSON. Raises InvalidResult."""
        try:
            encoded = msgspec.json.encode(result, enc_hook=to_json)
            if _NUL.search(encoded):
                raise ValueError("it contains a NUL character")
            self._decoder.decode(encoded)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise InvalidResult(
                f"task {self._task!r} returned {type(result).__qualname__}, which cannot be kept "
                f"as JSON that reads as {self._type!r} ({error}): return what its annotation says, "
                "or register it with keep_result=False"
            ) from error
        if len(encoded) > MAX_RESULT_BYTES:
            raise InvalidResult(
                f"task {self._task!r} returned {len(encoded):,} bytes of JSON, more than "
                f"{MAX_RESULT_BYTES:,}: store the payload elsewhere and return its key"
            )
        return encoded.decode()

    def decode(self, recorded: str) -> Any:
        """Raises InvalidResult when an older version of the task recorded something else."""
        try:
            return self._decoder.decode(recorded)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise InvalidResult(
                f"task {self._task!r}: what was recorded does not fit {self._type!r}, which it "
                f"returns now ({error}); the JSON itself is in the job's status"
            ) from error


def plain_result(recorded: str) -> Any:
    """Return the result of a task that this app does not have, as JSON has it."""
    return msgspec.json.decode(recorded)
