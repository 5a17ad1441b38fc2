"""The two rules that turn 'is the object still recognised?' per QP level into one JRD level. Pure numpy.

A sequence of flags is seldom monotone: an object that a detector lost at QP 30 may come back at QP 31. The
two rules differ in how they read such dips. Both agree on every monotone sequence (recognised up to some
level, lost from there on).

Convention for flags. `True` means that the object is still recognised at that level. (The published OW-JRD
code uses the opposite sign: class 0 is 'still detectable', class 1 is 'not'.)

Convention for QP grids. With `levels=None` the flags are those of the levels 0..63. Otherwise `levels`
names the measured levels, strictly rising and within 0..63, and nothing is assumed that was not measured: a
level between two measured ones counts as recognised only if the next *higher* measured level is, and a
level above the highest measured one counts as lost. So the JRD of a monotone sequence is the highest
measured level that was recognised.

A JRD of 0 also stands for 'recognised at no measured level', as in the published rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_LEVELS = 64
"""The label space: levels 0..63, the VVC QPs."""

PUBLISHED_WINDOW = 8
"""Length of the sliding window of the published rule (OW-JRD, PredictJRD.py: window_len=8)."""

PUBLISHED_MAX_LOST = 5
"""A window with at most this many lost levels is tolerated (OW-JRD, PredictJRD.py: T=5)."""

LASTING_SPAN = 3
"""Levels over which a loss must hold before `first_lasting_failure` believes it: flips of one or two
neighbouring levels are encoder noise (another split or filter decision), not loss of the object."""


def published_window_rule(flags: ArrayLike, levels: Sequence[int] | None = None) -> int:
    """JRD by the published error-tolerance rule (OW-JRD, TMM 2024, `normalization_labels`).

    At most one flip over 0..63: the highest recognised level. Otherwise a window of 8 levels slides down
    from the high end; the first window whose last level is recognised and in which at most 5 levels are
    lost gives the JRD, its last level. No such window: 0.

    Args:
        flags: bool [n], True = still recognised; n = 64, or one flag per entry of `levels`.
        levels: the measured levels, strictly rising, within 0..63. None: all of 0..63.
    Returns: the JRD, 0..63.
    Raises: ValueError for a wrong shape, values other than 0 and 1, or levels that do not rise or are
    outside.

    >>> published_window_rule([True] * 40 + [False] * 24)
    39
    >>> dip = [True] * 30 + [False] * 4 + [True] * 6 + [False] * 24
    >>> published_window_rule(dip)  # 4 lost levels in a window of 8 are tolerated
    39
    >>> lonely = [True] * 30 + [False] * 20 + [True] + [False] * 13
    >>> published_window_rule(lonely)  # one lucky level at 50, with 7 lost ones before it, is not
    29
    >>> published_window_rule([True, True, False], levels=[20, 30, 40])
    30
    """
    return int(published_window_rules(np.asarray(flags)[None], levels)[0])


def first_lasting_failure(flags: ArrayLike, levels: Sequence[int] | None = None, *, span: int = LASTING_SPAN) -> int:
    """JRD as the last level before the first failure that lasts: the cautious rule.

    A failure lasts when the object is lost at every measured level from there on until at least `span`
    levels are covered (first to last lost level, both counted), or up to the highest measured level. The
    JRD is the highest recognised measured level below it; 0 if there is none.

    Args: as `published_window_rule`; `span`: levels, >= 1. With 1 the first failure counts, however short.
    Returns: the JRD, 0..63.
    Raises: ValueError as `published_window_rule`.

    >>> first_lasting_failure([True] * 40 + [False] * 24)
    39
    >>> blink = [True] * 30 + [False] * 2 + [True] * 8 + [False] * 24
    >>> first_lasting_failure(blink)  # two levels do not last
    39
    >>> dip = [True] * 30 + [False] * 4 + [True] * 6 + [False] * 24
    >>> first_lasting_failure(dip)  # four do
    29
    >>> first_lasting_failure([True, False, True, False, False], levels=[20, 25, 30, 35, 40])
    30
    """
    return int(first_lasting_failures(np.asarray(flags)[None], levels, span=span)[0])


def published_window_rules(flags: ArrayLike, levels: Sequence[int] | None = None) -> NDArray[np.int16]:
    """`published_window_rule` of many sequences at once: bool [N, n] -> int16 [N]."""
    recognised, grid = _checked(flags, levels)
    full = recognised[:, np.searchsorted(grid, np.arange(grid[-1] + 1))]
    full = np.pad(full, ((0, 0), (0, N_LEVELS - full.shape[1])))
    flips = np.count_nonzero(full[:, 1:] != full[:, :-1], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(full, PUBLISHED_WINDOW, axis=1)
    tolerated = windows[:, :, -1] & (np.count_nonzero(~windows, axis=2) <= PUBLISHED_MAX_LOST)
    by_window = _last_true(tolerated, offset=PUBLISHED_WINDOW - 1)
    return np.where(flips <= 1, _last_true(full), by_window).astype(np.int16)


def first_lasting_failures(
    flags: ArrayLike, levels: Sequence[int] | None = None, *, span: int = LASTING_SPAN
) -> NDArray[np.int16]:
    """`first_lasting_failure` of many sequences at once: bool [N, n] -> int16 [N]."""
    if span < 1:
        raise ValueError(f"span must be at least 1 level, not {span}")
    recognised, grid = _checked(flags, levels)
    before = np.zeros(len(recognised), dtype=np.int64)
    lost_since = np.full(len(recognised), -1, dtype=np.int64)
    ended = np.zeros(len(recognised), dtype=bool)
    for column, level in enumerate(grid):
        ok = recognised[:, column]
        lost_since = np.where(ok, -1, np.where(lost_since < 0, level, lost_since))
        ended |= ~ok & (level - lost_since + 1 >= span)
        before = np.where(ok & ~ended, level, before)
    return before.astype(np.int16)


def _checked(flags: ArrayLike, levels: Sequence[int] | None) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    values = np.asarray(flags)
    grid = np.arange(N_LEVELS) if levels is None else np.asarray(levels, dtype=np.int64)
    if grid.ndim != 1 or not grid.size or grid[0] < 0 or grid[-1] >= N_LEVELS or (np.diff(grid) <= 0).any():
        raise ValueError(f"levels must rise strictly within 0..{N_LEVELS - 1}, got {grid.tolist()}")
    if values.ndim != 2 or values.shape[1] != grid.size:
        raise ValueError(f"{grid.size} flags are needed, one per level; got an array of shape {values.shape[1:]}")
    if not np.isin(values, (0, 1)).all():
        raise ValueError("flags must be booleans: True where the object is still recognised")
    return values.astype(bool), grid


def _last_true(values: NDArray[np.bool_], offset: int = 0) -> NDArray[np.int64]:
    """Index of the last True of each row, plus offset; 0 for a row without one. bool [N, n] -> int64 [N]."""
    last = values.shape[1] - 1 - np.argmax(values[:, ::-1], axis=1)
    return np.where(values.any(axis=1), last + offset, 0)
