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
from vcm_ratecontrol.predictors.layers import SetEncoder, two_layers
from vcm_ratecontrol.predictors.mean_curve import MeanCurves, conditions_from
from vcm_ratecontrol.predictors.picture_statistics import N_STATISTICS


class SMRCurveNetwork(nn.Module):
    """`Batch` (picture, statistics, condition; evidence and confidence map if there) -> `CurvePrediction`.

    Two branches, as in `smr_curve_evidence`: what machines and their stand-in see gives the shift, plain statistics
    the bits. Of the backbone's vector little is kept, with much dropout: the label table has hundreds of pictures only.

    Args: conditions: 'codec/coding type/task' each; teachers, groups, features: of the `StandIn`; hidden,
    evidence, glimpse: widths of the branches, of the machines' evidence and of what is kept of the backbone's vector;
    dropout: of both branches; drop: stochastic depth of the backbone.
    """

    def __init__(
        self,
        *,
        conditions: Sequence[str],
        teachers: int = 31,
        groups: int = 64,
        features: int = 128,
        hidden: int = 48,
        evidence: int = 32,
        glimpse: int = 16,
        dropout: float = 0.15,
        drop: float = 0.05,
    ) -> None:
        super().__init__()
        self.curves = MeanCurves(conditions_from(conditions))
        self.stand_in = StandIn(teachers=teachers, groups=groups, features=features, drop=drop)
        self.condition = nn.Embedding(len(conditions), 8)
        self.evidence = SetEncoder(N_EVIDENCE, evidence)
        self.glimpse = nn.Sequential(nn.Dropout(0.5), nn.Linear(VECTOR_CHANNELS + MAP_CHANNELS, glimpse), nn.ReLU())
        self.seen = two_layers(evidence + 8 + glimpse + 3 + teachers, hidden, dropout)
        self.looks = two_layers(N_STATISTICS + 8, hidden, dropout)
        self.outputs = CurveHead(hidden, hidden, len(conditions))

    def forward(self, batch: Batch) -> CurvePrediction:
        return self.predict(batch, self.stand_in.see(batch.picture))

    def predict(self, batch: Batch, seen: StandInPrediction) -> CurvePrediction:
        """The curves from what the stand-in saw (so that a frozen backbone needs to run once only)."""
        if batch.statistics is None:
            raise ValueError("smr_curve needs the picture statistics; set [input] statistics = true")
        condition = self.condition(batch.condition)
        evidence = self.evidence(batch.evidence, batch.evidence_mask)
        shift: Tensor = self.seen(torch.cat([evidence, condition, *self._glimpsed(batch, seen)], dim=1))
        bits: Tensor = self.looks(torch.cat([batch.statistics, condition], dim=1))
        prediction: CurvePrediction = self.outputs(self.curves, batch.condition, shift, bits)
        return prediction

    def _glimpsed(self, batch: Batch, seen: StandInPrediction) -> tuple[Tensor, Tensor, Tensor]:
        """What the stand-in saw: of its vector and where objects are, how sure it is there, and as which teacher."""
        confidence = confidence_channels(batch.confidence_map, seen.objectness)
        weight = confidence[:, :1]
        where_sure = (seen.backbone.map * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1e-3)
        how_sure = torch.cat([weight.mean((2, 3)), weight.amax((2, 3)), confidence[:, 1:].mean((2, 3))], dim=1)
        return self.glimpse(torch.cat([seen.backbone.vector, where_sure], dim=1)), how_sure, seen.confidence / 4

    def load_public(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """There are no public weights of this network."""
        return self.stand_in.load_public(state)


def shift_loss(prediction: CurvePrediction, shift: Tensor) -> Tensor:
    """Negative log likelihood of the true shifts (QP levels, [B]) under the predicted normal distributions;
    a mean."""
    deviation = prediction.shift_deviation
    error = (shift - prediction.shift_mean) / deviation
    return (0.5 * error.square() + deviation.log()).mean()
