"""Dense JRD map (ours; compare MVRNet, AAAI 2026): the whole picture -> a level per block, in one pass.

Per cell of 8 x 8 input pixels: is an object there that machines recognise, and up to which level does at
least the share r of them go on recognising it. A detector's confidence map helps and is not needed: the
stand-in's own map takes its place. Background goes to the top of the range.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.backbone import (
    FINE_CHANNELS,
    MAP_CHANNELS,
    VECTOR_CHANNELS,
    StandIn,
    StandInPrediction,
    confidence_channels,
)
from vcm_ratecontrol.predictors.interface import Batch, MapPrediction
from vcm_ratecontrol.predictors.layers import ConvNormActivation, hardswish
from vcm_ratecontrol.predictors.picture_statistics import N_STATISTICS

TOP_LEVEL = float(N_LEVELS - 1)
CELL = 8
"""Side of an output cell, in pixels of the input."""

_WIDTH = 64
_MEAN_JRD = 39.4  # of the published OW-JRD labels; where training starts
_DEVIATION_RANGE = (0.5, 32.0)  # QP levels


class JRDMapNetwork(nn.Module):
    """`Batch` (picture, statistics; confidence map if there) -> `MapPrediction`.

    Args: ratios: shares of the machines, rising, within 0..1; teachers, groups, features: of the `StandIn`;
    drop: stochastic depth of the backbone.
    """

    def __init__(
        self,
        *,
        ratios: Sequence[float] = (0.25, 0.5, 0.75, 0.9, 1.0),
        teachers: int = 31,
        groups: int = 64,
        features: int = 128,
        drop: float = 0.05,
    ) -> None:
        super().__init__()
        steps = zip(ratios, list(ratios)[1:], strict=False)
        if not ratios or not all(0 < r <= 1 for r in ratios) or any(a >= b for a, b in steps):
            raise ValueError(f"ratios must rise within 0..1, got {list(ratios)}")
        self.ratios = tuple(ratios)
        self.stand_in = StandIn(teachers=teachers, groups=groups, features=features, drop=drop)
        self.coarse = ConvNormActivation(MAP_CHANNELS + 2, _WIDTH, 1, activation=None)
        self.fine = ConvNormActivation(FINE_CHANNELS, _WIDTH, 1, activation=None)
        self.whole = nn.Linear(VECTOR_CHANNELS + N_STATISTICS, _WIDTH)
        self.refine = nn.Sequential(_separable(_WIDTH), _separable(_WIDTH))
        self.outputs = nn.Conv2d(_WIDTH, 2 + len(self.ratios), 1)
        start = torch.zeros(2 + len(self.ratios))
        start[2] = torch.logit(torch.tensor(_MEAN_JRD / TOP_LEVEL))
        start[3:] = 3.0  # sigmoid 0.95: each ratio starts a little below the one before
        self.outputs.bias = nn.Parameter(start)

    def forward(self, batch: Batch) -> MapPrediction:
        return self.predict(batch, self.stand_in.see(batch.picture))

    def predict(self, batch: Batch, seen: StandInPrediction) -> MapPrediction:
        """The map from what the stand-in saw (so that a frozen backbone needs to run once only)."""
        if batch.statistics is None:
            raise ValueError("jrd_map needs the picture statistics; set [input] statistics = true")
        confidence = confidence_channels(batch.confidence_map, seen.objectness)
        coarse = self.coarse(torch.cat([seen.backbone.map, confidence], dim=1))
        whole = self.whole(torch.cat([seen.backbone.vector, batch.statistics], dim=1))
        x = self.fine(seen.backbone.fine) + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        raw = self.outputs(self.refine(x + whole[:, :, None, None])).float()
        falling = torch.cumsum(F.logsigmoid(raw[:, 2:]), dim=1).exp()  # a product that ONNX knows
        return MapPrediction(
            object_logit=raw[:, 0],
            levels=TOP_LEVEL * falling,
            deviation=(4 * F.softplus(raw[:, 1])).clamp(*_DEVIATION_RANGE),
        )

    def load_public(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """There are no public weights of this network."""
        return self.stand_in.load_public(state)


def levels_at_ratio(levels: Tensor, ratios: Sequence[float], ratio: float) -> Tensor:
    """Level for any share r of the machines: [B, R, h, w] -> [B, h, w].

    Linear between the ratios of the network; below the lowest that one's level (the safe side).
    Raises: ValueError for a ratio above the highest of the network, or outside 0..1.
    """
    if not 0 < ratio <= ratios[-1]:
        raise ValueError(f"ratio {ratio} is outside 0..{ratios[-1]}, what this network was made for")
    if ratio <= ratios[0]:
        return levels[:, 0]
    upper = next(index for index, known in enumerate(ratios) if known >= ratio)
    share = (ratio - ratios[upper - 1]) / (ratios[upper] - ratios[upper - 1])
    return torch.lerp(levels[:, upper - 1], levels[:, upper], share)


def to_blocks(prediction: MapPrediction, levels: Tensor, rows: int, cols: int, threshold: float) -> Tensor:
    """Cells -> blocks of the picture: float32 [3, rows, cols] of level, deviation, object probability
    (batch of one).

    Cells are resampled to quarters of blocks; cells without an object (probability < threshold) go to the
    top; a block then takes the lowest level among its quarters, since it has one QP and must serve what is
    most fragile.
    """
    maps = torch.stack([levels, prediction.deviation, torch.sigmoid(prediction.object_logit)], dim=1)
    quarters = F.interpolate(maps, size=(2 * rows, 2 * cols), mode="bilinear", antialias=True)
    level, deviation, probability = quarters.unbind(dim=1)
    level = torch.where(probability < threshold, TOP_LEVEL, level)
    lowest = -F.max_pool2d(-level, 2)
    return torch.stack([lowest, F.max_pool2d(deviation, 2), F.max_pool2d(probability, 2)], dim=1)[0]


def _separable(width: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormActivation(width, width, 3, groups=width, activation=hardswish),
        ConvNormActivation(width, width, 1, activation=hardswish),
    )
