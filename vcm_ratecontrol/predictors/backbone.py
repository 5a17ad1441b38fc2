"""The small backbone that all shipped predictors share, and the stand-in for a machine that is distilled
into it.

Inverted residuals without squeeze and excitation: on one CPU core the plain convolutions of the early
stages are as fast as depthwise ones, and gates cost more than they give. Trained from the start: `StandIn`
learns the soft outputs of the machine library, then the predictors start from its weights
(`copy_backbone`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from vcm_ratecontrol.predictors.efficientnet import Stage, stack_stages
from vcm_ratecontrol.predictors.interface import Batch, Tensors
from vcm_ratecontrol.predictors.layers import ConvNormActivation, hardswish, init_convolutions

STEM = 24
STAGES = (
    Stage("fused", 3, 3, 2, 24, 32, 1),  # a second block here would cost a seventh of all time
    Stage("fused", 3, 3, 2, 32, 48, 3),
    Stage("mb", 4, 3, 2, 48, 96, 4, excite=False),
    Stage("mb", 4, 3, 1, 96, 128, 3, excite=False),
    Stage("mb", 4, 3, 2, 128, 192, 3, excite=False),
)
FINE_CHANNELS = 48
MAP_CHANNELS = 128
VECTOR_CHANNELS = 256


@dataclass(frozen=True)
class Features(Tensors):
    """What the backbone sees, float32.

    fine: [B, 48, H / 8, W / 8]; map: [B, 128, H / 16, W / 16], with the context of stride 32 in it; vector:
    [B, 256].
    """

    fine: Tensor
    map: Tensor
    vector: Tensor


class Backbone(nn.Module):
    """float32 [B, 3, H, W] (sides multiples of 32, ImageNet-normalised) -> `Features`.

    Args: drop: stochastic depth of the last block while training.
    """

    def __init__(self, drop: float = 0.05) -> None:
        super().__init__()
        self.stem = ConvNormActivation(3, STEM, 3, 2, activation=hardswish)
        self.stages = nn.ModuleList(stack_stages(STAGES, drop=drop, activation=hardswish))
        self.context = ConvNormActivation(STAGES[-1].outputs, MAP_CHANNELS, 1, activation=None)
        self.lateral = ConvNormActivation(STAGES[-2].outputs, MAP_CHANNELS, 1, activation=None)
        self.smooth = ConvNormActivation(MAP_CHANNELS, MAP_CHANNELS, 3, groups=MAP_CHANNELS, activation=hardswish)
        self.last = ConvNormActivation(STAGES[-1].outputs, VECTOR_CHANNELS, 1, activation=hardswish)
        init_convolutions(self)

    def forward(self, picture: Tensor) -> Features:
        x = self.stem(picture)
        outputs: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        context = F.interpolate(self.context(x), scale_factor=2.0, mode="nearest")
        merged: Tensor = self.smooth(self.lateral(outputs[3]) + context)
        return Features(fine=outputs[1], map=merged, vector=self.last(x).mean((2, 3)))


@dataclass(frozen=True)
class StandInPrediction(Tensors):
    """Soft outputs of the teachers, as the stand-in sees them; float32.

    confidence: [B, T], logits of each teacher's confidence on the picture (`ConfidenceStatistics.highest`).
    groups: [B, G], logits of soft class groups. features: [B, D], the teachers' (projected) feature vectors.
    objectness: [B, 2, H / 16, W / 16], logits: an object that teachers detect touches the cell; their
    confidence in it (as `evidence.confidence_map`).
    """

    confidence: Tensor
    groups: Tensor
    features: Tensor
    objectness: Tensor
    backbone: Features


class StandIn(nn.Module):
    """Backbone and distillation heads: stands in for a machine where none is at hand.

    The predictors use `confidence` and `objectness`; `groups` and `features` teach the backbone, and are compared by
    `smr_small`.
    Args: teachers, groups, features: T, G, D of `StandInPrediction`.
    """

    def __init__(
        self,
        *,
        teachers: int = 31,
        groups: int = 64,
        features: int = 128,
        dropout: float = 0.1,
        drop: float = 0.05,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(drop)
        self.dropout = nn.Dropout(dropout)
        self.confidence = nn.Linear(VECTOR_CHANNELS, teachers)
        self.groups = nn.Linear(VECTOR_CHANNELS, groups)
        self.features = nn.Linear(VECTOR_CHANNELS, features)
        self.objectness = nn.Conv2d(MAP_CHANNELS, 2, 1)

    def forward(self, batch: Batch) -> StandInPrediction:
        return self.see(batch.picture)

    def see(self, picture: Tensor) -> StandInPrediction:
        """float32 [B, 3, H, W] -> the stand-in's view of it."""
        seen: Features = self.backbone(picture)
        vector = self.dropout(seen.vector)
        return StandInPrediction(
            confidence=self.confidence(vector),
            groups=self.groups(vector),
            features=self.features(vector),
            objectness=self.objectness(seen.map),
            backbone=seen,
        )

    def load_public(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """There are no public weights of this backbone."""
        raise ValueError("the small backbone has no public weights; train it with vcm-train")


def confidence_channels(given: Tensor, objectness: Tensor) -> Tensor:
    """A detector's confidence map where there is one, the stand-in's own elsewhere: float32 [B, 2, h, w].

    Channel 0: confidence, 0..1, in what is there (0: nothing). Channel 1: 1 where it is a detector's.
    Args: given: [B, 1, h, w], -1 = unknown (`Batch.confidence_map`); objectness: [B, 2, h, w], logits.
    """
    known = (given >= 0).to(given.dtype)
    own = torch.sigmoid(objectness).prod(dim=1, keepdim=True)
    return torch.cat([known * given + (1 - known) * own, known], dim=1)


def copy_backbone(source: nn.Module, target: nn.Module) -> None:
    """Start the backbone (and the stand-in's heads, where both have them) of one network from that of
    another."""
    stand_in = next((module for module in target.modules() if isinstance(module, StandIn)), None)
    if isinstance(source, StandIn) and stand_in is not None:
        stand_in.load_state_dict(source.state_dict())
        return
    _backbone_of(target).load_state_dict(_backbone_of(source).state_dict())


def _backbone_of(network: nn.Module) -> Backbone:
    for module in network.modules():
        if isinstance(module, Backbone):
            return module
    raise ValueError(f"{type(network).__name__} has no small backbone")
