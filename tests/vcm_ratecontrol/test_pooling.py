"""Levels for several items that together meet a target, and the shift model that feeds them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers.errors import InputError
from vcm_ratecontrol.ratecontrol.pooling import PoolingResult, each, mean
from vcm_ratecontrol.ratecontrol.shift import (
    MeasuredSmr,
    fit_shifts,
    pilot_mean_curve,
    refine,
    shift_curve,
    shift_model,
    shift_posterior,
)

LEVELS = np.arange(64.0)


# Six digits: differences are either nothing or well above the planner's tolerance of 1e-9.
shares = st.floats(0, 1).map(lambda value: round(value, 6))


@st.composite
def problems(draw: st.DrawFn, max_items: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Any table, monotone or not, with ties in SMR and in bits."""
    n_items, n_levels = draw(st.integers(1, max_items)), draw(st.integers(1, 6))
    count = n_items * n_levels
    smr = st.integers(0, 10).map(lambda k: k / 10) | shares
    bits = st.integers(0, 20).map(float) | st.floats(0, 1e6)
    shape = (n_items, n_levels)
    return (
        np.array(draw(st.lists(smr, min_size=count, max_size=count))).reshape(shape),
        np.array(draw(st.lists(bits, min_size=count, max_size=count))).reshape(shape),
        np.arange(n_levels) * 3.0 + 20,
    )


def smooth(n_items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Shifted pilot curves, and bits that fall by about 11 % per QP."""
    rng = np.random.default_rng(seed)
    mean_curve = pilot_mean_curve(LEVELS)
    smr = np.stack([shift_curve(mean_curve, LEVELS, d) for d in rng.normal(0, 6, n_items)])
    bits = rng.uniform(0.5e6, 4e6, (n_items, 1)) * np.exp(-rng.uniform(0.09, 0.13, (n_items, 1)) * LEVELS)
    return smr, bits


def check(result: PoolingResult, smr: np.ndarray, bits: np.ndarray, levels: np.ndarray) -> None:
    rows = np.arange(len(smr))
    assert (result.qp == levels[result.index]).all()
    assert result.mean_smr == pytest.approx(smr[rows, result.index].mean())
    assert result.total_bits == pytest.approx(bits[rows, result.index].sum())


@given(problems(), shares)
@settings(deadline=None, max_examples=200)
def test_mean_meets_the_target_whenever_any_choice_does(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray], target: float
) -> None:
    smr, bits, levels = problem
    result = mean(smr, bits, levels, target)
    check(result, smr, bits, levels)
    feasible = smr.max(1).mean() >= target - 1e-9
    assert result.reached.all() == feasible or abs(smr.max(1).mean() - target + 1e-9) < 1e-12
    if feasible:
        assert result.mean_smr >= target - 1e-8
    else:
        assert result.mean_smr == pytest.approx(smr.max(1).mean())
    # No flat level that meets the target is cheaper.
    flat_ok = smr.mean(0) >= target
    if flat_ok.any():
        assert result.total_bits <= bits.sum(0)[flat_ok].min() * (1 + 1e-12)


@given(problems(), shares)
@settings(deadline=None, max_examples=200)
def test_mean_is_near_the_true_optimum(problem: tuple[np.ndarray, np.ndarray, np.ndarray], target: float) -> None:
    """Exact for two items (changes of both are all looked at); never above the optimum plus one item's own range."""
    smr, bits, levels = problem
    result = mean(smr, bits, levels, target)
    if not result.reached.all():
        return
    rows = np.arange(len(smr))
    best = min(
        bits[rows, list(choice)].sum()
        for choice in itertools.product(range(len(levels)), repeat=len(smr))
        if smr[rows, list(choice)].mean() >= target - 1e-10
    )
    slack = 1e-9 * (1 + best)
    if len(smr) <= 2:
        assert result.total_bits <= best + slack
    assert result.total_bits <= best + np.ptp(bits, axis=1).max() + slack


@given(problems(), shares, shares)
@settings(deadline=None, max_examples=200)
def test_a_higher_target_never_costs_less(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray], first: float, second: float
) -> None:
    low, high = sorted((first, second))
    cheap, dear = mean(*problem, low), mean(*problem, high)
    if dear.reached.all():
        assert cheap.total_bits <= dear.total_bits * (1 + 1e-12)


def test_a_higher_target_never_costs_less_on_smooth_curves() -> None:
    for n_items in (3, 40):  # with and without changes of two items
        smr, bits = smooth(n_items)
        spent = [mean(smr, bits, LEVELS, target).total_bits for target in np.linspace(0.05, 0.97, 150)]
        assert (np.diff(spent) >= -1e-6).all()


