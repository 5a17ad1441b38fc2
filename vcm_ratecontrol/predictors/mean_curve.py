"""Mean curves of SMR and bits per condition, and pictures as shifts of them along the level.

A picture's SMR curve is mostly one number: the mean curve, moved along the level by d (> 0: more robust).
Here are both ends: the numpy functions that fit mean curves and shifts to labels, and the module that keeps
the curves as buffers and moves them inside a network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.interface import Condition

MAX_SHIFT = 32.0
"""QP levels; no picture of the pilot was shifted further (its standard deviation was 5 to 7)."""

# What a network starts from before curves are fitted: the pilot's mean SMR curve (VVenC stills, 8
# machines), and bits that halve every six levels from 4 bits per pixel at level 8, the usual rule for a QP.
_PILOT_LEVELS = (8, 22, 30, 36, 42, 48, 54, 63)
_PILOT_SMR = (0.97, 0.94, 0.87, 0.75, 0.56, 0.26, 0.05, 0.0)
_PILOT_DEVIATION = 6.0


def non_increasing(values: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """The never-rising sequence nearest to the values, least squares: float [n] -> float64 [n]."""
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(values, weights=weights, increasing=False).x, dtype=np.float64)


def fit_mean_curve(curves: ArrayLike, levels: Sequence[int]) -> NDArray[np.float32]:
    """Mean curve over pictures: float [N, n] at the given rising levels, NaN where not measured -> float32
    [64].

    Never rising; between the measured levels linear, outside them constant. Raises: ValueError if a level was
    measured on no picture.
    """
    values = np.asarray(curves, dtype=np.float64)
    count = np.isfinite(values).sum(axis=0)
    if not count.all():
        raise ValueError(f"level {levels[int(np.argmin(count))]} was measured on no picture")
    mean = non_increasing(np.nansum(values, axis=0) / count, weights=count.astype(np.float64))
    return np.interp(np.arange(N_LEVELS), levels, mean).astype(np.float32)


def shifted(mean: NDArray[np.float32], shift: float, levels: Sequence[int]) -> NDArray[np.float64]:
    """The mean curve [64] moved up by `shift` levels, at the given levels: float64 [n]."""
    moved = np.interp(np.asarray(levels, dtype=np.float64) - shift, np.arange(N_LEVELS), mean)
    return np.asarray(moved, dtype=np.float64)


def best_shift(curve: ArrayLike, mean: NDArray[np.float32], levels: Sequence[int], *, step: float = 0.25) -> float:
    """The shift, in QP levels, that brings the mean curve nearest to one picture's measured curve (least
    squares).

    Args: curve: float [n] at `levels`, NaN where not measured. Of equal shifts the smallest in size is given.
    Raises: ValueError if nothing was measured.
    """
    measured = np.asarray(curve, dtype=np.float64)
    there = np.isfinite(measured)
    if not there.any():
        raise ValueError("a curve without a measured level has no shift")
    at = np.asarray(levels)[there]
    steps = np.arange(1, round(MAX_SHIFT / step) + 1) * step
    candidates = np.concatenate([[0.0], np.stack([steps, -steps], axis=1).ravel()])
    errors = [((shifted(mean, float(d), at.tolist()) - measured[there]) ** 2).sum() for d in candidates]
    return float(candidates[int(np.argmin(errors))])


class MeanCurves(nn.Module):
    """Curves per condition as buffers; they are data of the training table, not learnt.

    Buffers: smr: [C, 64], 0..1; log2_bits: [C, 64], log2 of bits per pixel; both never rising.
    shift_deviation: [C], QP levels, of the true shifts over the training pictures. fitted: bool [C],
    whether `set_curves` was called.
    """

    def __init__(self, conditions: Sequence[Condition]) -> None:
        super().__init__()
        if not conditions:
            raise ValueError("at least one condition is needed")
        self.conditions = tuple(conditions)
        count = len(conditions)
        smr = np.interp(np.arange(N_LEVELS), _PILOT_LEVELS, _PILOT_SMR)
        bits = 2 - (np.arange(N_LEVELS) - 8) / 6
        self.register_buffer("smr", torch.tensor(smr, dtype=torch.float32).repeat(count, 1))
        self.register_buffer("log2_bits", torch.tensor(bits, dtype=torch.float32).repeat(count, 1))
        self.register_buffer("shift_deviation", torch.full((count,), _PILOT_DEVIATION))
        self.register_buffer("fitted", torch.zeros(count, dtype=torch.bool))
        self.smr: Tensor
        self.log2_bits: Tensor
        self.shift_deviation: Tensor
        self.fitted: Tensor

    def set_curves(self, condition: Condition, smr: ArrayLike, log2_bits: ArrayLike, shift_deviation: float) -> None:
        """Enter the curves of one condition. Raises ValueError for curves that rise, or are not 64 finite
        values."""
        index = self.conditions.index(condition)
        for name, values in (("smr", smr), ("log2_bits", log2_bits)):
            row = torch.as_tensor(np.asarray(values, dtype=np.float32))
            if row.shape != (N_LEVELS,) or not torch.isfinite(row).all() or (row.diff() > 0).any():
                raise ValueError(f"{name} of {condition} must be {N_LEVELS} finite values that never rise")
            getattr(self, name)[index] = row
        if not 0 < shift_deviation < MAX_SHIFT:
            raise ValueError(f"the deviation of the shifts must be within 0..{MAX_SHIFT}, not {shift_deviation}")
        self.shift_deviation[index] = shift_deviation
        self.fitted[index] = True

    def lowest_levels(self) -> tuple[int, ...]:
        """Of each condition the lowest level that there were labels for: below it the bits, too, are constant."""
        constant = self.log2_bits == self.log2_bits[:, :1]
        return tuple(int(row) - 1 for row in constant.sum(dim=1))

    def shifted_smr(self, condition: Tensor, shift: Tensor) -> Tensor:
        """The SMR curves moved by `shift`: int64 [B], float32 [B] -> float32 [B, 64], never rising."""
        levels = torch.arange(N_LEVELS, device=shift.device, dtype=shift.dtype)
        return _interpolate(self.smr[condition], levels[None] - shift[:, None])

    def smr_at(self, condition: Tensor, level: Tensor) -> Tensor:
        """Mean SMR at one level each: int64 [B], float32 [B] -> float32 [B]."""
        return _interpolate(self.smr[condition], level[:, None])[:, 0]


def conditions_from(values: Sequence[str]) -> tuple[Condition, ...]:
    """Conditions from a configuration: 'codec/coding type/task' each. Raises ValueError."""
    parsed = tuple(Condition(*text.split("/")) for text in values)  # type: ignore[arg-type]
    if len(set(parsed)) != len(parsed):
        raise ValueError("a condition is named twice")
    return parsed


def _interpolate(rows: Tensor, position: Tensor) -> Tensor:
    """Linear interpolation along the level: rows [B, 64] at positions [B, n] (clamped to 0..63) -> [B, n]."""
    clamped = position.clamp(0, N_LEVELS - 1)
    below = clamped.floor().clamp(max=N_LEVELS - 2)
    index = below.long()
    low, high = rows.gather(1, index), rows.gather(1, index + 1)
    return low + (high - low) * (clamped - below)
