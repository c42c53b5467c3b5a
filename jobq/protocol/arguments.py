"""A job's arguments as JSON: checked against the handler's signature when they are enqueued.

The rule is one sentence: what is enqueued is what the handler gets. Arguments are written as
JSON, read back through the handler's type hints, and compared; what would arrive changed (a
tuple in a parameter without annotation, say) is refused where it is enqueued.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from jobq.errors import ArgumentsTooLarge, InvalidArguments, InvalidTask, UnreadableArguments

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# msgspec would write these as base64 text; left as they are, `_refuse_unstorable` sees them.
_BINARY = (bytes, bytearray, memoryview)

MAX_DEPTH = 100
"""Lists and dicts inside one another. Python's own recursion limit would depend on who encodes:
what an enqueue just manages, a worker with a deeper stack might not read."""
_MAX_SHOWN_CHARACTERS = 100


class Arguments:
    """The arguments of one task: parameters by name, as its handler declares them."""

    def __init__(self, task: str, parameters: Sequence[inspect.Parameter]) -> None:
        """Raises InvalidTask when a parameter cannot be given by name or its type not be read."""
        self._task = task
        for parameter in parameters:
            if parameter.kind not in (
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                inspect.Parameter.KEYWORD_ONLY,
            ):
                raise InvalidTask(
                    f"task {task!r}: parameter {parameter} cannot be checked by name; a handler "
                    "takes ordinary named parameters"
                )
        self._signature = inspect.Signature(list(parameters))
        try:
            # An argument left out stays out: the handler's own default applies when it runs.
            fields = [
                (p.name, _type_of(p))
                if p.default is p.empty
                else (p.name, _type_of(p) | msgspec.UnsetType, msgspec.UNSET)
                for p in parameters
            ]
            self._struct = msgspec.defstruct(
                "Arguments", fields, kw_only=True, forbid_unknown_fields=True
            )
            self._decoder = msgspec.json.Decoder(self._struct, dec_hook=from_json)
        except (TypeError, ValueError) as error:
            raise InvalidTask(
                f"task {task!r}: its parameters' types cannot be read from JSON ({error})"
            ) from error

    def encode(
        self, args: Sequence[object], kwargs: Mapping[str, object], *, max_bytes: int
    ) -> str:
        """Return the arguments as a JSON object.

        Raises InvalidArguments or ArgumentsTooLarge, naming the argument and the cause.
        """
        try:
            is_bound = not args and kwargs.keys() == self._signature.parameters.keys()
            given = kwargs if is_bound else self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidArguments(
                f"task {self._task!r} takes {self._signature}: {error}"
            ) from error
        try:
            plain = msgspec.to_builtins(
                given, str_keys=True, builtin_types=_BINARY, enc_hook=to_json
            )
            for name, value in plain.items():
                self._refuse_unstorable(value, name)
            encoded = msgspec.json.encode(plain)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidArguments(
                f"task {self._task!r}: its arguments cannot be written as JSON ({error})"
            ) from error
        if len(encoded) > max_bytes:
            raise ArgumentsTooLarge(
                f"task {self._task!r}: its arguments take {len(encoded):,} bytes of JSON, more "
                f"than the limit of {max_bytes:,}: store the payload elsewhere and enqueue its "
                "key, or raise JobQueue(max_args_bytes=...)"
            )
        self._refuse_changed(given, encoded)
        return encoded.decode()

    def decode(self, encoded: str) -> dict[str, Any]:
        """Return the keyword arguments of a stored job.

        Raises UnreadableArguments when they do not fit the handler as it is now.
        """
        try:
            return _given(self._decoder.decode(encoded))
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise UnreadableArguments(
                f"task {self._task!r}: the stored arguments do not fit the handler, which takes "
                f"{self._signature} ({error}); was its signature changed under enqueued jobs?"
            ) from error

    def of_texts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Return arguments that a person wrote: each as JSON if its type can be read from that,
        else as the text that it is. Raises InvalidArguments."""
        self._signature_takes(texts)
        found = {}
        for name, text in texts.items():
            wanted = _type_of(self._signature.parameters[name])
            try:
                found[name] = msgspec.json.decode(text, type=wanted, dec_hook=from_json)
            except msgspec.MsgspecError:
                try:
                    found[name] = msgspec.convert(text, wanted, dec_hook=from_json)
                except msgspec.MsgspecError as error:
                    raise InvalidArguments(
                        f"task {self._task!r}: argument {name} is {_shown(text)}: {error}"
                    ) from error
        return found

    def _signature_takes(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self._signature.parameters]
        if unknown:
            raise InvalidArguments(
                f"task {self._task!r} takes {self._signature}: there is no {', '.join(unknown)}"
            )

    def complete(self, encoded: str) -> dict[str, Any]:
        """Return what the handler sees of a stored job: its keyword arguments, and the defaults of
        those left out, in the handler's order. Raises UnreadableArguments."""
        given = self.decode(encoded)
        return {
            name: given.get(name, parameter.default)
            for name, parameter in self._signature.parameters.items()
        }

    def plain(self, encoded: str) -> dict[str, Any]:
        """Return what a stored job's arguments are as JSON, those left out at their defaults."""
        return {
            **{
                p.name: msgspec.to_builtins(p.default, str_keys=True, enc_hook=to_json)
                for p in self._signature.parameters.values()
                if p.default is not p.empty
            },
            **msgspec.json.decode(encoded),
        }

    def check_names(self, what: str, names: Sequence[str]) -> None:
        """Raise InvalidTask unless each is an argument."""
        for name in names:
            if name not in self._signature.parameters:
                raise InvalidTask(
                    f"task {self._task!r}: {what} names {name!r}, and the handler takes "
                    f"{self._signature}"
                )

    def _refuse_unstorable(self, value: object, path: str, depth: int = 0) -> None:
        """Refuse what JSON or PostgreSQL cannot hold, before it is written as something else."""
        problem = None
        if depth > MAX_DEPTH:
            path = f"{path[:_MAX_SHOWN_CHARACTERS]}..."
            problem = f"is nested deeper than {MAX_DEPTH} levels: flatten it"
        elif isinstance(value, float) and not math.isfinite(value):
            problem = f"is {value}, which JSON cannot hold: pass None or a finite number"
        elif isinstance(value, _BINARY):
            problem = (
                "is binary, which JSON cannot hold: encode it (base64), or enqueue a key to it"
            )
        elif isinstance(value, str) and "\x00" in value:
            problem = "contains a NUL character, which PostgreSQL cannot store: remove it"
        elif isinstance(value, str) and _LONE_SURROGATE.search(value):
            problem = "contains a lone surrogate, which is not valid Unicode: decode it properly"
        if problem is not None:
            raise InvalidArguments(f"task {self._task!r}: argument {path} {problem}")
        if isinstance(value, dict):
            for key, item in value.items():
                self._refuse_unstorable(key, f"{path}, key {_shown(key)},", depth + 1)
                self._refuse_unstorable(item, f"{path}[{_shown(key)}]", depth + 1)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._refuse_unstorable(item, f"{path}[{index}]", depth + 1)

    def _refuse_changed(self, given: Mapping[str, object], encoded: bytes) -> None:
        try:
            arriving = _given(self._decoder.decode(encoded))
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise InvalidArguments(f"task {self._task!r}: {error}") from error
        for name, value in given.items():
            if not _are_equal(arriving[name], value):
                raise InvalidArguments(
                    f"task {self._task!r}: argument {name} is {_shown(value)} but would arrive as "
                    f"{_shown(arriving[name])}: annotate the parameter with its type, or pass what "
                    "JSON can hold"
                )


def _type_of(parameter: inspect.Parameter) -> Any:
    return Any if parameter.annotation is parameter.empty else parameter.annotation


def _given(struct: msgspec.Struct) -> dict[str, Any]:
    values = {name: getattr(struct, name) for name in struct.__struct_fields__}
    return {name: value for name, value in values.items() if value is not msgspec.UNSET}


def _are_equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - an argument's own __eq__ may do anything
        return False


def _shown(value: object) -> str:
    """A value in a message: a payload may be large, and its repr() may do anything."""
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - an argument's own __repr__
        shown = f"a {type(value).__qualname__}"
    if len(shown) > _MAX_SHOWN_CHARACTERS:
        return shown[:_MAX_SHOWN_CHARACTERS] + "..."
    return shown


def to_json(value: Any) -> Any:
    """Models of pydantic's kind, without importing pydantic."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__qualname__} objects have no JSON form")


def from_json(wanted: Any, value: Any) -> Any:
    if wanted is object:
        return value  # what strict typing writes for Any
    if hasattr(wanted, "model_validate"):
        return wanted.model_validate(value)
    raise TypeError(f"cannot make {wanted!r} from JSON")
