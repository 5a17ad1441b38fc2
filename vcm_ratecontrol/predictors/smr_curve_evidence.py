"""SMR curve from machines alone: what any machines at hand say of the original -> the whole curve, no pixels.

One pass of each machine over the original, no coding. The picture gives its plain statistics only, which the
bits need. A few thousand weights: what a user's own detector says is worth more than a large network's guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vcm_ratecontrol.predictors.curve_head import CurveHead
from vcm_ratecontrol.predictors.evidence import N_EVIDENCE
from vcm_ratecontrol.predictors.interface import Batch, CurvePrediction
from vcm_ratecontrol.predictors.layers import SetEncoder, two_layers
from vcm_ratecontrol.predictors.mean_curve import MeanCurves, conditions_from
from vcm_ratecontrol.predictors.picture_statistics import N_STATISTICS


class EvidenceCurveNetwork(nn.Module):
    """`Batch` (statistics, condition, evidence) -> `CurvePrediction`. Without evidence the shift is 0 and doubted.

    Args: conditions: 'codec/coding type/task' each; hidden, evidence: widths; dropout: of both heads.
    """

    def __init__(
        self, *, conditions: Sequence[str], hidden: int = 32, evidence: int = 32, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.curves = MeanCurves(conditions_from(conditions))
        self.condition = nn.Embedding(len(conditions), 8)
        self.evidence = SetEncoder(N_EVIDENCE, evidence)
        self.seen = two_layers(evidence + 8, hidden, dropout)
        self.looks = two_layers(N_STATISTICS + 8, hidden, dropout)
        self.outputs = CurveHead(hidden, hidden, len(conditions))

    def forward(self, batch: Batch) -> CurvePrediction:
        if batch.statistics is None:
            raise ValueError("smr_curve_evidence needs the picture statistics; set [input] statistics = true")
        condition = self.condition(batch.condition)
        evidence = self.evidence(batch.evidence, batch.evidence_mask)
        seen: Tensor = self.seen(torch.cat([evidence, condition], dim=1))
        looks: Tensor = self.looks(torch.cat([batch.statistics, condition], dim=1))
        prediction: CurvePrediction = self.outputs(self.curves, batch.condition, seen, looks)
        return prediction

    def load_public(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """There are no public weights of this network."""
        raise ValueError("there are no public weights of smr_curve_evidence; train it with vcm-train")
