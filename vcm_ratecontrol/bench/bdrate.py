"""Bjøntegaard delta rate for quality metrics that saturate, such as SMR and mAP.

The number comes from the maintained package `bjontegaard` (FAU-LMS): Akima interpolation of log10 rate
over quality, found more accurate and stable than the alternatives (arXiv 2202.12565, 2304.12852), or
PCHIP, that of the JVET spreadsheets. What is added is what those need to be trusted on satisfactions: a
curve that dips, ties or sticks at its bound is replaced by its least-squares shape (see `curvefit`), the
overlap is reported, and where no value exists a typed error says so; never NaN, never a sentinel.
On clean curves the result is the package's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec_wrappers.errors import VcmError
from vcm_ratecontrol.bench.bootstrap import Interval, bootstrap_mean
from vcm_ratecontrol.bench.curvefit import drop_near_ties, fit_saturating

Method = Literal["akima", "pchip"]
Fit = Literal["auto", "always", "never"]

# Two points closer than this share of the metric's scale count as a tie: the slope between them is
# noise (one machine of ten on one picture of a thousand moves SMR by 1e-4), and Akima overshoots on it.
NEAR_TIE = 1e-4


class BdRateError(VcmError):
    """These curves have no Bjøntegaard delta rate; the message says why."""

    exit_code = 2


class NoOverlapError(BdRateError):
    """The two curves share no quality interval (or a smaller one than the caller demands)."""


class CurveShapeError(BdRateError):
    """A curve is not usable: not finite, rates not positive, fewer than two qualities, or not monotone when
    the caller forbids the fit."""


class InterpolationError(BdRateError):
    """The interpolation overshoots to a value that no monotone curve through the points can have."""


@dataclass(frozen=True, eq=False)
class RateCurve:
    """One rate-quality curve: rate float64 [n] > 0 (bits, bpp, kbps: the same unit in both curves) and metric
    float64 [n], higher is better, in any order. Raises CurveShapeError for anything else."""

    rate: NDArray[np.float64]
    metric: NDArray[np.float64]

    def __init__(self, rate: ArrayLike, metric: ArrayLike) -> None:
        object.__setattr__(self, "rate", np.asarray(rate, dtype=np.float64))
        object.__setattr__(self, "metric", np.asarray(metric, dtype=np.float64))
        if self.rate.ndim != 1 or self.rate.shape != self.metric.shape:
            raise CurveShapeError(
                f"a curve needs as many rates as qualities, got {self.rate.shape} and {self.metric.shape}"
            )
        if not (np.isfinite(self.rate).all() and np.isfinite(self.metric).all()):
            raise CurveShapeError("a rate or quality is not finite; leave out items that failed")
        if (self.rate <= 0).any():
            raise CurveShapeError("a rate is zero or negative; BD-rate needs the logarithm of every rate")


@dataclass(frozen=True)
class BdRateResult:
    """bd_rate: percent, negative = the test curve needs fewer bits. overlap: the quality interval integrated,
    in the metric's unit; overlap_share: its length over that of both curves' union, 0..1.
    n_anchor, n_test: points used. fitted_*: whether that curve was replaced by its monotone fit, and
    fit_residual: the largest move of a point by it, in the metric's unit (0 when raw)."""

    bd_rate: float
    method: Method
    overlap: tuple[float, float]
    overlap_share: float
    n_anchor: int
    n_test: int
    fitted_anchor: bool
    fitted_test: bool
    fit_residual: float


@dataclass(frozen=True)
class MeanBdRate:
    """Mean of per-item BD-rates (percent) with its interval. `failed` names the items left out and why."""

    mean: Interval
    per_item: dict[str, BdRateResult]
    failed: dict[str, str]


@dataclass(frozen=True, eq=False)
class _Prepared:
    rate: NDArray[np.float64]
    metric: NDArray[np.float64]
    fitted: bool
    residual: float


def bd_rate(
    anchor: RateCurve,
    test: RateCurve,
    *,
    method: Method = "akima",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    fit: Fit = "auto",
    min_overlap: float = 0.0,
) -> BdRateResult:
    """Mean difference of rate at equal quality, in percent of the anchor's rate.

    bounds: the metric's range, (0, 1) for SMR and mAP as shares, (0, 100) for percent, None for
    unbounded metrics such as PSNR. fit: 'auto' fits the curves that are not strictly monotone, 'always'
    both, 'never' neither (such a curve is then an error). min_overlap: demanded overlap share, 0..1.
    Raises NoOverlapError, CurveShapeError or InterpolationError.
    """
    a = _prepare("anchor", anchor, bounds, fit)
    t = _prepare("test", test, bounds, fit)
    low, high = max(a.metric[0], t.metric[0]), min(a.metric[-1], t.metric[-1])
    union = max(a.metric[-1], t.metric[-1]) - min(a.metric[0], t.metric[0])
    share = float((high - low) / union)
    # Below a near tie the integral is divided by rounding noise.
    if share < NEAR_TIE or share < min_overlap:
        raise NoOverlapError(
            f"the curves share {max(share, 0.0):.1%} of their quality range: anchor "
            f"{a.metric[0]:.4g}..{a.metric[-1]:.4g}, test {t.metric[0]:.4g}..{t.metric[-1]:.4g}; "
            "measure more QPs so that they overlap"
        )
    return BdRateResult(
        bd_rate=_package_bd_rate(a, t, method),
        method=method,
        overlap=(float(low), float(high)),
        overlap_share=share,
        n_anchor=len(a.rate),
        n_test=len(t.rate),
        fitted_anchor=a.fitted,
        fitted_test=t.fitted,
        fit_residual=max(a.residual, t.residual),
    )


