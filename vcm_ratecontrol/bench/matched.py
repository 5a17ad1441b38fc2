"""Bits at the same mean SMR: what a method saves against the best flat QP.

A BD-rate averages over all qualities; a user asks about one. So beside it stands the matched point: the
method's mean SMR over the items is looked up on the curve of flat QPs (one QP for all items, every item
coded again at each level), and the bits are compared there. The flat curve is made monotone first
(isotonic least squares), and between two levels log bits are interpolated over SMR, so that the anchor is
not punished for having whole QPs only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec_wrappers.errors import InputError, VcmError
from vcm_ratecontrol.bench.bootstrap import Interval, bootstrap

Floats = NDArray[np.float64]


class NoMatchError(VcmError):
    """No flat QP has the method's mean SMR: it lies above or below all of them."""

    exit_code = 2


@dataclass(frozen=True)
class MatchedSaving:
    """saving: percent of the flat curve's bits at the same mean SMR that the method does without (negative:
    it needs more), with a bootstrap interval over items. mean_smr: where both were compared, 0..1.
    bits, flat_bits: totals over the items there. clamped_share: resamples (0..1) whose SMR fell outside the
    flat curve and were compared at its end."""

    saving: Interval
    mean_smr: float
    bits: float
    flat_bits: float
    clamped_share: float


def matched_saving(
    flat_smr: ArrayLike,
    flat_bits: ArrayLike,
    smr: ArrayLike,
    bits: ArrayLike,
    *,
    seed: int,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> MatchedSaving:
    """Saving of a method against the best flat QP with the same mean SMR.

    flat_smr: float [items, levels] in 0..1, flat_bits: float [items, levels] > 0, levels in rising QP;
    smr, bits: float [items], what the method gave for the same items. Bits are summed over items; give
    bits per pixel if every item shall count alike. Raises NoMatchError where the flat curve does not reach
    the method's mean SMR, InputError for arrays that do not fit each other.
    """
    table_smr, table_bits = np.asarray(flat_smr, np.float64), np.asarray(flat_bits, np.float64)
    own_smr, own_bits = np.asarray(smr, np.float64), np.asarray(bits, np.float64)
    _check(table_smr, table_bits, own_smr, own_bits)

    mean_smr, total = float(own_smr.mean()), float(own_bits.sum())
    flat_total, inside = bits_at(table_smr.mean(0), table_bits.sum(0), mean_smr)
    if not inside:
        means = table_smr.mean(0)
        raise NoMatchError(
            f"no flat QP has the mean SMR {mean_smr:.4f} of the method (they have {means.min():.4f}.."
            f"{means.max():.4f}); measure more QPs"
        )
    clamped = 0

    def saving_of(items: NDArray[np.intp]) -> float:
        nonlocal clamped
        flat, reached = bits_at(table_smr[items].mean(0), table_bits[items].sum(0), float(own_smr[items].mean()))
        clamped += not reached
        return 100.0 * (1.0 - float(own_bits[items].sum()) / flat)

    interval = bootstrap(saving_of, len(own_smr), seed=seed, n_resamples=n_resamples, confidence=confidence)
    return MatchedSaving(interval, mean_smr, total, flat_total, clamped / max(1, interval.n_resamples))


def bits_at(curve_smr: Floats, curve_bits: Floats, smr: float) -> tuple[float, bool]:
    """Fewest bits at which the monotone fit of one flat curve has the SMR asked for.

    curve_smr: float64 [levels], curve_bits: float64 [levels] > 0, rising QP. Returns the bits and whether
    the fit reaches that SMR at all; where it does not, the bits of its nearer end.
    """
    from scipy.optimize import isotonic_regression

    fitted = isotonic_regression(curve_smr, increasing=False).x
    log_bits = isotonic_regression(np.log(curve_bits), increasing=False).x
    # On a plateau (one SMR, several levels) the cheapest level stands for all of them.
    plateau_end = np.append(np.diff(fitted) < 0, True)
    heights, logs = fitted[plateau_end][::-1], log_bits[plateau_end][::-1]
    inside = bool(heights[0] - 1e-12 <= smr <= heights[-1] + 1e-12)
    return float(np.exp(np.interp(smr, heights, logs))), inside


def _check(flat_smr: Floats, flat_bits: Floats, smr: Floats, bits: Floats) -> None:
    if flat_smr.ndim != 2 or flat_smr.shape != flat_bits.shape or 0 in flat_smr.shape:
        raise InputError(
            f"matched saving: flat SMR {flat_smr.shape} and flat bits {flat_bits.shape} must be one "
            "[items, levels] shape"
        )
    if smr.shape != (len(flat_smr),) or bits.shape != smr.shape:
        raise InputError(
            f"matched saving: SMR {smr.shape} and bits {bits.shape} of the method must be "
            f"[{len(flat_smr)}], one for each item of the flat table"
        )
    for name, array in (("flat SMR", flat_smr), ("flat bits", flat_bits), ("SMR", smr), ("bits", bits)):
        if not np.isfinite(array).all():
            raise InputError(f"matched saving: {name} is not finite; leave failed items out of all methods")
        if name.endswith("bits") and (array <= 0).any():
            raise InputError(f"matched saving: {name} must be above 0; leave failed items out")
