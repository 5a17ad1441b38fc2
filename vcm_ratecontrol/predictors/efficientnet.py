"""EfficientNet-B4 and EfficientNetV2-S, with the state-dict keys of torchvision, so that its public weights
load.

Sources: Tan & Le, 2019 (arXiv 1905.11946) and 2021 (arXiv 2104.00298); layer tables and names as in
torchvision's `models/efficientnet.py`. Stage s is `features.s`; `features.0` is the stem.

The public OW-JRD code has a trunk of its own with other names for the same layers as stages 0 to 4 of
EfficientNetV2-S; `from_owjrd_names` translates them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from vcm_ratecontrol.predictors.layers import (
    Activation,
    ConvNormActivation,
    StochasticDepth,
    init_convolutions,
    silu,
)


@dataclass(frozen=True)
class Stage:
    """Blocks of one shape. block: 'mb' (depthwise, squeeze and excitation) or 'fused' (plain 3x3).

    stride: of the first block. expand: hidden channels = inputs * expand. excite: squeeze and excitation
    ('mb' only).
    """

    block: Literal["mb", "fused"]
    expand: int
    kernel: int
    stride: int
    inputs: int
    outputs: int
    layers: int
    excite: bool = True


# Base table of EfficientNet scaled by width 1.4 (rounded to multiples of 8) and depth 1.8.
B4_STAGES = (
    Stage("mb", 1, 3, 1, 48, 24, 2),
    Stage("mb", 6, 3, 2, 24, 32, 4),
    Stage("mb", 6, 5, 2, 32, 56, 4),
    Stage("mb", 6, 3, 2, 56, 112, 6),
    Stage("mb", 6, 5, 1, 112, 160, 6),
    Stage("mb", 6, 5, 2, 160, 272, 8),
    Stage("mb", 6, 3, 1, 272, 448, 2),
)

V2_S_STAGES = (
    Stage("fused", 1, 3, 1, 24, 24, 2),
    Stage("fused", 4, 3, 2, 24, 48, 4),
    Stage("fused", 4, 3, 2, 48, 64, 4),
    Stage("mb", 4, 3, 2, 64, 128, 6),
    Stage("mb", 6, 3, 1, 128, 160, 9),
    Stage("mb", 6, 3, 2, 160, 256, 15),
)


class SqueezeExcitation(nn.Module):
    """Channel gates from the mean of each channel (Hu et al., 2018); keys fc1, fc2."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(gate))