def mean_bd_rate(
    pairs: Mapping[str, tuple[RateCurve, RateCurve]],
    *,
    seed: int,
    method: Method = "akima",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    fit: Fit = "auto",
    min_overlap: float = 0.0,
    confidence: float = 0.95,
) -> MeanBdRate:
    """BD-rate of every item (name -> anchor, test), then their mean with a bootstrap interval over items.

    Averaging curves first lets one item decide the result (arXiv 2409.08772). Items without a value are left
    out and named. Raises BdRateError when no item has one.
    """
    per_item: dict[str, BdRateResult] = {}
    failed: dict[str, str] = {}
    for name, (anchor, test) in pairs.items():
        try:
            per_item[name] = bd_rate(anchor, test, method=method, bounds=bounds, fit=fit, min_overlap=min_overlap)
        except BdRateError as error:
            failed[name] = str(error)
    if not per_item:
        first = next(iter(failed.items()), ("", "no items given"))
        raise BdRateError(f"no item has a BD-rate; the first, {first[0]!r}: {first[1]}")
    values = [result.bd_rate for result in per_item.values()]
    return MeanBdRate(bootstrap_mean(values, seed=seed, confidence=confidence), per_item, failed)


def _prepare(name: str, curve: RateCurve, bounds: tuple[float, float] | None, fit: Fit) -> _Prepared:
    """The curve with both axes strictly rising: as measured where it is clean, else its fit."""
    if len(curve.rate) < 2:
        raise CurveShapeError(f"the {name} curve has {len(curve.rate)} point(s); BD-rate needs at least two")
    low, high = bounds if bounds is not None else (-np.inf, np.inf)
    if curve.metric.min() < low or curve.metric.max() > high:
        raise CurveShapeError(f"a quality of the {name} curve is outside {low:g}..{high:g}; set bounds")
    order = np.lexsort((curve.metric, curve.rate))
    rate, metric = curve.rate[order], curve.metric[order]
    min_step = NEAR_TIE * (high - low if bounds is not None else max(float(np.ptp(metric)), 1e-300))
    clean = bool((np.diff(rate) > 0).all() and (np.diff(metric) >= min_step).all())
    if clean and fit != "always":
        return _Prepared(rate, metric, False, 0.0)
    if fit == "never":
        raise CurveShapeError(f"the {name} curve dips or ties and the fit is switched off; allow fit='auto'")
    return _fit(name, rate, metric, bounds, min_step)


def _fit(
    name: str,
    rate: NDArray[np.float64],
    metric: NDArray[np.float64],
    bounds: tuple[float, float] | None,
    min_step: float,
) -> _Prepared:
    log_rate, first, inverse, counts = np.unique(
        np.log10(rate), return_index=True, return_inverse=True, return_counts=True
    )
    merged = np.bincount(inverse, weights=metric) / counts
    fitted = fit_saturating(
        log_rate, merged, upper=None if bounds is None else bounds[1], weights=counts.astype(np.float64)
    )
    if bounds is not None:
        fitted = np.clip(fitted, *bounds)
    fitted = np.maximum.accumulate(fitted)  # rounding of the solver, about 1e-16
    residual = float(np.abs(fitted[inverse] - metric).max())
    kept_rate, kept_metric = drop_near_ties(rate[first], fitted, min_step)
    if len(kept_rate) < 2:
        raise CurveShapeError(
            f"the {name} curve has one quality only (about {fitted.mean():.4g}); "
            "measure QPs at which the quality differs"
        )
    return _Prepared(kept_rate, kept_metric, True, residual)


def _package_bd_rate(anchor: _Prepared, test: _Prepared, method: Method) -> float:
    import bjontegaard

    with np.errstate(all="ignore"):  # an overshoot is found below, by its value
        value = float(
            bjontegaard.bd_rate(
                anchor.rate,
                anchor.metric,
                test.rate,
                test.metric,
                method=method,
                require_matching_points=False,
                min_overlap=0,
            )
        )
    # The log rate of a monotone curve stays between its end points, hence so does the mean difference.
    lowest, highest = np.log10([test.rate[0], test.rate[-1]]) - np.log10([anchor.rate[-1], anchor.rate[0]])
    difference = np.log10(1 + value / 100) if -100 < value < np.inf else np.nan
    if not lowest - 1e-6 <= difference <= highest + 1e-6:
        raise InterpolationError(
            f"{method} overshoots between points of nearly equal quality (BD-rate {value:g} % is "
            "impossible); use method='pchip' or fit='always'"
        )
    return value
