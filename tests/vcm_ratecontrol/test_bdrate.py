"""BD-rate: equal to the package on clean curves, a value or a typed error on all others."""

import math

import bjontegaard
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from codec_wrappers.errors import VcmError
from vcm_ratecontrol.bench.bdrate import (
    BdRateError,
    CurveShapeError,
    InterpolationError,
    Method,
    NoOverlapError,
    RateCurve,
    bd_rate,
    mean_bd_rate,
)
from vcm_ratecontrol.bench.bootstrap import bootstrap_mean
from vcm_ratecontrol.bench.curvefit import drop_near_ties, fit_saturating

RATES = np.array([0.05, 0.11, 0.22, 0.4, 0.9, 1.6])
CLEAN = np.array([0.05, 0.26, 0.56, 0.75, 0.87, 0.94])
METHODS: tuple[Method, ...] = ("akima", "pchip")


@st.composite
def clean_curves(draw: st.DrawFn) -> RateCurve:
    """Strictly rising curves that reach across the middle of 0..1, as any useful measurement does."""
    n = draw(st.integers(4, 12))
    gaps = draw(st.lists(st.floats(0.05, 1.0), min_size=n, max_size=n))
    log_steps = draw(st.lists(st.floats(0.02, 1.0), min_size=n, max_size=n))
    top = draw(st.floats(0.7, 1.0))
    metric = np.cumsum(gaps) / sum(gaps) * top
    return RateCurve(10 ** (np.cumsum(log_steps) - 3), metric)


@given(anchor=clean_curves(), test=clean_curves(), method=st.sampled_from(METHODS))
def test_clean_curves_equal_the_package(anchor: RateCurve, test: RateCurve, method: Method) -> None:
    expected = bjontegaard.bd_rate(
        anchor.rate,
        anchor.metric,
        test.rate,
        test.metric,
        method=method,
        require_matching_points=False,
        min_overlap=0,
    )
    try:
        result = bd_rate(anchor, test, method=method)
    except InterpolationError:
        # The package's own value is one that no rising curve through the points has.
        assume(False)
    assert result.bd_rate == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert not result.fitted_anchor and not result.fitted_test and result.fit_residual == 0.0


def test_descending_order_and_psnr_equal_the_package() -> None:
    # The example of the package's own README.
    rate_a, psnr_a = [9487.76, 4593.60, 2486.44, 1358.24], [40.037, 38.615, 36.845, 34.851]
    rate_t, psnr_t = [9787.80, 4469.00, 2451.52, 1356.24], [40.121, 38.651, 36.970, 34.987]
    expected = bjontegaard.bd_rate(rate_a, psnr_a, rate_t, psnr_t, method="akima")
    result = bd_rate(RateCurve(rate_a, psnr_a), RateCurve(rate_t, psnr_t), bounds=None)
    assert result.bd_rate == pytest.approx(expected, abs=1e-9)
    assert result.overlap == pytest.approx((34.987, 40.037))


@given(
    n_a=st.integers(1, 9),
    n_t=st.integers(1, 9),
    data=st.data(),
    method=st.sampled_from(METHODS),
    fit=st.sampled_from(["auto", "always", "never"]),
)
@settings(max_examples=300, deadline=None)
def test_any_curve_gives_a_finite_value_or_a_typed_error(
    n_a: int, n_t: int, data: st.DataObject, method: Method, fit: str
) -> None:
    # Multiples of 1/8 and few rates: ties, plateaus at 0 and 1, dips and equal rates are frequent.
    quality = st.integers(0, 8).map(lambda k: k / 8) | st.floats(0, 1)
    rate = st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 1.0 + 1e-16]) | st.floats(1e-6, 1e6)
    curves = [
        RateCurve(
            data.draw(st.lists(rate, min_size=n, max_size=n)),
            data.draw(st.lists(quality, min_size=n, max_size=n)),
        )
        for n in (n_a, n_t)
    ]
    try:
        result = bd_rate(curves[0], curves[1], method=method, fit=fit)  # type: ignore[arg-type]
    except BdRateError as error:
        assert isinstance(error, VcmError) and "\n" not in str(error)
        return
    assert math.isfinite(result.bd_rate) and result.bd_rate > -100
    assert 0 < result.overlap_share <= 1 + 1e-12
    assert 0 <= result.overlap[0] < result.overlap[1] <= 1


def test_ties_at_one_cost_nothing() -> None:
    # Two further QPs that satisfy everybody at higher rates say nothing about the rate that is needed.
    saturated = RateCurve([*RATES, 2.5, 4.0, 7.0], [*CLEAN, 1.0, 1.0, 1.0])
    halved = RateCurve(saturated.rate / 2, saturated.metric)
    result = bd_rate(saturated, halved)
    assert result.bd_rate == pytest.approx(-50.0, abs=1e-6)
    assert result.fitted_anchor and result.overlap[1] > 0.97


def test_one_dip_does_not_change_the_answer_much() -> None:
    dipped = CLEAN.copy()
    dipped[3] = dipped[2] - 0.02
    halved = RateCurve(RATES / 2, dipped)
    result = bd_rate(RateCurve(RATES, CLEAN), halved)
    assert result.fitted_test and not result.fitted_anchor and result.fit_residual > 0.01
    assert -55 < result.bd_rate < -30
    with pytest.raises(CurveShapeError, match="dips or ties"):
        bd_rate(RateCurve(RATES, CLEAN), halved, fit="never")


