"""The catalogue's entries, in order. A part that is missing is found by tests/failure_modes."""

from __future__ import annotations

from types import ModuleType

from jobq.failure_modes import (
    fm_001_duplicate_effect,
    fm_010_poison_job,
    fm_011_heartbeat_starved,
    fm_013_deaf_worker,
    fm_014_clock_skew,
    fm_016_database_restart,
    fm_026_frozen_inside_the_effect,
    fm_031_orphaned_running_jobs,
)
from jobq.failure_modes.catalogue import FailureMode

MODULES: tuple[ModuleType, ...] = (
    fm_001_duplicate_effect,
    fm_010_poison_job,
    fm_011_heartbeat_starved,
    fm_013_deaf_worker,
    fm_014_clock_skew,
    fm_016_database_restart,
    fm_026_frozen_inside_the_effect,
    fm_031_orphaned_running_jobs,
)

FAILURE_MODES: tuple[FailureMode, ...] = tuple(module.FM for module in MODULES)