@given(problems(), shares, st.randoms(use_true_random=False), st.booleans())
@settings(deadline=None, max_examples=200)
def test_the_order_of_items_does_not_matter(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray], target: float, random: object, weighted: bool
) -> None:
    smr, bits, levels = problem
    order = list(range(len(smr)))
    random.shuffle(order)  # type: ignore[attr-defined]
    weights = np.arange(1.0, len(smr) + 1) if weighted else np.ones(len(smr))
    straight = mean(smr, bits, levels, target, weights=weights)
    shuffled = mean(smr[order], bits[order], levels, target, weights=weights[order])
    assert shuffled.total_bits == pytest.approx(straight.total_bits, rel=1e-12)
    assert shuffled.mean_smr == pytest.approx(straight.mean_smr, rel=1e-12)
    if len(np.unique(np.hstack([smr, bits]), axis=0)) == len(smr):  # identical items may swap their levels
        assert (shuffled.index == straight.index[order]).all()


@given(problems(), shares, shares)
@settings(deadline=None, max_examples=200)
def test_the_floor_holds_for_every_item_that_can_have_it(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray], target: float, floor: float
) -> None:
    smr, bits, levels = problem
    result = mean(smr, bits, levels, target, floor=floor)
    chosen = smr[np.arange(len(smr)), result.index]
    assert (chosen >= np.minimum(floor - 1e-9, smr.max(1))).all()
    assert not result.reached[smr.max(1) < floor - 1e-9].any()


def test_floor_per_item_and_weights() -> None:
    smr, bits = smooth(12)
    floors = np.where(np.arange(12) < 3, 0.9, 0.0)
    result = mean(smr, bits, LEVELS, 0.8, floor=floors)
    assert (smr[np.arange(3), result.index[:3]] >= 0.9 - 1e-9).all() and result.mean_smr >= 0.8 - 1e-9
    frames = np.array([1.0] * 6 + [50.0] * 6)
    weighted = mean(smr, bits, LEVELS, 0.8, weights=frames)
    chosen = smr[np.arange(12), weighted.index]
    assert weighted.mean_smr == pytest.approx(np.average(chosen, weights=frames))
    assert weighted.mean_smr >= 0.8 - 1e-9
    assert chosen[6:].mean() > chosen[:6].mean(), "what counts fifty times is kept, the rest pays"


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9])
def test_smooth_curves_are_pooled_tightly_and_cheaper_than_flat(target: float) -> None:
    smr, bits = smooth(60)
    pooled = mean(smr, bits, LEVELS, target)
    assert target - 1e-9 <= pooled.mean_smr < target + 0.002
    flat = bits.sum(0)[np.flatnonzero(smr.mean(0) >= target)[-1]]
    assert pooled.total_bits < 0.95 * flat
    single = each(smr, bits, LEVELS, target)
    assert pooled.total_bits < single.total_bits


@given(problems(), shares, st.booleans())
@settings(deadline=None, max_examples=200)
def test_each_takes_the_highest_level_that_meets(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray], target: float, lasting: bool
) -> None:
    smr, bits, levels = problem
    result = each(smr, bits, levels, target, lasting=lasting)
    check(result, smr, bits, levels)
    for curve, index, reached in zip(smr, result.index, result.reached, strict=True):
        meets = curve >= target - 1e-9
        if lasting:
            meets = np.logical_and.accumulate(meets)
        assert reached == meets.any()
        if reached:
            assert index == np.flatnonzero(meets)[-1]
        else:
            assert index == np.flatnonzero(curve == curve.max())[-1]


def test_each_on_a_dip() -> None:
    curve = [[1.0, 0.9, 0.6, 0.9, 0.1]]
    bits = [[5.0, 4, 3, 2, 1]]
    assert each(curve, bits, np.arange(5), 0.9).index == [3]
    assert each(curve, bits, np.arange(5), 0.9, lasting=True).index == [1]


@pytest.mark.parametrize("target", [0.5, 0.85, 0.86, 0.873, 0.9, 1.0])
@pytest.mark.parametrize("n_items", [1, 3, 40])
def test_of_levels_that_are_alike_the_highest_is_taken(target: float, n_items: int) -> None:
    """Below the labels predicted curves are flat: a target out of reach must not cost QP 0."""
    below = np.minimum(LEVELS, 63) < 17
    smr = np.where(below, 0.873, 0.873 - (LEVELS - 16) * 0.01).clip(0, 1)[None].repeat(n_items, 0)
    bits = np.where(below, 1e6, 1e6 * 0.9 ** (LEVELS - 16))[None].repeat(n_items, 0)
    for pooled in (mean(smr, bits, LEVELS, target), each(smr, bits, LEVELS, target)):
        assert (pooled.qp >= 16).all()


def test_bad_tables_are_refused() -> None:
    good = np.full((2, 3), 0.5)
    levels = np.arange(3)
    for smr, bits, grid, target in (
        (good, good[:, :2], levels, 0.5),
        (good, good, levels[:2], 0.5),
        (good, good, levels[::-1], 0.5),
        (good, good, levels, 1.5),
        (good * np.nan, good, levels, 0.5),
        (good * 3, good, levels, 0.5),
        (good, -good, levels, 0.5),
        (good, good * np.inf, levels, 0.5),
        (np.zeros((0, 3)), np.zeros((0, 3)), levels, 0.5),
    ):
        with pytest.raises(InputError):
            mean(smr, bits, grid, target)
        with pytest.raises(InputError):
            each(smr, bits, grid, target)
    with pytest.raises(InputError, match="weights"):
        mean(good, good, levels, 0.5, weights=[1, 0])


