"""Bootstrap intervals over items (pictures or clips).

The percentile bootstrap of Efron: items are drawn with replacement, the statistic is computed again, and
the interval runs between the quantiles of what comes out. Items, not machines or frames, are the unit
that is drawn, since the claim is about unseen pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec_wrappers.errors import InputError


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap interval, all in the unit of the statistic.

    low and high are None when there is one item only: nothing is known of the spread then.
    """

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    n_items: int
    n_resamples: int


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    n_items: int,
    *,
    seed: int,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Interval of `statistic`, a function of the item numbers drawn (intp [n_items], 0..n_items-1, repeats).

    The same seed gives the same interval. Raises InputError for no items or a confidence outside (0, 1).
    """
    if n_items < 1:
        raise InputError("bootstrap: no items left to average; check the list of failed items")
    check_confidence(confidence)
    estimate = float(statistic(np.arange(n_items)))
    if n_items == 1:
        return Interval(estimate, None, None, confidence, 1, 0)
    rng = np.random.default_rng(seed)
    draws = [float(statistic(rng.integers(0, n_items, n_items))) for _ in range(n_resamples)]
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), confidence, n_items, n_resamples)


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64],
    *,
    seed: int,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the mean of one value per item (finite floats [n_items])."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InputError("bootstrap: a value is not finite; leave failed items out before averaging")

    if len(array) < 2:
        return bootstrap(lambda items: float(array[items].mean()), len(array), seed=seed, confidence=confidence)
    check_confidence(confidence)
    draws = np.random.default_rng(seed).integers(0, len(array), (n_resamples, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(array.mean()), float(low), float(high), confidence, len(array), n_resamples)


def check_confidence(confidence: float) -> None:
    """Raises InputError unless it lies within (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise InputError(f"bootstrap: confidence {confidence} is outside (0, 1); give for example 0.95")
