"""Arguments and results that are unreadable without a key.

MultiFernet, of the library `cryptography` (AES-128-CBC with a random IV, and HMAC-SHA256). Rather
than AES-GCM, whose random nonces bound how often a key may be used: at a thousand jobs a second it
would have to be replaced every few weeks. What Fernet has no place for, what a text is and whose,
is written before it inside of what is encrypted, and asked for when it is read: so nobody who can
write the tables puts one task's arguments, or a result, in the place of another's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobq.errors import InvalidOption, KeyMissing, MissingExtra
from jobq.protocol.results import Results

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

KEYS_VARIABLE = "JOBQ_ENCRYPTION_KEYS"
HASH_KEY_VARIABLE = "JOBQ_ENCRYPTION_HASH_KEY"

# JSON, for a column that holds JSON; with a space that jobq's own encoder never writes, so that no
# result can be taken for an encrypted one.
_SEALED = "jobq.encrypted"
_BEFORE, _AFTER = f'{{"{_SEALED}": "', '"}'


class Encryption:
    """An app's keys; without any, nothing is encrypted.

    - `keys`: the newest first, with which new texts are encrypted; each opens what it encrypted.
    - `hash_key`: hashes what is only compared, the keys of unique jobs and limits, and opens
      nothing; by default the last of `keys`. Give one, and keep it, to change keys without two
      equal jobs being taken for different ones meanwhile.

    Raises InvalidOption or MissingExtra.
    """

    def __init__(self, keys: Sequence[str] = (), *, hash_key: str | None = None) -> None:
        if isinstance(keys, str):
            raise InvalidOption("encryption: give a list of keys, the newest first")
        self._number = len(keys)
        self._fernet = _fernet(keys) if keys else None
        self._hash_key: bytes | None = None
        if keys:
            hash_key = hash_key or keys[-1]
            _fernet([hash_key])
            self._hash_key = _derived(hash_key)
            self._newest = _derived(keys[0]).hex()

    def seal(self, what: str, plain: str) -> str:
        """Return the text encrypted, if there are keys. `what`: what it is, and whose."""
        if self._fernet is None:
            return plain
        token = self._fernet.encrypt(f"{what}\0{plain}".encode())
        return f"{_BEFORE}{token.decode()}{_AFTER}"

    def unseal(self, what: str, stored: str) -> str:
        """Return the text as it was; one that is not encrypted, as it is. Raises KeyMissing."""
        if not (stored.startswith(_BEFORE) and stored.endswith(_AFTER)):
            return stored
        opened = self._opened(stored[len(_BEFORE) : -len(_AFTER)])
        said, _, plain = opened.partition("\0")
        if opened and said == what:
            return plain
        cause = (
            f"it was put in the place of another ({said!r})"
            if opened
            else f"none of the app's {self._number} keys opens it, or it was changed"
            if self._fernet
            else "the app has no keys"
        )
        raise KeyMissing(
            f"{what}: it is encrypted, and {cause}: see that JobQueue(encryption=...) or "
            f"{KEYS_VARIABLE} has the key with which it was"
        )

    def digest(self, told: str) -> str | None:
        """Return a hash that tells nothing without the keys, the same for the same text; None
        without keys."""
        if self._hash_key is None:
            return None
        return hmac.digest(self._hash_key, told.encode(), "sha256").hex()

    def fingerprint(self, told: str) -> str | None:
        """Return `digest` of the text and the key that encrypts now: another when either is. None
        without keys."""
        return None if self._fernet is None else self.digest(f"{self._newest} {told}")

    def _opened(self, token: str) -> str:
        """Return what was encrypted; nothing when no key fits."""
        if self._fernet is None:
            return ""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(token).decode()
        except (InvalidToken, ValueError):
            return ""


PLAIN = Encryption()


def encryption_of(given: Encryption | Sequence[str] | None) -> Encryption:
    """Return what was given; by default that of the keys in the environment.

    Raises InvalidOption or MissingExtra.
    """
    if isinstance(given, Encryption):
        return given
    if given is not None:
        return Encryption(given)
    told = os.environ.get(KEYS_VARIABLE, "").split(",")
    keys = [key.strip() for key in told if key.strip()]
    return Encryption(keys, hash_key=os.environ.get(HASH_KEY_VARIABLE))


class SealedResults(Results):
    """The results of one task, encrypted if its app has keys."""

    def __init__(self, task: str, returned: Any, encryption: Encryption) -> None:
        super().__init__(task, returned)
        self._what = result_of(task)
        self._encryption = encryption

    def encode(self, result: object) -> str:
        return self._encryption.seal(self._what, super().encode(result))

    def decode(self, recorded: str) -> Any:
        return super().decode(self._encryption.unseal(self._what, recorded))


def is_sealed(value: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is an encrypted text."""
    return value.keys() == {_SEALED}


def arguments_of(task: str) -> str:
    return f"arguments of task {task!r}"


def result_of(task: str) -> str:
    return f"result of task {task!r}"


def step_of(task: str, name: str) -> str:
    return f"step {name!r} of task {task!r}"


def _fernet(keys: Sequence[str]) -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise MissingExtra("encryption", "crypto") from error
    each = []
    for number, key in enumerate(keys, 1):
        try:
            each.append(Fernet(key))
        except (ValueError, TypeError, AttributeError):
            raise InvalidOption(
                f"encryption: key {number} is none: a key is 32 bytes as URL-safe base64, as "
                "cryptography.fernet.Fernet.generate_key() makes them"
            ) from None  # which would show it
    return MultiFernet(each)


def _derived(key: str) -> bytes:
    """A key of its own purpose, derived from one of Fernet's."""
    return hmac.digest(urlsafe_b64decode(key), b"jobq: equal keys and limits", hashlib.sha256)
