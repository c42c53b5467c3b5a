"""The catalogue's entries, in order: the modules `fm_NNN_...` beside this one."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from jobq import failure_modes
from jobq.failure_modes.catalogue import FailureMode

MODULES: tuple[ModuleType, ...] = tuple(
    import_module(f"{failure_modes.__name__}.{module.name}")
    for module in sorted(iter_modules(failure_modes.__path__), key=lambda module: module.name)
    if module.name.startswith("fm_")
)

FAILURE_MODES: tuple[FailureMode, ...] = tuple(module.FM for module in MODULES)
