"""What of a job's arguments is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobq.encryption import is_sealed

HIDDEN = "•••"
ENCRYPTED = "(encrypted)"
DEFAULT_PATTERNS = (
    "passw",
    "secret",
    "token",
    "authorization",
    "cookie",
    "api_?key",
    "private",
    "card",
    "iban",
    "cvc",
    "ssn",
)
MOST_CHARACTERS = 20_000


@dataclass(frozen=True)
class Redaction:
    """Values under keys that fit a pattern are hidden, at any depth; or all of them are."""

    patterns: Sequence[str] = DEFAULT_PATTERNS
    hides_all: bool = False

    def shown(self, text: str | None, *, indent: int | None = None) -> str:
        """A JSON text as it may be seen. What is no JSON is hidden when anything is."""
        if text is None:
            return ""
        if self.hides_all:
            return HIDDEN
        try:
            value = json.loads(text)
        except ValueError:
            return HIDDEN if self.patterns else text[:MOST_CHARACTERS]
        told = json.dumps(self._redacted(value), ensure_ascii=False, indent=indent)
        if len(told) <= MOST_CHARACTERS:
            return told
        return f"{told[:MOST_CHARACTERS]}… ({len(told):,} characters)"

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, dict):
            if is_sealed(value):
                return ENCRYPTED
            return {
                key: HIDDEN if self._is_hidden(key) else self._redacted(inner)
                for key, inner in value.items()
            }
        return [self._redacted(inner) for inner in value] if isinstance(value, list) else value

    def _is_hidden(self, key: str) -> bool:
        return any(re.search(pattern, key, re.IGNORECASE) for pattern in self.patterns)
