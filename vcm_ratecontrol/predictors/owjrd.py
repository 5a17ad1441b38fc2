"""Object-wise JRD, full reference (OW-JRD, TMM 2024): original and coded crop -> is the object still
recognised?

Asked at every level, the 64 answers become one JRD by the published error-tolerance rule (`jrd_rules`).
Configuration `owjrd` is the published network (frozen EfficientNetV2-S stages, 640 x 640); `owjrd_small`
has the small backbone on resized crops, and the plain statistics of the pair.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from vcm_ratecontrol.predictors.backbone import MAP_CHANNELS, VECTOR_CHANNELS, Backbone, Features
from vcm_ratecontrol.predictors.efficientnet import EfficientNetV2Stages, from_owjrd_names
from vcm_ratecontrol.predictors.interface import Batch, RecognitionPrediction
from vcm_ratecontrol.predictors.layers import ConvNormActivation, hardswish, relu
from vcm_ratecontrol.predictors.picture_statistics import N_DISTORTION, N_STATISTICS

Trunk = Literal["efficientnet_v2_s", "small"]

N_CLASSES = 2
_PUBLISHED_WIDTH = 640
_PUBLISHED_LAST = 1280
_NORM_EPS = 1e-3  # of the published code, trunk and head
_SMALL_WIDTH = 128


class ObjectRecognition(nn.Module):
    """`Batch` with `coded` (two crops of one object) -> `RecognitionPrediction`.

    Args: trunk: 'efficientnet_v2_s' or 'small'; dropout: before the classifier; freeze_trunk: as published;
    the trunk then stays in evaluation mode while the rest trains.
    """

    def __init__(self, *, trunk: Trunk, dropout: float = 0.2, freeze_trunk: bool = False) -> None:
        super().__init__()
        if trunk not in get_args(Trunk):
            raise ValueError(f"trunk '{trunk}' is none of {', '.join(get_args(Trunk))}")
        self.pair: PublishedPair | SmallPair = SmallPair() if trunk == "small" else PublishedPair()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.pair.channels, N_CLASSES)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)
        self.freeze_trunk = freeze_trunk
        if freeze_trunk:
            self.pair.trunk.requires_grad_(False)

    def train(self, mode: bool = True) -> ObjectRecognition:
        """A frozen trunk keeps its batch statistics."""
        super().train(mode)
        if self.freeze_trunk:
            self.pair.trunk.eval()
        return self

    def forward(self, batch: Batch) -> RecognitionPrediction:
        if batch.coded is None:
            raise ValueError("a full-reference predictor needs the coded crop beside the original")
        return RecognitionPrediction(self.classifier(self.dropout(self.pair(batch, batch.coded))))

    def load_public(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Fill the trunk from torchvision's EfficientNetV2-S, or from the public OW-JRD code's own names.

        Later stages and classifiers are not used; returns their names.
        """
        if not isinstance(self.pair, PublishedPair):
            raise ValueError("the small backbone has no public weights; train it with vcm-train")
        wanted = self.pair.trunk.state_dict().keys()
        renamed = from_owjrd_names(state) or state
        self.pair.trunk.load_state_dict({k: v for k, v in renamed.items() if k in wanted})
        return tuple(name for name in renamed if name not in wanted) if renamed is state else ()


class PublishedPair(nn.Module):
    """Original, coded and difference features of four stages on one grid -> [B, 1280]."""

    channels = _PUBLISHED_LAST

    def __init__(self) -> None:
        super().__init__()
        self.trunk = EfficientNetV2Stages()
        inputs = 3 * sum(self.trunk.channels)
        self.merge = nn.Sequential(
            ConvNormActivation(inputs, _PUBLISHED_WIDTH, 1, norm_eps=_NORM_EPS, activation=relu),
            ConvNormActivation(_PUBLISHED_WIDTH, _PUBLISHED_WIDTH, 3, norm_eps=_NORM_EPS, activation=relu),
            ConvNormActivation(_PUBLISHED_WIDTH, _PUBLISHED_WIDTH, 3, norm_eps=_NORM_EPS, activation=relu),
            ConvNormActivation(_PUBLISHED_WIDTH, _PUBLISHED_LAST, 1, norm_eps=_NORM_EPS),
        )

    def forward(self, batch: Batch, coded: Tensor) -> Tensor:
        original_maps, coded_maps = self._maps(batch.picture), self._maps(coded)
        pairs = list(zip(original_maps, coded_maps, strict=True))
        beside = [one for pair in pairs for one in pair]
        merged: Tensor = self.merge(torch.cat(beside + [a - b for a, b in pairs], dim=1))
        return merged.mean((2, 3))

    def _maps(self, picture: Tensor) -> list[Tensor]:
        """The four stage outputs averaged to the grid of the last (40 x 40 for 640 pixels)."""
        maps = self.trunk(picture)
        ratios = (8, 4, 2, 1)  # of the strides 2, 4, 8, 16
        return [F.avg_pool2d(x, ratio) if ratio > 1 else x for x, ratio in zip(maps, ratios, strict=True)]


class SmallPair(nn.Module):
    """The small backbone on both crops, their difference where it lies, and the plain statistics -> one
    vector."""

    channels = VECTOR_CHANNELS + _SMALL_WIDTH + N_STATISTICS + N_DISTORTION

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Backbone()
        self.merge = nn.Sequential(
            ConvNormActivation(3 * MAP_CHANNELS, _SMALL_WIDTH, 1, activation=hardswish),
            ConvNormActivation(_SMALL_WIDTH, _SMALL_WIDTH, 3, groups=_SMALL_WIDTH, activation=hardswish),
            ConvNormActivation(_SMALL_WIDTH, _SMALL_WIDTH, 1, activation=hardswish),
        )

    def forward(self, batch: Batch, coded: Tensor) -> Tensor:
        if batch.statistics is None or batch.distortion is None:
            raise ValueError("owjrd_small needs the picture statistics; set [input] statistics = true")
        before: Features = self.trunk(batch.picture)
        after: Features = self.trunk(coded)
        merged: Tensor = self.merge(torch.cat([before.map, after.map, before.map - after.map], dim=1))
        change = (before.vector - after.vector).abs()
        return torch.cat([change, merged.mean((2, 3)), batch.statistics, batch.distortion], dim=1)
