"""A picture's SMR curve as the mean curve, shifted along QP.

The pilot on 152 photographs found that a picture is mostly one number: its curve is the mean curve moved
by d QP (standard deviation 5 to 7), and d carries over between disjoint sets of machines (correlation
0.8). Curves used as measured lose bits, because a planner hunts for lucky noise in them; the shifted mean
curve is smooth and monotone, and the fitted shift is shrunk towards 0 by what is not to be trusted.

Two different shrinkages meet here. *Few points* leave the shift uncertain: a Gaussian prior on it (standard
deviation `SHIFT_SD`, against `NOISE_SD` of one measured SMR) pulls it to 0, less so with every point.
*Other machines* than those measured will judge: the shift of one set explains that of another only in part,
and the factor `TRANSFER_SHRINK` stays however many points there are. Where the measured machines are the
ones that matter, that factor is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec_wrappers.errors import InputError

Floats = NDArray[np.float64]

# Pilot, section 2: standard deviation of the shift between pictures, in QP.
SHIFT_SD = 6.0
# One SMR value of about ten machines: sqrt(p (1 - p) / 10) is 0.13 on the mean of p over the slope.
NOISE_SD = 0.13
# Pilot, section 3: the factor at which one machine set's shift predicts another set's curves best.
TRANSFER_SHRINK = 0.75

# Half of all predictions are too hopeful. What is planned so many of their standard deviations on the safe side misses
# 0.8 and 0.9 by 0.03 in the mean on the validation pictures (each by itself, VVC and HEVC, unseen judges, no machine at
# hand; by 0.06 and 0.04 without).
CAUTION = 0.8

# QPs over which what machines say beyond a curve's shift falls to 1/e. On the eleven labelled clips, each by itself,
# three probes end 0.3 QP below the highest QP that meets 0.7; planning by the shift alone, 1.6 QP below, and after more
# probes. 6 to 12 are as good.
_REACH = 8.0
# How much of it is chance, against what holds nearby, as a ratio of variances.
_CHANCE = 0.1

# Shifts that are tried, in QP; beyond 40 the curve has left the range of levels.
_SHIFTS = np.arange(-40.0, 40.25, 0.25)

# Mean SMR curve of 8 machines on 152 photographs, VVenC stills (pilot, section 1).
_PILOT_QP = (0, 8, 22, 30, 36, 42, 48, 54, 63)
_PILOT_SMR = {
    "both": (0.98, 0.97, 0.94, 0.87, 0.75, 0.56, 0.26, 0.05, 0.0),
    "detection": (1.0, 1.0, 0.99, 0.95, 0.81, 0.56, 0.25, 0.04, 0.0),
}


@dataclass(frozen=True, eq=False)
class ShiftedCurves:
    """smr: float64 [items, levels], the model's curves, falling with QP. shifts: float64 [items], in QP, positive
    = more robust than the mean; already shrunk."""

    smr: Floats
    shifts: Floats


@dataclass(frozen=True)
class MeasuredSmr:
    """One measured point of an item's curve: smr 0..1 at qp."""

    qp: float
    smr: float


def pilot_mean_curve(levels: ArrayLike, task: Literal["both", "detection"] = "both") -> Floats:
    """The pilot's mean SMR at the given QPs (VVC label space 0..63): float64 [levels], falling. A prior for
    pictures nothing is known of; a curve from one's own label table is better."""
    return np.interp(np.asarray(levels, np.float64), _PILOT_QP, _PILOT_SMR[task])


def shift_curve(curve: Floats, levels: Floats, shift: float) -> Floats:
    """`curve` [levels] moved by `shift` QP towards higher QP (positive) or lower; its ends are held."""
    return np.interp(levels - shift, levels, curve)


def margin(deviation: ArrayLike, independent: int = 1) -> Floats:
    """QPs by which a plan stays below what is predicted, as many as `deviation`.

    deviation: float [items], QPs, the standard deviation of each curve's shift. independent: over so many items, whose
    predictions err independently, the target is a mean: then one makes up for the other.
    """
    below: Floats = CAUTION * np.asarray(deviation, np.float64) / np.sqrt(max(1, independent))
    return below


def fragile(smr: ArrayLike, levels: ArrayLike, by: ArrayLike) -> Floats:
    """Curves [items, levels] as if every item lost its machines `by` QPs (float [items], >= 0) sooner."""
    grid = np.asarray(levels, np.float64)
    rows = zip(np.asarray(smr, np.float64), np.asarray(by, np.float64), strict=True)
    return np.stack([shift_curve(curve, grid, -sooner) for curve, sooner in rows])


def fit_shifts(
    curve: ArrayLike,
    levels: ArrayLike,
    qps: ArrayLike,
    smr: ArrayLike,
    *,
    shift_sd: float = SHIFT_SD,
    noise_sd: float = NOISE_SD,
) -> Floats:
    """The most probable shift of every item, given what was measured (maximum a posteriori, see the module).

    curve: float [levels], the mean curve at `levels` (rising QPs). qps: float [k]; smr: float [items, k], NaN
    where an item was not measured. shift_sd, noise_sd: standard deviations of shift (QP) and of one SMR.
    Returns float64 [items] in QP; 0 for an item without measurements.
    """
    costs = _shift_costs(curve, levels, qps, smr, shift_sd, noise_sd)
    best: Floats = _SHIFTS[np.argmin(costs, axis=1)]
    return best


