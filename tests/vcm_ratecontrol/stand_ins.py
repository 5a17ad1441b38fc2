"""Predictors that stand in for trained ones: random weights, but real curves, in a folder for `--weights`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from vcm_ratecontrol.predictors.checkpoint import CheckpointCard, save_checkpoint
from vcm_ratecontrol.predictors.config import build_network, load_config
from vcm_ratecontrol.predictors.mean_curve import MeanCurves
from vcm_ratecontrol.ratecontrol.shift import pilot_mean_curve

LEVELS = np.arange(64)


def stand_in(
    folder: Path,
    name: str,
    *,
    spread: float = 0.05,
    codecs: tuple[str, ...] = ("vvc", "hevc"),
    ceiling: float = 1.0,
) -> Path:
    """Write NAME.safetensors: the pilot's mean curve, moved a little differently for every picture.

    spread: of the random weights of the last layers, 0 for the mean curve itself. codecs: those that it knows.
    ceiling: of SMR at any level.
    """
    torch.manual_seed(3)
    config = load_config(name)
    network = build_network(config).eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=spread) if spread else nn.init.zeros_(parameter)
    for module in network.modules():
        if isinstance(module, MeanCurves):
            for condition in module.conditions:
                if condition.codec in codecs:
                    smr = np.minimum(pilot_mean_curve(LEVELS) + 0.02, ceiling)
                    module.set_curves(condition, smr, 2 - (LEVELS - 8) / 6, 6.0)
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, network, CheckpointCard(config, "00" * 32, {}, "Apache-2.0"))
    return path