class InvertedResidual(nn.Module):
    """One block of a stage; the layers stand in `block`, in torchvision's order."""

    def __init__(
        self, stage: Stage, *, drop: float = 0.0, norm_eps: float = 1e-5, activation: Activation = silu
    ) -> None:
        super().__init__()
        hidden = stage.inputs * stage.expand
        layers: list[nn.Module] = []
        if stage.block == "fused":
            first = hidden if stage.expand > 1 else stage.outputs
            layers.append(
                ConvNormActivation(
                    stage.inputs, first, stage.kernel, stage.stride, norm_eps=norm_eps, activation=activation
                )
            )
        else:
            if stage.expand > 1:
                layers.append(ConvNormActivation(stage.inputs, hidden, 1, norm_eps=norm_eps, activation=activation))
            layers.append(
                ConvNormActivation(
                    hidden,
                    hidden,
                    stage.kernel,
                    stage.stride,
                    groups=hidden,
                    norm_eps=norm_eps,
                    activation=activation,
                )
            )
            if stage.excite:
                layers.append(SqueezeExcitation(hidden, max(1, stage.inputs // 4)))
        if stage.block == "mb" or stage.expand > 1:
            layers.append(ConvNormActivation(hidden, stage.outputs, 1, norm_eps=norm_eps, activation=None))
        self.block = nn.Sequential(*layers)
        self.drop = StochasticDepth(drop)
        self.residual = stage.stride == 1 and stage.inputs == stage.outputs

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(x)
        return self.drop(result) + x if self.residual else result


def stack_stages(
    stages: Sequence[Stage], *, drop: float = 0.0, norm_eps: float = 1e-5, activation: Activation = silu
) -> list[nn.Sequential]:
    """The blocks of each stage; stochastic depth rises linearly from 0 to `drop` over all blocks."""
    total = sum(stage.layers for stage in stages)
    built: list[nn.Sequential] = []
    done = 0
    for stage in stages:
        blocks: list[nn.Module] = []
        for index in range(stage.layers):
            shape = stage if index == 0 else replace(stage, inputs=stage.outputs, stride=1)
            blocks.append(InvertedResidual(shape, drop=drop * done / total, norm_eps=norm_eps, activation=activation))
            done += 1
        built.append(nn.Sequential(*blocks))
    return built


class EfficientNet(nn.Module):
    """The whole network, or with `n_classes=0` its trunk up to the pooled vector.

    forward: float32 [B, 3, H, W] -> [B, n_classes], or [B, channels] of the last stage for a trunk.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        channels: int,
        *,
        n_classes: int = 1000,
        dropout: float = 0.2,
        drop: float = 0.2,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        stem = ConvNormActivation(3, stages[0].inputs, 3, 2, norm_eps=norm_eps)
        last = ConvNormActivation(stages[-1].outputs, channels, 1, norm_eps=norm_eps)
        self.features = nn.Sequential(stem, *stack_stages(stages, drop=drop, norm_eps=norm_eps), last)
        init_convolutions(self)
        self.channels = channels
        self.classifier: nn.Module = nn.Identity()
        if n_classes:
            linear = nn.Linear(channels, n_classes)
            bound = n_classes**-0.5
            nn.init.uniform_(linear.weight, -bound, bound)
            nn.init.zeros_(linear.bias)
            self.classifier = nn.Sequential(nn.Dropout(dropout), linear)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return result


def efficientnet_b4(n_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B4; 19,341,616 parameters with 1000 classes; trunk vector of 1792."""
    return EfficientNet(B4_STAGES, 1792, n_classes=n_classes, dropout=0.4)


def efficientnet_v2_s(n_classes: int = 1000) -> EfficientNet:
    """EfficientNetV2-S; 21,458,488 parameters with 1000 classes; trunk vector of 1280."""
    return EfficientNet(V2_S_STAGES, 1280, n_classes=n_classes, norm_eps=1e-3)


class EfficientNetV2Stages(nn.Module):
    """Stem and first four stages of EfficientNetV2-S, as OW-JRD uses them; keys `features.0` to `features.4`.

    forward: float32 [B, 3, H, W] -> four maps: 24 channels at stride 2, 48 at 4, 64 at 8, 128 at 16.
    """

    channels = tuple(stage.outputs for stage in V2_S_STAGES[:4])

    def __init__(self) -> None:
        super().__init__()
        stages = V2_S_STAGES[:4]
        stem = ConvNormActivation(3, stages[0].inputs, 3, 2, norm_eps=1e-3)
        self.features = nn.Sequential(stem, *stack_stages(stages, drop=0.2, norm_eps=1e-3))
        init_convolutions(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.features[0](x)
        maps: list[Tensor] = []
        for stage in list(self.features)[1:]:
            x = stage(x)
            maps.append(x)
        return maps


_OWJRD_LAYERS = {
    # names of the public OW-JRD code -> position in `block`, for blocks of 1, 2 and 4 layers
    1: {"project_conv": 0},
    2: {"expand_conv": 0, "project_conv": 1},
    4: {"expand_conv": 0, "dwconv": 1, "se": 2, "project_conv": 3},
}
_OWJRD_PARTS = {"conv": "0", "bn": "1", "conv_reduce": "fc1", "conv_expand": "fc2"}
_OWJRD_BLOCK = re.compile(r"blocks(?P<stage>\d)\.(?P<index>\d+)\.(?P<layer>\w+)\.(?P<part>\w+)\.(?P<rest>\w+)$")


def from_owjrd_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trunk weights of the public OW-JRD code (`EB.stem...`, `EB.blocks0...`) under the names used here.

    Prefixes 'module.' and 'EB.' are dropped; entries that are not of the trunk are left out.
    """
    renamed: dict[str, Tensor] = {}
    layers_of_stage = {"0": 1, "1": 2, "2": 2, "3": 4}
    for name, value in state.items():
        short = name.removeprefix("module.").removeprefix("EB.")
        if short.startswith("stem."):
            _, part, rest = short.split(".")
            renamed[f"features.0.{_OWJRD_PARTS[part]}.{rest}"] = value
        elif match := _OWJRD_BLOCK.match(short):
            layer = _OWJRD_LAYERS[layers_of_stage[match["stage"]]][match["layer"]]
            block = f"features.{int(match['stage']) + 1}.{match['index']}.block.{layer}"
            renamed[f"{block}.{_OWJRD_PARTS[match['part']]}.{match['rest']}"] = value
    return renamed