def test_always_fit_leaves_a_saturating_curve_alone() -> None:
    anchor, test = RateCurve(RATES, CLEAN), RateCurve(RATES * 0.7, CLEAN)
    raw, fitted = bd_rate(anchor, test), bd_rate(anchor, test, fit="always")
    assert fitted.fitted_anchor and fitted.bd_rate == pytest.approx(raw.bd_rate, abs=1e-9)


def test_no_value_is_a_typed_error() -> None:
    low, high = RateCurve([1, 2, 3], [0.1, 0.2, 0.3]), RateCurve([1, 2, 3], [0.5, 0.6, 0.7])
    with pytest.raises(NoOverlapError, match=r"anchor 0\.1\.\.0\.3, test 0\.5\.\.0\.7"):
        bd_rate(low, high)
    with pytest.raises(NoOverlapError):
        bd_rate(low, RateCurve([1, 2], [0.25, 0.9]), min_overlap=0.5)
    with pytest.raises(CurveShapeError, match="one quality only"):
        bd_rate(RateCurve([1, 2, 3], [1.0, 1.0, 1.0]), high)
    with pytest.raises(CurveShapeError, match="at least two"):
        bd_rate(RateCurve([1], [0.5]), high)
    with pytest.raises(CurveShapeError, match=r"outside 0\.\.1"):
        bd_rate(RateCurve([1, 2], [30.0, 40.0]), high)
    for rate, metric in (([0, 1], [0.1, 0.2]), ([1, 2], [0.1, np.nan]), ([1, 2], [0.1])):
        with pytest.raises(CurveShapeError):
            RateCurve(rate, metric)


def test_akima_overshoot_is_refused() -> None:
    # Three points, two of them near a tie that costs a hundredfold rate: Akima leaves for 10^hundreds.
    steep = RateCurve([1.0, 1.1, 1e4], [0.0, 0.9, 0.9002])
    plain = RateCurve([1.0, 2.0], [0.0, 1.0])
    with pytest.raises(InterpolationError, match="pchip"):
        bd_rate(steep, plain, method="akima")
    assert math.isfinite(bd_rate(steep, plain, method="pchip").bd_rate)
    # Found by hypothesis: the overshoot rounded to exactly -100 %.
    foot = RateCurve([1e-6, 0.01, 0.01, 0.01, 0.01, 0.05, 1.0, 1e5], [0, 0, 0, 0, 0.125, 0, 0, 0.125])
    with pytest.raises(InterpolationError):
        bd_rate(foot, RateCurve([1e-6, 0.01, 0.01, 0.01], [0, 0, 0, 0.5]))


@given(
    y=st.lists(st.floats(0, 1), min_size=2, max_size=12),
    upper=st.sampled_from([1.0, None]),
)
@settings(max_examples=60, deadline=None)
def test_fit_has_the_shape(y: list[float], upper: float | None) -> None:
    x = np.cumsum(np.linspace(0.1, 0.3, len(y)))
    fitted = fit_saturating(x, np.asarray(y), upper=upper)
    slopes = np.diff(fitted) / np.diff(x)
    assert (slopes >= -1e-9).all()
    turns = np.sign(np.round(np.diff(slopes), 7))
    rising_after_falling = [b > 0 for a in range(len(turns)) for b in turns[a:] if turns[a] < 0]
    assert not any(rising_after_falling)
    if upper is not None:
        assert fitted.max() <= upper + 1e-12
    # A least-squares fit cannot be worse than the best constant, which has the shape.
    assert ((fitted - y) ** 2).sum() <= ((np.mean(y) - y) ** 2).sum() + 1e-9


def test_fit_reproduces_an_s_curve_and_is_fast_enough_for_64_levels() -> None:
    x = np.linspace(0, 3, 64)
    y = 1 / (1 + np.exp(-4 * (x - 1.4)))
    assert np.abs(fit_saturating(x, y, upper=1.0) - y).max() < 1e-9


def test_near_ties_keep_the_lowest_rate_at_the_top_and_the_highest_at_the_foot() -> None:
    x, y = drop_near_ties(np.arange(6.0), np.array([0, 0, 0.5, 1, 1, 1.0]), 1e-4)
    assert x.tolist() == [1, 2, 3] and y.tolist() == [0, 0.5, 1]


def test_mean_leaves_failures_out_names_them_and_repeats() -> None:
    good = RateCurve(RATES, CLEAN)
    pairs = {f"p{k}": (good, RateCurve(RATES * (0.5 + 0.05 * k), CLEAN)) for k in range(6)}
    flat = {"flat": (good, RateCurve([1, 2], [1.0, 1.0]))}
    summary = mean_bd_rate(pairs | flat, seed=3)
    assert summary.mean.n_items == 6 and list(summary.failed) == ["flat"]
    assert summary.mean.estimate == pytest.approx(np.mean([-50, -45, -40, -35, -30, -25]))
    assert summary.mean.low is not None and summary.mean.high is not None
    assert summary.mean.low < summary.mean.estimate < summary.mean.high
    assert summary.mean == mean_bd_rate(pairs | flat, seed=3).mean
    with pytest.raises(BdRateError, match="flat"):
        mean_bd_rate(flat, seed=0)


def test_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        interval = bootstrap_mean(rng.normal(5, 2, 40), seed=seed, n_resamples=400)
        assert interval.low is not None and interval.high is not None
        hits += interval.low <= 5 <= interval.high
    assert hits >= 87
    assert bootstrap_mean([2.0], seed=0).low is None
