"""What a frozen stand-in sees of each picture, computed once: training a head then takes minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vcm_ratecontrol.predictors.backbone import Features, StandIn, StandInPrediction
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.interface import Sample
from vcm_ratecontrol.predictors.preprocess import collate, prepare
from vcm_ratecontrol.progress import Progress

Key = tuple[int, bool]

_AT_ONCE = 8


class FeatureBank:
    """(sample, mirrored) -> `StandInPrediction`, kept in 16 bit in memory: about 150 kB each without `fine`."""

    def __init__(self, keep_fine: bool = False) -> None:
        self._keep_fine = keep_fine
        self._kept: dict[Key, dict[str, Tensor]] = {}

    def fill(
        self,
        stand_in: StandIn,
        keys: Sequence[Key],
        picture: Callable[[int, bool], npt.NDArray[np.uint8]],
        config: PredictorConfig,
        sizes: Sequence[tuple[int, int]],
        device: torch.device,
        progress: Progress,
    ) -> None:
        """Look at every view. picture: (sample, mirrored) -> uint8 [H, W, 3]; sizes: input size of each sample."""
        stand_in.eval()
        progress.phase("running the frozen backbone", len(keys))
        groups: dict[tuple[int, int], list[Key]] = {}
        for key in keys:
            groups.setdefault(sizes[key[0]], []).append(key)
        for (height, width), members in groups.items():
            spec = replace(config.input, mode="stretch", height=height, width=width, statistics=False)
            for start in range(0, len(members), _AT_ONCE):
                part = members[start : start + _AT_ONCE]
                batch = collate([prepare(Sample(picture(*key)), spec) for key in part])
                with torch.no_grad():
                    seen = stand_in.see(batch.picture.to(device))
                self._keep(part, seen)
                progress.advance(len(part))

    def _keep(self, keys: Sequence[Key], seen: StandInPrediction) -> None:
        tensors = {
            "confidence": seen.confidence,
            "objectness": seen.objectness,
            "map": seen.backbone.map,
            "vector": seen.backbone.vector,
        }
        if self._keep_fine:
            tensors["fine"] = seen.backbone.fine
        for row, key in enumerate(keys):
            self._kept[key] = {name: value[row].detach().half().cpu() for name, value in tensors.items()}

    def of(self, keys: Sequence[Key]) -> StandInPrediction:
        """What was seen of several views of one input size. `groups` and `features` are empty."""
        stacked = {name: torch.stack([self._kept[key][name] for key in keys]).float() for name in self._kept[keys[0]]}
        empty = torch.zeros(len(keys), 0)
        backbone = Features(stacked.get("fine", empty), stacked["map"], stacked["vector"])
        return StandInPrediction(stacked["confidence"], empty, empty, stacked["objectness"], backbone)
