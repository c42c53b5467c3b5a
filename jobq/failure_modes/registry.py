"""The catalogue's entries, in order. A part that is missing is found by tests/failure_modes."""

from __future__ import annotations

from types import ModuleType

from jobq.failure_modes import (
    fm_001_duplicate_effect,
    fm_004_zombie_reports,
    fm_005_crash_after_committed,
    fm_006_recovery_on_an_old_snapshot,
    fm_007_zombie_wins_after_rollback,
    fm_008_savepoint_swallow,
    fm_009_ambiguous_commit,
    fm_029_fate_race,
    fm_036_commit_that_was_a_rollback,
)
from jobq.failure_modes.catalogue import FailureMode

MODULES: tuple[ModuleType, ...] = (
    fm_001_duplicate_effect,
    fm_004_zombie_reports,
    fm_005_crash_after_committed,
    fm_006_recovery_on_an_old_snapshot,
    fm_007_zombie_wins_after_rollback,
    fm_008_savepoint_swallow,
    fm_009_ambiguous_commit,
    fm_029_fate_race,
    fm_036_commit_that_was_a_rollback,
)

FAILURE_MODES: tuple[FailureMode, ...] = tuple(module.FM for module in MODULES)
