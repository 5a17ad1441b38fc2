"""SMR curves of sets of machines as training and evaluation want them: mean curve, and each picture's shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.mean_curve import MAX_SHIFT, fit_mean_curve
from vcm_ratecontrol.ratecontrol.shift import fit_shifts
from vcm_ratecontrol.training.label_set import LabelSet

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

LEVELS = np.arange(N_LEVELS)

LEAST_VALID = 3
"""A curve of fewer valid machines than this is no target: its steps are a half or all."""

WEAK_PRIOR_SD = 12.0
"""QP; twice the spread of shifts. A picture that no level satisfies would else be shifted out of all bounds."""


@dataclass(frozen=True, eq=False)
class CurveTargets:
    """Curves of one set of machines.

    smr: float64 [P, Q], NaN for pictures with too few valid machines. mean: float64 [64], the mean curve over the
    fitting pictures, never rising. shift: float64 [P], QP, NaN as smr. deviation: of the fitting pictures' shifts.
    """

    smr: Floats
    mean: Floats
    shift: Floats
    deviation: float

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """bool [P]: pictures with enough valid machines."""
        return np.isfinite(self.shift)


def smr_of(labels: LabelSet, machines: Indices, least_valid: int = LEAST_VALID) -> Floats:
    """SMR of the pictures over some machines: float64 [P, Q], NaN in the rows of pictures with too few valid ones."""
    valid = labels.verdicts.valid[:, machines, 1:].sum(axis=1)
    satisfied = labels.verdicts.satisfied[:, machines, 1:].sum(axis=1)
    enough = (valid >= max(1, least_valid)).all(axis=1)
    smr = np.full(valid.shape, np.nan)
    smr[enough] = satisfied[enough] / valid[enough]
    return smr


def curve_targets(
    labels: LabelSet, machines: Indices, fit_rows: Indices, least_valid: int = LEAST_VALID
) -> CurveTargets:
    """Targets over some machines; the mean curve is that of the pictures `fit_rows` (train).

    Raises InputError when none of those has enough valid machines.
    """
    smr = smr_of(labels, machines, least_valid)
    fitting = smr[fit_rows]
    if not np.isfinite(fitting).any():
        raise InputError(
            f"{labels.url}: no training picture has {least_valid} valid machines of the {len(machines)} asked;"
            " annotate more pictures or choose other machines"
        )
    mean = fit_mean_curve(fitting, labels.qps).astype(np.float64)
    shift = shifts_of(mean, labels.qps, smr)
    deviation = float(np.nanstd(shift[fit_rows]))
    return CurveTargets(smr, mean, shift, max(deviation, 0.5))


def shifts_of(mean: Floats, qps: tuple[int, ...], smr: Floats) -> Floats:
    """The shift of the mean curve that each measured curve [P, Q] asks for: float64 [P], NaN where not measured."""
    known = np.isfinite(smr).all(axis=1)
    shift = np.full(len(smr), np.nan)
    if known.any():
        fitted = fit_shifts(mean, LEVELS, qps, smr[known], shift_sd=WEAK_PRIOR_SD)
        shift[known] = np.clip(fitted, -MAX_SHIFT, MAX_SHIFT)
    return shift


def shifted_curves(mean: Floats, shift: Floats, levels: npt.ArrayLike = LEVELS) -> Floats:
    """The mean curve [64] moved by each shift [P], at the levels [n]: float64 [P, n]."""
    at = np.asarray(levels, np.float64)[None] - np.asarray(shift, np.float64)[:, None]
    return np.interp(at, LEVELS, mean)
