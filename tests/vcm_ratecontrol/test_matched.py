"""Bits at the same mean SMR as the best flat QP."""

import numpy as np
import pytest

from codec_wrappers.errors import InputError
from vcm_ratecontrol.bench.matched import NoMatchError, bits_at, matched_saving


def flat_tables(n_items: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    levels = np.arange(64)
    centre = rng.normal(42, 6, (n_items, 1))
    smr = 1 / (1 + np.exp((levels - centre) / 3))
    bits = rng.uniform(1e5, 4e5, (n_items, 1)) * np.exp(-0.11 * levels)
    return smr, bits


def test_flat_against_itself_saves_nothing() -> None:
    smr, bits = flat_tables()
    result = matched_saving(smr, bits, smr[:, 35], bits[:, 35], seed=1, n_resamples=200)
    assert result.saving.estimate == pytest.approx(0.0, abs=1e-9)
    assert result.clamped_share == 0.0 and result.mean_smr == pytest.approx(smr[:, 35].mean())
    half = matched_saving(smr, bits, smr[:, 35], bits[:, 35] / 2, seed=1, n_resamples=200)
    assert half.saving.estimate == pytest.approx(50.0)
    assert half == matched_saving(smr, bits, smr[:, 35], bits[:, 35] / 2, seed=1, n_resamples=200)


def test_between_two_levels_the_anchor_is_interpolated() -> None:
    curve_smr, curve_bits = np.array([1.0, 1.0, 0.8, 0.6]), np.array([800.0, 400, 200, 100])
    assert bits_at(curve_smr, curve_bits, 1.0) == (pytest.approx(400.0), True)
    assert bits_at(curve_smr, curve_bits, 0.7) == (pytest.approx(100 * 2**0.5), True)
    assert bits_at(curve_smr, curve_bits, 0.5) == (pytest.approx(100.0), False)
    # A dip: 0.7 and 0.9 become one level of 0.8, bought by the cheaper of them.
    assert bits_at(np.array([1.0, 0.7, 0.9]), np.array([4.0, 2, 1]), 0.8) == (pytest.approx(1.0), True)


def test_out_of_reach_and_bad_input_are_typed() -> None:
    smr, bits = flat_tables()
    with pytest.raises(NoMatchError, match="measure more QPs"):
        matched_saving(smr[:, 20:], bits[:, 20:], np.ones(30), bits[:, 0], seed=0)
    with pytest.raises(InputError, match=r"must be \[30\]"):
        matched_saving(smr, bits, smr[:5, 0], bits[:5, 0], seed=0)
    with pytest.raises(InputError, match="finite"):
        matched_saving(smr, bits, np.full(30, np.nan), bits[:, 0], seed=0)
    with pytest.raises(InputError, match="above 0"):
        matched_saving(smr, bits, smr[:, 3], np.zeros(30), seed=0)
