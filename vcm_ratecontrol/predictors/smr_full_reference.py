"""SMR, full reference (arXiv 2211.06797): original and coded picture -> SMR of the coded one.

A Siamese trunk sees both; its two vectors are concatenated. Head G predicts SMR; head Q, the auxiliary
task, predicts by how much the SMR of two pictures of different quality differs, and gives SMR = 1 -
Q(original, coded). The heads can be trained jointly or alone.

Configuration `efficientnet_b4` is the published network: nothing but pixels, no final sigmoid. `smr_small`
adds what is known at the encoder (condition, level, evidence of machines, distortion at full size) and
starts from the mean curve at that level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vcm_ratecontrol.predictors.backbone import MAP_CHANNELS, VECTOR_CHANNELS, Backbone, Features
from vcm_ratecontrol.predictors.efficientnet import efficientnet_b4
from vcm_ratecontrol.predictors.evidence import N_EVIDENCE
from vcm_ratecontrol.predictors.interface import Batch, SMRPrediction
from vcm_ratecontrol.predictors.layers import SetEncoder
from vcm_ratecontrol.predictors.mean_curve import MeanCurves, conditions_from
from vcm_ratecontrol.predictors.picture_statistics import N_DISTORTION, N_STATISTICS

Heads = Literal["g", "q", "both"]
Trunk = Literal["efficientnet_b4", "small"]

_EVIDENCE_CHANNELS = 32
_CONDITION_CHANNELS = 16


class SMRFullReference(nn.Module):
    """`Batch` with `coded` -> `SMRPrediction`.

    Args:
        trunk: 'efficientnet_b4', or 'small', which also takes statistics, condition, level and evidence.
        heads: 'g', 'q', or 'both': then the answer is the mean of the two.
        hidden: width of the two hidden layers of a head (published: 4096; 3072 for one detection setting).
        conditions: 'codec/coding type/task' each; for 'small' only.
    """

    def __init__(
        self,
        *,
        trunk: Trunk,
        heads: Heads = "both",
        hidden: int = 4096,
        conditions: Sequence[str] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if trunk not in get_args(Trunk) or heads not in get_args(Heads):
            raise ValueError(f"trunk '{trunk}' or heads '{heads}' unknown")
        if bool(conditions) != (trunk == "small"):
            raise ValueError("conditions are for the trunk 'small', and needed there")
        self.pair: PublishedPair | SmallPair = SmallPair(conditions) if trunk == "small" else PublishedPair()
        self.direct = self._head(hidden, dropout) if heads in ("g", "both") else None
        self.difference = self._head(hidden, dropout) if heads in ("q", "both") else None

    def _head(self, hidden: int, dropout: float) -> nn.Sequential:
        """The published head (dropout is ours). Its last layer starts at 0 where there is a mean curve to
        start from."""
        last = nn.Linear(hidden, 1)
        if isinstance(self.pair, SmallPair):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        first = nn.Linear(self.pair.channels, hidden)
        between = (nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout))
        return nn.Sequential(first, *between, last)

    def forward(self, batch: Batch) -> SMRPrediction:
        pair = self.pair.describe(batch)
        prior, prior_reference = self.pair.prior(batch)
        direct = None if self.direct is None else prior + self.direct(pair)[:, 0]
        difference = None
        if self.difference is not None:
            difference = prior_reference - prior + self.difference(pair)[:, 0]
        answers = [direct] if direct is not None else []
        if difference is not None:
            answers.append(1 - difference)
        return SMRPrediction(torch.stack(answers).mean(dim=0), direct, difference)

    def load_public(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Fill the EfficientNet-B4 trunk from torchvision's state dict; its classifier is not used."""
        if not isinstance(self.pair, PublishedPair):
            raise ValueError("the small backbone has no public weights; train it with vcm-train")
        unused = tuple(name for name in state if name.startswith("classifier."))
        self.pair.trunk.load_state_dict({k: v for k, v in state.items() if k not in unused})
        return unused


class PublishedPair(nn.Module):
    """Two EfficientNet-B4 vectors, concatenated: 3584 channels; the prior knows nothing."""

    channels = 2 * 1792

    def __init__(self) -> None:
        super().__init__()
        self.trunk = efficientnet_b4(n_classes=0)

    def describe(self, batch: Batch) -> Tensor:
        """[B, channels] of each pair."""
        return torch.cat([self.trunk(batch.picture), self.trunk(_coded(batch))], dim=1)

    def prior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the heads' outputs are added to, of the coded picture and of its reference: [B] each. For
        head G the output itself is SMR (published); for Q the output itself is the difference."""
        zero = batch.picture.new_zeros(batch.picture.shape[0])
        return zero, zero


class SmallPair(nn.Module):
    """The small backbone on both pictures, their difference where it lies, and what the encoder knows."""

    channels = (
        3 * VECTOR_CHANNELS
        + 2 * MAP_CHANNELS
        + N_STATISTICS
        + N_DISTORTION
        + _EVIDENCE_CHANNELS
        + _CONDITION_CHANNELS
        + 2
    )

    def __init__(self, conditions: Sequence[str]) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.curves = MeanCurves(conditions_from(conditions))
        self.evidence = SetEncoder(N_EVIDENCE, _EVIDENCE_CHANNELS)
        self.condition = nn.Embedding(len(conditions) + 1, _CONDITION_CHANNELS)  # the last is 'unknown'

    def describe(self, batch: Batch) -> Tensor:
        """[B, channels] of each pair."""
        if batch.statistics is None or batch.distortion is None:
            raise ValueError("smr_full_reference needs the picture statistics; set [input] statistics = true")
        original: Features = self.backbone(batch.picture)
        coded: Features = self.backbone(_coded(batch))
        change = (original.map - coded.map).abs()
        index = torch.where(batch.condition < 0, len(self.curves.conditions), batch.condition)
        levels = torch.stack([batch.level, batch.reference_level], dim=1)
        parts = [
            original.vector,
            coded.vector,
            (original.vector - coded.vector).abs(),
            change.mean((2, 3)),
            change.amax((2, 3)),
            batch.statistics,
            batch.distortion,
            self.evidence(batch.evidence, batch.evidence_mask),
            self.condition(index),
            torch.where(levels < 0, 0.0, levels / 32 - 1),
        ]
        return torch.cat(parts, dim=1)

    def prior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean SMR at the level of the coded picture (0.5 where condition or level is unknown), and at that
        of the reference (1 for an original): [B] each."""
        condition = batch.condition.clamp(min=0)
        unknown = (batch.condition < 0) | (batch.level < 0)
        coded = torch.where(unknown, 0.5, self.curves.smr_at(condition, batch.level))
        is_original = batch.reference_level < 0
        reference = self.curves.smr_at(condition, batch.reference_level)
        return coded, torch.where(is_original, 1.0, torch.where(batch.condition < 0, 0.5, reference))


def _coded(batch: Batch) -> Tensor:
    if batch.coded is None:
        raise ValueError("a full-reference predictor needs the coded picture beside the original")
    return batch.coded
