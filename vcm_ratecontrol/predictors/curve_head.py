"""From what a network knows of a picture to its curves: the mean curves of a condition, moved and steepened."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.interface import CurvePrediction
from vcm_ratecontrol.predictors.mean_curve import MAX_SHIFT, MeanCurves

BAND_DEVIATIONS = 1.2816
"""Half width of the band in standard deviations: 80 % of a normal distribution."""

BITS_KNOTS = (0, 9, 18, 27, 36, 45, 54, 63)
"""Levels at which the steepness of the bits curve is predicted; linear between them."""

_BITS_ANCHOR = 32  # level at which the predicted offset of log2 bits applies
_LOG_DEVIATION_RANGE = (-2.5, 1.0)  # of the predicted deviation against that of all pictures
_LOG_STEEPNESS_RANGE = 2.0


class CurveHead(nn.Module):
    """Vectors -> `CurvePrediction`. Its last layers start at 0: untrained it gives the mean curve, and no
    certainty.

    Buffer `shrinkage`: float32 [C], >= 0, how much a doubted shift is pulled to 0; calibrated after training.
    Args: shift_inputs, bits_inputs: widths of the vectors; conditions: how many.
    """

    def __init__(self, shift_inputs: int, bits_inputs: int, conditions: int) -> None:
        super().__init__()
        self.shift = _zero_linear(shift_inputs, 2)
        self.bits = _zero_linear(bits_inputs, 1 + len(BITS_KNOTS))
        self.register_buffer("shrinkage", torch.ones(conditions))
        self.shrinkage: Tensor
        self.register_buffer("knot_weights", _knot_weights(), persistent=False)
        self.knot_weights: Tensor

    def forward(self, curves: MeanCurves, condition: Tensor, for_shift: Tensor, for_bits: Tensor) -> CurvePrediction:
        """condition: int64 [B]; for_shift: [B, shift_inputs]; for_bits: [B, bits_inputs]."""
        deviation_all = curves.shift_deviation[condition]
        raw = self.shift(for_shift).float()  # mixed precision would round levels to 1/32
        mean = (deviation_all * raw[:, 0]).clamp(-MAX_SHIFT, MAX_SHIFT)
        deviation = deviation_all * raw[:, 1].clamp(*_LOG_DEVIATION_RANGE).exp()
        shift = shrunk(mean, deviation, deviation_all, self.shrinkage[condition])
        reach = BAND_DEVIATIONS * deviation
        return CurvePrediction(
            smr=curves.shifted_smr(condition, shift),
            low=curves.shifted_smr(condition, shift - reach),
            high=curves.shifted_smr(condition, shift + reach),
            log2_bits=self._log2_bits(curves.log2_bits[condition], self.bits(for_bits).float()),
            shift=shift,
            shift_mean=mean,
            shift_deviation=deviation,
        )

    def _log2_bits(self, mean: Tensor, raw: Tensor) -> Tensor:
        """The mean bits curve, moved up or down and steepened per knot; it falls because its steps only get
        scaled."""
        steepness = raw[:, 1:].clamp(-_LOG_STEEPNESS_RANGE, _LOG_STEEPNESS_RANGE) @ self.knot_weights
        fall = torch.cumsum(mean.diff(dim=1) * steepness.exp(), dim=1)
        curve = torch.cat([torch.zeros_like(fall[:, :1]), fall], dim=1)
        anchor = slice(_BITS_ANCHOR, _BITS_ANCHOR + 1)
        return curve - curve[:, anchor] + mean[:, anchor] + raw[:, :1]


def shrunk(mean: Tensor, deviation: Tensor, deviation_all: Tensor, shrinkage: Tensor) -> Tensor:
    """A shift pulled towards 0 by its doubt: all [B] (shrinkage >= 0, or a number) -> [B]."""
    variance = deviation_all.square()
    return mean * variance / (variance + shrinkage * deviation.square())


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _knot_weights() -> Tensor:
    """Linear interpolation from the knots to the middles of the 63 steps between levels: float32 [8, 63]."""
    knots = torch.tensor(BITS_KNOTS, dtype=torch.float32)
    middles = torch.arange(N_LEVELS - 1) + 0.5
    spacing = knots[1] - knots[0]
    return (1 - (middles[None] - knots[:, None]).abs() / spacing).clamp(min=0)