@given(st.floats(-15, 15))
@settings(deadline=None)
def test_a_shift_is_found_again(shift: float) -> None:
    curve, qps = pilot_mean_curve(LEVELS), np.arange(8, 64, 4.0)
    moved = shift_curve(curve, LEVELS, shift)
    # A weak prior, so that only the 0.25 QP grid and the held ends of the curve remain.
    found = fit_shifts(curve, LEVELS, qps, moved[qps.astype(int)], shift_sd=1e3)
    assert abs(float(found[0]) - shift) <= 0.3


def test_few_points_are_trusted_less_than_many() -> None:
    curve = pilot_mean_curve(LEVELS)
    moved = shift_curve(curve, LEVELS, 8)
    one = float(fit_shifts(curve, LEVELS, [40], moved[[40]])[0])
    many = float(fit_shifts(curve, LEVELS, LEVELS[::4], moved[::4])[0])
    assert 0 < one < many <= 8
    missing = fit_shifts(curve, LEVELS, [30, 40], [[np.nan, np.nan], [moved[30], np.nan]])
    assert missing[0] == 0 and missing[1] > 0
    shifts, chances = shift_posterior(curve, LEVELS, [], [])
    assert chances.sum() == pytest.approx(1) and shifts[np.argmax(chances)] == 0
    assert np.sqrt(chances @ shifts**2) == pytest.approx(6, rel=0.01)


def test_shift_model_smooths_and_shrinks() -> None:
    rng = np.random.default_rng(2)
    curve, qps = pilot_mean_curve(LEVELS), np.arange(8, 64, 4)
    true = np.stack([shift_curve(curve, LEVELS, d) for d in rng.normal(0, 6, 80)])
    raw = (rng.random((80, len(qps), 10)) < true[:, qps, None]).mean(2)  # ten machines
    model = shift_model(curve, LEVELS, qps, raw, shrink=1.0)
    assert (np.diff(model.smr, axis=1) <= 1e-12).all()
    assert np.abs(model.smr[:, qps] - true[:, qps]).mean() < 0.5 * np.abs(raw - true[:, qps]).mean()
    assert np.allclose(shift_model(curve, LEVELS, qps, raw).shifts, 0.75 * model.shifts)
    assert np.allclose(shift_model(curve, LEVELS, qps, raw, shrink=0.0).smr, curve)


def test_pooling_on_the_shift_model_beats_pooling_on_raw_curves() -> None:
    """The pilot's warning (section 5), in a model: chosen by noisy curves, judged by the true ones."""
    rng = np.random.default_rng(3)
    smr, bits = smooth(120, seed=4)
    raw = (rng.random((120, 64, 8)) < smr[:, :, None]).mean(2)
    fitted = shift_model(pilot_mean_curve(LEVELS), LEVELS, LEVELS, raw).smr
    rows = np.arange(120)

    def saving(curves: np.ndarray) -> float:
        chosen = mean(curves, bits, LEVELS, 0.8).index
        truly = smr[rows, chosen].mean()
        flat = np.exp(np.interp(truly, smr.mean(0)[::-1], np.log(bits.sum(0))[::-1]))
        return float(1 - bits[rows, chosen].sum() / flat)

    assert saving(fitted) > 0.1 > saving(raw)


def test_refine_moves_towards_what_was_measured() -> None:
    curves = np.stack([pilot_mean_curve(LEVELS)] * 3)
    probes = {1: [MeasuredSmr(36, 0.95), MeasuredSmr(44, 0.8)], 2: []}
    refined = refine(curves, LEVELS, probes)
    assert (refined[[0, 2]] == curves[[0, 2]]).all(), "what was not measured stays"
    assert curves[1, 44] < refined[1, 44] < 0.8
    assert refined[1, 44] < refine(curves, LEVELS, probes, weight=1.0)[1, 44]
    assert (refine(curves, LEVELS, probes, weight=0.0) == curves).all()


@given(st.lists(st.tuples(st.integers(0, 63), st.floats(0, 1)), min_size=1, max_size=5, unique_by=lambda p: p[0]))
@settings(deadline=None)
def test_pinned_curves_go_through_the_measured_points(points: list[tuple[int, float]]) -> None:
    curves = pilot_mean_curve(LEVELS)[None]
    probes = {0: [MeasuredSmr(qp, smr) for qp, smr in points]}
    pinned = refine(curves, LEVELS, probes, weight=1.0, pin=True)[0]
    measured = dict(points)
    for qp, smr in points:
        assert pinned[qp] == smr
    for level in set(range(64)) - set(measured):
        below = [smr for qp, smr in points if qp < level]
        assert pinned[level] <= min(below, default=1.0) + 1e-12
    falling = all(a >= b for a, b in itertools.pairwise(smr for _, smr in sorted(points)))
    if falling:
        assert (np.diff(pinned) <= 1e-12).all()
