"""SMR, full reference (arXiv 2211.06797): original and coded picture -> SMR of the coded one.

A Siamese trunk sees both; its two vectors are concatenated. Head G predicts SMR; head Q, the auxiliary
task, predicts by how much the SMR of two pictures of different quality differs, and gives SMR = 1 -
Q(original, coded). The heads can be trained jointly or alone.

Configuration `efficientnet_b4` is the published network: nothing but pixels, no final sigmoid. `smr_small`
compares what the distilled stand-in says of both pictures, adds what is known at the encoder (condition, level,
evidence of machines, distortion at full size) and starts from the mean curve at that level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from vcm_ratecontrol.predictors.backbone import MAP_CHANNELS, VECTOR_CHANNELS, StandIn, StandInPrediction
from vcm_ratecontrol.predictors.efficientnet import efficientnet_b4
from vcm_ratecontrol.predictors.evidence import N_EVIDENCE
from vcm_ratecontrol.predictors.interface import Batch, SMRPrediction
from vcm_ratecontrol.predictors.layers import SetEncoder
from vcm_ratecontrol.predictors.mean_curve import MeanCurves, conditions_from
from vcm_ratecontrol.predictors.picture_statistics import N_DISTORTION, N_STATISTICS

Heads = Literal["g", "q", "both"]
Trunk = Literal["efficientnet_b4", "small"]

_EVIDENCE_CHANNELS = 32
_CONDITION_CHANNELS = 8
_GLIMPSE_CHANNELS = 16
_GLIMPSED = 3 * VECTOR_CHANNELS + MAP_CHANNELS
_SUMMARIES = 17
_MOST_DEVIATIONS = 6.0  # a pair unlike any of the training table shall not lead far astray


class SMRFullReference(nn.Module):
    """`Batch` with `coded` -> `SMRPrediction`.

    Args:
        trunk: 'efficientnet_b4', or 'small', which also takes statistics, condition, level and evidence.
        heads: 'g', 'q', or 'both': then the answer is the mean of the two.
        hidden: width of the two hidden layers of a head (published: 4096; 3072 for one detection setting).
        conditions: 'codec/coding type/task' each; teachers, groups, features: of the `StandIn`; for 'small' only.
    """

    def __init__(
        self,
        *,
        trunk: Trunk,
        heads: Heads = "both",
        hidden: int = 4096,
        conditions: Sequence[str] = (),
        dropout: float = 0.0,
        teachers: int = 31,
        groups: int = 64,
        features: int = 128,
    ) -> None:
        super().__init__()
        if trunk not in get_args(Trunk) or heads not in get_args(Heads):
            raise ValueError(f"trunk '{trunk}' or heads '{heads}' unknown")
        if bool(conditions) != (trunk == "small"):
            raise ValueError("conditions are for the trunk 'small', and needed there")
        self.pair: PublishedPair | SmallPair = PublishedPair()
        if trunk == "small":
            self.pair = SmallPair(conditions, StandIn(teachers=teachers, groups=groups, features=features), teachers)
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
        return self._answer(batch, self.pair.describe(batch))

    def predict(self, batch: Batch, compared: Tensor) -> SMRPrediction:
        """The answer from `compare` of both pictures (so that a frozen stand-in needs to look once only); 'small'
        only."""
        assert isinstance(self.pair, SmallPair)
        return self._answer(batch, self.pair.known(batch, compared))

    def _answer(self, batch: Batch, pair: Tensor) -> SMRPrediction:
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
    """What the stand-in says of both pictures, compared, and what the encoder knows.

    The label table has hundreds of pictures only: of the stand-in's vectors little is kept, with much dropout.
    """

    def __init__(self, conditions: Sequence[str], stand_in: StandIn, teachers: int) -> None:
        super().__init__()
        self.stand_in = stand_in
        self.curves = MeanCurves(conditions_from(conditions))
        said = 2 * teachers + _SUMMARIES
        self.standard = nn.BatchNorm1d(_GLIMPSED + said, affine=False)  # differences of any scale, made alike
        self.glimpse = nn.Sequential(nn.Dropout(0.5), nn.Linear(_GLIMPSED, _GLIMPSE_CHANNELS), nn.ReLU())
        self.evidence = SetEncoder(N_EVIDENCE, _EVIDENCE_CHANNELS)
        self.condition = nn.Embedding(len(conditions) + 1, _CONDITION_CHANNELS)  # the last is 'unknown'
        around = N_STATISTICS + N_DISTORTION + _EVIDENCE_CHANNELS + _CONDITION_CHANNELS + 2
        self.channels = _GLIMPSE_CHANNELS + said + around

    def describe(self, batch: Batch) -> Tensor:
        """[B, channels] of each pair."""
        return self.known(batch, compare(self.stand_in.see(batch.picture), self.stand_in.see(_coded(batch))))

    def known(self, batch: Batch, compared: Tensor) -> Tensor:
        """[B, channels] from `compare` of both pictures."""
        if batch.statistics is None or batch.distortion is None:
            raise ValueError("smr_full_reference needs the picture statistics; set [input] statistics = true")
        index = torch.where(batch.condition < 0, len(self.curves.conditions), batch.condition)
        levels = torch.stack([batch.level, batch.reference_level], dim=1)
        seen = self.standard(compared).clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        parts = [
            self.glimpse(seen[:, :_GLIMPSED]),
            seen[:, _GLIMPSED:],
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


def compare(original: StandInPrediction, coded: StandInPrediction) -> Tensor:
    """What the stand-in says of two versions of B pictures, compared: float32 [B, _GLIMPSED + 2 T + _SUMMARIES].

    First its vector and how that and the map differ, then the teachers' confidences in the original and their change,
    last summaries of how much classes, features, map and objects differ.
    """
    change = coded.backbone.vector - original.backbone.vector
    moved = (coded.backbone.map - original.backbone.map).abs().mean((2, 3))
    sure, sure_coded = torch.sigmoid(original.confidence), torch.sigmoid(coded.confidence)
    less = sure_coded - sure
    alike = F.cosine_similarity(original.backbone.map, coded.backbone.map, dim=1).flatten(1)
    there, there_coded = torch.sigmoid(original.objectness).flatten(2), torch.sigmoid(coded.objectness).flatten(2)
    lost = (there - there_coded).abs()
    object_alike = (alike * there[:, 0]).sum(1) / there[:, 0].sum(1)
    summaries = [
        sure.mean(1),
        less.mean(1),
        less.abs().mean(1),
        *_of_classes(original.groups, coded.groups),
        F.cosine_similarity(original.features, coded.features, dim=1),
        F.cosine_similarity(original.backbone.vector, coded.backbone.vector, dim=1),
        alike.mean(1),
        alike.amin(1),
        object_alike,
        moved.mean(1),
        *lost.mean(2).unbind(1),
        *((there * lost).sum(2) / there.sum(2)).unbind(1),
        *(there_coded.amax(2) - there.amax(2)).unbind(1),
    ]
    glimpsed = [original.backbone.vector, change, change.abs(), moved]
    return torch.cat([*glimpsed, sure, less, torch.stack(summaries, dim=1)], dim=1)


def _of_classes(original: Tensor, coded: Tensor) -> tuple[Tensor, Tensor]:
    """How much two distributions over class groups (logits, [B, G]) differ: cosine and Kullback-Leibler, [B] each."""
    before, after = torch.log_softmax(original, dim=1), torch.log_softmax(coded, dim=1)
    return F.cosine_similarity(before.exp(), after.exp(), dim=1), (before.exp() * (before - after)).sum(1)


def _coded(batch: Batch) -> Tensor:
    if batch.coded is None:
        raise ValueError("a full-reference predictor needs the coded picture beside the original")
    return batch.coded
