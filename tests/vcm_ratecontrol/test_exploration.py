"""Where to measure next: laws of the choice, and that it finds what exhaustive measuring finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vcm_ratecontrol.ratecontrol.exploration import MIN_GAP, next_levels, price_of
from vcm_ratecontrol.training.curve_targets import LEVELS, curve_targets
from vcm_ratecontrol.training.decisions import Truth, pooled, probed, saving
from vcm_ratecontrol.training.label_set import load_label_set

LABELS = Path(__file__).resolve().parents[2] / "data" / "labels" / "hevc-medium-still"


def _curves(items: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    levels = np.arange(20.0, 50.0)
    smr = 1 / (1 + np.exp((levels[None] - rng.normal(38, 5, (items, 1))) / 4))
    bits = 2.0 ** (rng.normal(20, 1.5, (items, 1)) - levels[None] / 6)
    return smr, bits, levels


@pytest.mark.parametrize("seed", range(5))
def test_next_levels_are_untried_and_not_beside_tried_ones(seed: int) -> None:
    smr, bits, levels = _curves(7, seed)
    tried = np.zeros(smr.shape, bool)
    share = np.full(7, 1 / 7)
    for _ in range(40):
        columns = next_levels(smr, bits, levels, tried, share, 0.8, 1)
        for item, column in enumerate(columns):
            if column >= 0:
                assert np.abs(np.flatnonzero(tried[item]) - column).min(initial=99) >= MIN_GAP
                tried[item, column] = True
    assert (next_levels(smr, bits, levels, tried, share, 0.8, 1) == -1).all()


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_price_just_meets_the_target(target: float) -> None:
    smr, bits, _ = _curves(50, 1)
    share = np.full(50, 1 / 50)
    price = price_of(smr, bits, share, target)

    def mean_at(price: float) -> float:
        return float(share @ smr[np.arange(50), (bits - price * share[:, None] * smr).argmin(axis=1)])

    assert mean_at(price) >= target > mean_at(price * 0.98)


def test_a_few_probes_save_most_of_what_all_levels_save() -> None:
    labels = load_label_set(str(LABELS))
    machines = labels.machines_at(labels.verdicts.machines, "detection")[::2]
    train = labels.rows_of("train")
    targets = curve_targets(labels, machines, train)
    rows = np.flatnonzero(targets.known)
    truth = Truth(targets.smr[rows], labels.verdicts.bits[rows, 1:].astype(float), labels.qps)
    believed = np.tile(np.interp(labels.qps, LEVELS, targets.mean), (len(rows), 1))
    area = (labels.widths * labels.heights)[rows][:, None]
    bits = 2.0 ** labels.log2_bits_per_pixel()[train].mean(axis=0) * area
    for target in (0.8, 0.9):
        everything = saving(truth, pooled(truth, truth.smr, truth.bits, target))
        assert saving(truth, probed(truth, believed, bits, target, 3)) > 0.6 * everything
