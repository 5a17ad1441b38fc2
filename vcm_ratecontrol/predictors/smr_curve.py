"""SMR curve, one shot: the original alone gives SMR and bits at all 64 levels.

A picture's curve is the mean curve of its condition moved along the level by d. The network predicts mean and
variance of d; d is shrunk towards 0 by that variance, so that a picture of which little can be said gets
the mean curve. Raw curves are dangerous: a Lagrangian over many pictures hunts for their lucky noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vcm_ratecontrol.predictors.backbone import (
    MAP_CHANNELS,
    VECTOR_CHANNELS,
    StandIn,
    StandInPrediction,
    confidence_channels,
)
from vcm_ratecontrol.predictors.curve_head import CurveHead
from vcm_ratecontrol.predictors.evidence import N_EVIDENCE
from vcm_ratecontrol.predictors.interface import Batch, CurvePrediction
from vcm_ratecontrol.predictors.layers import SetEncoder
from vcm_ratecontrol.predictors.mean_curve import MeanCurves, conditions_from
from vcm_ratecontrol.predictors.picture_statistics import N_STATISTICS


class SMRCurveNetwork(nn.Module):
    """`Batch` (picture, statistics, condition; evidence and confidence map if there) -> `CurvePrediction`.

    Args: conditions: 'codec/coding type/task' each; teachers, groups, features: of the `StandIn`; hidden,
    dropout: of the head; drop: stochastic depth of the backbone.
    """

    def __init__(
        self,
        *,
        conditions: Sequence[str],
        teachers: int = 31,
        groups: int = 64,
        features: int = 128,
        hidden: int = 128,
        evidence: int = 32,
        dropout: float = 0.1,
        drop: float = 0.05,
    ) -> None:
        super().__init__()
        self.curves = MeanCurves(conditions_from(conditions))
        self.stand_in = StandIn(teachers=teachers, groups=groups, features=features, drop=drop)
        self.condition = nn.Embedding(len(conditions), 16)
        self.evidence = SetEncoder(N_EVIDENCE, evidence)
        inputs = VECTOR_CHANNELS + 2 * MAP_CHANNELS + 3 + teachers + N_STATISTICS + 16 + evidence
        self.head = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.outputs = CurveHead(hidden, hidden, len(conditions))

    def forward(self, batch: Batch) -> CurvePrediction:
        return self.predict(batch, self.stand_in.see(batch.picture))

    def predict(self, batch: Batch, seen: StandInPrediction) -> CurvePrediction:
        """The curves from what the stand-in saw (so that a frozen backbone needs to run once only)."""
        if batch.statistics is None:
            raise ValueError("smr_curve needs the picture statistics; set [input] statistics = true")
        hidden = self.head(self._describe(batch, batch.statistics, seen))
        prediction: CurvePrediction = self.outputs(self.curves, batch.condition, hidden, hidden)
        return prediction

    def _describe(self, batch: Batch, statistics: Tensor, seen: StandInPrediction) -> Tensor:
        """All that is known of each picture as one vector."""
        confidence = confidence_channels(batch.confidence_map, seen.objectness)
        weight = confidence[:, :1]
        total = weight.sum((2, 3)) + 1e-3
        features = seen.backbone.map
        where_sure = (features * weight).sum((2, 3)) / total
        how_sure = torch.cat([weight.mean((2, 3)), weight.amax((2, 3)), confidence[:, 1:].mean((2, 3))], dim=1)
        parts = [
            seen.backbone.vector,
            where_sure,
            features.amax((2, 3)),
            how_sure,
            seen.confidence / 4,
            statistics,
            self.condition(batch.condition),
            self.evidence(batch.evidence, batch.evidence_mask),
        ]
        return torch.cat(parts, dim=1)

    def load_public(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """There are no public weights of this network."""
        return self.stand_in.load_public(state)


def shift_loss(prediction: CurvePrediction, shift: Tensor) -> Tensor:
    """Negative log likelihood of the true shifts (QP levels, [B]) under the predicted normal distributions;
    a mean."""
    deviation = prediction.shift_deviation
    error = (shift - prediction.shift_mean) / deviation
    return (0.5 * error.square() + deviation.log()).mean()
