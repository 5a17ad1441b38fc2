"""The JRD rules: documented values on hand-made sequences, laws on drawn ones."""

import doctest
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcm_ratecontrol import jrd_rules
from vcm_ratecontrol.jrd_rules import (
    first_lasting_failure,
    first_lasting_failures,
    published_window_rule,
    published_window_rules,
)

grids = st.sets(st.integers(0, 63), min_size=1).map(sorted)


def sequence(*runs: tuple[bool, int]) -> list[bool]:
    return [flag for flag, length in runs for _ in range(length)]


def published_code(recognised: list[bool]) -> int:
    """The published procedure written out level by level (0 = detectable, 1 = lost)."""
    lost = [int(not flag) for flag in recognised]
    if sum(a != b for a, b in itertools.pairwise(lost)) <= 1:
        return max((level for level in range(64) if lost[level] == 0), default=0)
    for start in range(56, -1, -1):
        if lost[start + 7] == 0 and sum(lost[start : start + 8]) <= 5:
            return start + 7
    return 0


def test_documented_examples() -> None:
    assert doctest.testmod(jrd_rules).failed == 0


@given(grids, st.integers(-1, 63))
def test_monotone_sequences_give_the_highest_recognised_level_under_both_rules(grid: list[int], top: int) -> None:
    flags = [level <= top for level in grid]
    expected = max((level for level in grid if level <= top), default=0)
    assert published_window_rule(flags, grid) == expected
    assert first_lasting_failure(flags, grid) == expected


@given(st.lists(st.booleans(), min_size=64, max_size=64))
def test_published_rule_is_the_published_procedure(flags: list[bool]) -> None:
    assert published_window_rule(flags) == published_code(flags)


@given(st.lists(st.booleans(), min_size=64, max_size=64), st.integers(1, 8))
def test_longer_span_never_lowers_the_level(flags: list[bool], span: int) -> None:
    level = first_lasting_failure(flags, span=span)
    assert level <= first_lasting_failure(flags, span=span + 1)
    assert flags[level] or level == 0


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_many_sequences_are_judged_as_each_alone(rows: list[list[bool]]) -> None:
    grid = [8, 20, 33, 34, 50]
    assert published_window_rules(rows, grid).tolist() == [published_window_rule(row, grid) for row in rows]
    assert first_lasting_failures(rows, grid).tolist() == [first_lasting_failure(row, grid) for row in rows]


@pytest.mark.parametrize(
    ("flags", "published", "cautious"),
    [
        (sequence((True, 64)), 63, 63),
        (sequence((False, 64)), 0, 0),
        (sequence((True, 20), (False, 5), (True, 3), (False, 36)), 27, 19),
        (sequence((True, 20), (False, 6), (True, 1), (False, 37)), 19, 19),
        (sequence((True, 20), (False, 2), (True, 1), (False, 41)), 22, 22),
        (sequence((False, 10), (True, 54)), 63, 0),
    ],
)
def test_hand_made_sequences(flags: list[bool], published: int, cautious: int) -> None:
    assert published_window_rule(flags) == published
    assert first_lasting_failure(flags) == cautious


def test_a_single_failing_measured_level_does_not_last_on_a_sparse_grid() -> None:
    grid = [10, 15, 20, 25, 30]
    assert first_lasting_failure([True, False, True, True, False], grid) == 25
    assert first_lasting_failure([True, False, False, True, False], grid) == 10


@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        ([True] * 63, None),
        ([True, False], [3, 3]),
        ([True], [64]),
        ([True], []),
        ([0.5], [3]),
        ([np.nan], [3]),
    ],
)
def test_malformed_sequences_are_refused(flags: list[float], levels: list[int] | None) -> None:
    with pytest.raises(ValueError, match=r"level|flags"):
        published_window_rule(flags, levels)
    with pytest.raises(ValueError, match=r"level|flags"):
        first_lasting_failure(flags, levels)
