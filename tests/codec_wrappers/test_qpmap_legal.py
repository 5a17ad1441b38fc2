"""The legaliser: legal, idempotent, lowering only, and lowering no more than it must."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers.errors import InputError
from codec_wrappers.qpmap import QPMap
from codec_wrappers.qpmap_legal import MapRules, is_legal, legalise, require_legal

ROWS = MapRules(0, 51, max_fall=26, max_rise=25)
FRAME = MapRules(0, 51, max_fall=26, max_rise=25, rows_restart=False)
LEVELS = MapRules(0, 63, max_levels=8)


@st.composite
def wild_maps(draw: st.DrawFn, max_cols: int = 12) -> QPMap:
    """Maps of 64x64 blocks with QPs of the whole label space and beyond."""
    frames, rows, cols = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, max_cols))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    qp = rng.integers(0, draw(st.sampled_from([2, 40, 64, 80])), (frames, rows, cols))
    return QPMap(qp.astype(np.int16), 64, cols * 64, rows * 64)


def jumps_are_legal(qp: np.ndarray, rules: MapRules) -> bool:
    """Plain reading of the rule: every pair in coding order."""
    lines = qp.reshape(-1, qp.shape[2]) if rules.rows_restart else qp.reshape(qp.shape[0], -1)
    return all(
        -26 <= int(line[j]) - int(line[i]) <= 25
        for line in lines
        for i, j in itertools.combinations(range(len(line)), 2)
    )


@given(wild_maps(), st.sampled_from([ROWS, FRAME]))
def test_jumps_end_legal_and_only_lower(qp_map: QPMap, rules: MapRules) -> None:
    done = legalise(qp_map, rules)
    assert jumps_are_legal(done.map.qp, rules)
    assert done.map.qp.max() <= 51
    assert (done.map.qp <= qp_map.qp).all()
    assert done.clipped == int((qp_map.qp > 51).sum())
    assert done.moved == int((done.map.qp < np.minimum(qp_map.qp, 51)).sum())


@given(wild_maps(), st.sampled_from([ROWS, FRAME, LEVELS]))
def test_twice_is_once(qp_map: QPMap, rules: MapRules) -> None:
    once = legalise(qp_map, rules).map
    again = legalise(once, rules)
    assert again.map == once
    assert (again.moved, again.clipped) == (0, 0)
    assert is_legal(once, rules)


@given(wild_maps(max_cols=6), st.sampled_from([ROWS, FRAME]))
@settings(max_examples=40)
def test_no_higher_map_is_legal(qp_map: QPMap, rules: MapRules) -> None:
    """Raising any one moved block by one, everything else at its highest, breaks the rule."""
    asked = np.minimum(qp_map.qp, 51)
    legal = legalise(qp_map, rules).map.qp
    for at in np.argwhere(legal < asked):
        higher = legal.copy()
        higher[tuple(at)] += 1
        assert not jumps_are_legal(higher, rules)


@given(wild_maps())
def test_levels_end_legal_and_only_lower(qp_map: QPMap) -> None:
    legal = legalise(qp_map, LEVELS).map.qp
    asked = np.minimum(qp_map.qp, 63)
    assert (legal <= asked).all()
    for before, after in zip(asked, legal, strict=True):
        assert len(np.unique(after)) <= 8
        assert set(np.unique(after)) <= set(np.unique(before))
        if len(np.unique(before)) <= 8:
            assert (before == after).all()


@given(st.lists(st.integers(0, 63), min_size=1, max_size=9), st.integers(1, 3))
def test_levels_lower_by_the_least_sum(values: list[int], max_levels: int) -> None:
    qp = np.array(values, np.int16)
    qp_map = QPMap(qp[None, None, :], 64, 64 * len(values), 64)
    lowered = legalise(qp_map, MapRules(0, 63, max_levels=max_levels)).map.qp.ravel()
    distinct = sorted(set(values))
    sums = []
    for others in itertools.combinations(distinct[1:], min(max_levels, len(distinct)) - 1):
        levels = np.array([distinct[0], *others])
        sums.append(sum(int(v - levels[levels <= v].max()) for v in values))
    assert int((qp - lowered).sum()) == min(sums)


def test_a_block_without_residual_does_not_hide_a_jump() -> None:
    """Each step is legal, the first and the last are not: the middle may code no QP at all."""
    qp_map = QPMap(np.array([[[10, 30, 50]]], np.int16), 64, 192, 64)
    assert legalise(qp_map, ROWS).map.qp.ravel().tolist() == [10, 30, 35]
    falling = QPMap(np.array([[[50, 30, 10]]], np.int16), 64, 192, 64)
    assert legalise(falling, ROWS).map.qp.ravel().tolist() == [36, 30, 10]


def test_rows_bind_each_other_only_without_wavefronts() -> None:
    qp_map = QPMap(np.array([[[5], [50]]], np.int16), 64, 64, 128)
    assert legalise(qp_map, ROWS).moved == 0
    done = legalise(qp_map, FRAME)
    assert done.map.qp.ravel().tolist() == [5, 30]
    assert done.moved == 1


def test_clips_to_both_ends() -> None:
    qp_map = QPMap(np.array([[[0, 22, 63]]], np.int16), 64, 192, 64)
    done = legalise(qp_map, MapRules(10, 51))
    assert done.map.qp.ravel().tolist() == [10, 22, 51]
    assert (done.clipped, done.moved) == (2, 0)


def test_the_gate_names_what_is_wrong() -> None:
    legal = QPMap.flat(30, 128, 128)
    require_legal(legal, ROWS, 64, "kvazaar")
    with pytest.raises(InputError, match=r"blocks of 32; kvazaar takes 64"):
        require_legal(legal.resampled(32), ROWS, 64, "kvazaar")
    jump = QPMap(np.array([[[0, 51]]], np.int16), 64, 128, 64)
    with pytest.raises(InputError, match=r"1 beyond what kvazaar can code"):
        require_legal(jump, ROWS, 64, "kvazaar")


def test_rules_cannot_ask_for_levels_and_jumps() -> None:
    with pytest.raises(InputError, match="max_levels"):
        MapRules(0, 51, max_rise=25, max_levels=8)