def shift_posterior(
    curve: ArrayLike,
    levels: ArrayLike,
    qps: ArrayLike,
    smr: ArrayLike,
    *,
    shift_sd: float = SHIFT_SD,
    noise_sd: float = NOISE_SD,
) -> tuple[Floats, Floats]:
    """How probable each shift of one item is, given what was measured.

    curve, levels, shift_sd, noise_sd: as `fit_shifts`; qps, smr: float [k], k may be 0. Returns the shifts
    tried (QP) and their probabilities (sum 1), both float64 [shifts].
    """
    costs = _shift_costs(curve, levels, qps, np.asarray(smr, np.float64)[None], shift_sd, noise_sd)[0]
    weights = np.exp(-(costs - costs.min()) / (2 * noise_sd**2))
    return _SHIFTS, weights / weights.sum()


def _shift_costs(
    curve: ArrayLike, levels: ArrayLike, qps: ArrayLike, smr: ArrayLike, shift_sd: float, noise_sd: float
) -> Floats:
    """Squared error of every item under every shift, plus the prior's penalty: float64 [items, shifts]."""
    mean, grid, at = (np.asarray(array, np.float64) for array in (curve, levels, qps))
    values = np.atleast_2d(np.asarray(smr, np.float64))
    if mean.shape != grid.shape or mean.ndim != 1 or (np.diff(grid) <= 0).any():
        raise InputError("shift model: the mean curve needs one value for each of its rising levels")
    if values.shape[1] != len(at):
        raise InputError(f"shift model: {values.shape[1]} SMR values per item but {len(at)} QPs")
    table = np.stack([np.interp(at - shift, grid, mean) for shift in _SHIFTS])
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    # Sum over the measured points of (smr - table)^2, for every item and shift at once.
    errors = (filled**2).sum(1)[:, None] - 2 * filled @ table.T + known.astype(np.float64) @ (table**2).T
    costs: Floats = errors + (noise_sd / shift_sd * _SHIFTS) ** 2
    return costs


def shift_model(
    mean_curve: ArrayLike,
    levels: ArrayLike,
    qps: ArrayLike,
    smr: ArrayLike,
    *,
    shrink: float = TRANSFER_SHRINK,
) -> ShiftedCurves:
    """Smooth curves from raw measured ones: the mean curve under each item's fitted, shrunk shift.

    mean_curve, levels: float [levels]; qps: float [k]; smr: float [items, k], NaN where not measured.
    shrink: 0 gives the mean curve for all, 1 the fitted shift; below 1 for machines that are not the
    judges. Raises InputError for shapes that do not fit.
    """
    shifts = shrink * fit_shifts(mean_curve, levels, qps, smr)
    mean, grid = np.asarray(mean_curve, np.float64), np.asarray(levels, np.float64)
    curves = np.stack([shift_curve(mean, grid, shift) for shift in shifts])
    return ShiftedCurves(curves, shifts)


def refine(
    smr: ArrayLike,
    levels: ArrayLike,
    measured: Mapping[int, Sequence[MeasuredSmr]],
    *,
    weight: float = TRANSFER_SHRINK,
    pin: bool = False,
    shift_sd: float = SHIFT_SD,
) -> Floats:
    """Predicted curves, moved towards what probes measured.

    smr: float [items, levels] predicted; levels: float [levels]; measured: item number -> its probes.
    Each probed item's own curve is shifted by `weight` times the shift that its probes make most probable
    (`shift_sd`: how far, in QP, predictions are off). weight 0.75 when other machines will judge, 1 when
    the measured machines are the judges; in that case `pin` also puts the measured values themselves on the
    curve (at the level nearest to the probe), with the levels between them kept within their neighbours'.
    Returns float64 [items, levels].
    """
    grid = np.asarray(levels, np.float64)
    refined = np.array(smr, np.float64)
    for item, points in measured.items():
        if not points:
            continue
        shift = weight * probed_shift(refined[item], grid, points, shift_sd=shift_sd)
        refined[item] = shift_curve(refined[item], grid, shift)
        if pin:
            refined[item] = pinned(refined[item], grid, points)
    return refined


def probed_shift(curve: Floats, levels: Floats, points: Sequence[MeasuredSmr], *, shift_sd: float = SHIFT_SD) -> float:
    """The most probable shift, in QP, of one item's predicted curve [levels], given its probes."""
    qps, values = [point.qp for point in points], [point.smr for point in points]
    return float(fit_shifts(curve, levels, qps, [values], shift_sd=shift_sd)[0])


def through(curve: Floats, levels: Floats, points: Sequence[MeasuredSmr]) -> Floats:
    """The curve [levels] moved towards measured points: most of what it misses there, it misses nearby too."""
    at, values = np.array([point.qp for point in points], np.float64), np.array([point.smr for point in points])
    near, of_levels = (np.exp(-np.abs(qps[:, None] - at) / _REACH) for qps in (at, levels))
    missed = np.linalg.solve(near + _CHANCE * np.eye(len(at)), values - np.interp(at, levels, curve))
    moved: Floats = (curve + of_levels @ missed).clip(0.0, 1.0)
    return moved


def pinned(curve: Floats, levels: Floats, points: Sequence[MeasuredSmr]) -> Floats:
    """The curve [levels] through the measured points. Where they contradict a falling curve, the levels between them
    take the lower value: the planner must not gain from noise that it has not measured."""
    low, high = np.zeros_like(curve), np.ones_like(curve)
    nearest = [int(np.abs(levels - point.qp).argmin()) for point in points]
    for level, point in zip(nearest, points, strict=True):
        low[: level + 1] = np.maximum(low[: level + 1], point.smr)
        high[level:] = np.minimum(high[level:], point.smr)
    through = np.minimum(np.maximum(curve, low), high)
    for level, point in zip(nearest, points, strict=True):
        through[level] = point.smr
    return through
