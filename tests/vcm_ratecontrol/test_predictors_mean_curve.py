"""Mean curves and shifts: what is put in as a shift comes out again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vcm_ratecontrol.predictors.interface import Condition
from vcm_ratecontrol.predictors.mean_curve import (
    MeanCurves,
    best_shift,
    conditions_from,
    fit_mean_curve,
    non_increasing,
    shifted,
)

LEVELS = list(range(8, 64, 3))
MEAN = (1 / (1 + np.exp((np.arange(64) - 40) / 5))).astype(np.float32)


@settings(deadline=None)  # the first call imports scipy
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_non_increasing_never_rises_and_keeps_what_falls(values: list[float]) -> None:
    fitted = non_increasing(values)
    assert (np.diff(fitted) <= 1e-12).all()
    assert fitted.mean() == pytest.approx(np.mean(values), abs=1e-9)
    falling = sorted(values, reverse=True)
    np.testing.assert_allclose(non_increasing(falling), falling)


@settings(max_examples=30, deadline=None)
@given(st.floats(-15, 15))
def test_a_shifted_mean_curve_has_that_shift(shift: float) -> None:
    curve = shifted(MEAN, shift, LEVELS)
    assert best_shift(curve, MEAN, LEVELS) == pytest.approx(shift, abs=0.13)
    some = curve.copy()
    some[::2] = np.nan
    assert best_shift(some, MEAN, LEVELS) == pytest.approx(shift, abs=0.2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-40, 40), min_size=1, max_size=6))
def test_torch_moves_curves_as_numpy_does(shifts: list[float]) -> None:
    curves = MeanCurves([Condition("vvc"), Condition("hevc")])
    curves.set_curves(Condition("hevc"), MEAN, -np.arange(64), 5.0)
    condition = torch.ones(len(shifts), dtype=torch.int64)
    moved = curves.shifted_smr(condition, torch.tensor(shifts))
    expected = np.stack([shifted(MEAN, shift, list(range(64))) for shift in shifts])
    np.testing.assert_allclose(moved.numpy(), expected, atol=1e-5)
    assert (moved.diff(dim=1) <= 1e-6).all()
    assert curves.fitted.tolist() == [False, True]


def test_mean_curve_of_pictures_measured_at_different_levels() -> None:
    curves = np.array([[1.0, 0.8, np.nan, 0.1], [np.nan, 0.6, 0.7, 0.3]])
    mean = fit_mean_curve(curves, [10, 20, 30, 40])
    assert mean.shape == (64,)
    assert (np.diff(mean) <= 0).all()
    np.testing.assert_allclose(mean[[0, 10, 20, 30, 40, 63]], [1, 1, 0.7, 0.7, 0.2, 0.2], atol=1e-6)
    assert mean[15] == pytest.approx(0.85)
    with pytest.raises(ValueError, match="level 30"):
        fit_mean_curve([[1.0, np.nan]], [20, 30])


def test_a_flat_picture_has_no_shift_and_an_unmeasured_one_is_refused() -> None:
    assert best_shift(shifted(MEAN, 0, LEVELS), MEAN, LEVELS) == 0
    with pytest.raises(ValueError, match="without a measured level"):
        best_shift([np.nan] * len(LEVELS), MEAN, LEVELS)


@pytest.mark.parametrize(
    ("smr", "bits", "deviation"),
    [
        (np.arange(64), -np.arange(64), 5.0),
        (MEAN[:60], -np.arange(64), 5.0),
        (MEAN, np.full(64, np.nan), 5.0),
        (MEAN, -np.arange(64), 0.0),
    ],
)
def test_curves_that_are_none_are_refused(smr: np.ndarray, bits: np.ndarray, deviation: float) -> None:
    with pytest.raises(ValueError, match=r"never rise|deviation"):
        MeanCurves([Condition("vvc")]).set_curves(Condition("vvc"), smr, bits, deviation)


def test_conditions_of_a_configuration() -> None:
    assert conditions_from(["vvc/inter/detection"]) == (Condition("vvc", "inter", "detection"),)
    assert str(Condition("vvc", "inter", "detection")) == "vvc/inter/detection"
    with pytest.raises(ValueError, match="twice"):
        conditions_from(["vvc", "vvc/still"])
