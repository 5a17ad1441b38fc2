"""What a frozen stand-in makes of each pair of pictures, computed once: training the heads then takes a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vcm_ratecontrol.predictors.backbone import StandIn, StandInPrediction
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.interface import Sample
from vcm_ratecontrol.predictors.picture_statistics import distortion_statistics
from vcm_ratecontrol.predictors.preprocess import collate, prepare
from vcm_ratecontrol.predictors.smr_full_reference import compare
from vcm_ratecontrol.progress import Progress

RGB = npt.NDArray[np.uint8]

Key = tuple[int, int, int]
"""Sample, column of its coded version, column of what that is compared with (0: the original)."""


@dataclass(frozen=True, eq=False)
class SeenPair:
    """statistics: float32 [N_STATISTICS] of the reference; distortion: float32 [N_DISTORTION] and compared: float32
    [K] (`smr_full_reference.compare`) of both."""

    statistics: Tensor
    distortion: Tensor
    compared: Tensor


def look_at_pairs(
    stand_in: StandIn,
    pairs: Sequence[Key],
    picture: Callable[[int, int], RGB],
    config: PredictorConfig,
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
    progress: Progress,
) -> Mapping[Key, SeenPair]:
    """Look at every version of each sample once. picture: (sample, column) -> uint8 [H, W, 3]; sizes: input size of
    each sample."""
    stand_in.eval()
    by_sample: dict[int, list[Key]] = {}
    for key in pairs:
        by_sample.setdefault(key[0], []).append(key)
    progress.phase("running the frozen backbone", len(by_sample))
    found: dict[Key, SeenPair] = {}
    for sample, keys in by_sample.items():
        columns = sorted({column for _, *two in keys for column in two})
        pictures = [picture(sample, column) for column in columns]
        height, width = sizes[sample]
        spec = replace(config.input, mode="stretch", height=height, width=width)
        prepared = [prepare(Sample(rgb), spec) for rgb in pictures]
        with torch.no_grad():
            seen = stand_in.see(collate(prepared).picture.to(device)).to("cpu")
        places = [(columns.index(reference), columns.index(coded)) for _, coded, reference in keys]
        compared = compare(*(_rows(seen, list(rows)) for rows in zip(*places, strict=True)))
        for key, (reference, coded), one in zip(keys, places, compared, strict=True):
            statistics = prepared[reference].statistics
            assert statistics is not None
            distortion = torch.from_numpy(distortion_statistics(pictures[reference], pictures[coded]))
            found[key] = SeenPair(statistics, distortion, one.clone())
        progress.advance()
    return found


def _rows(seen: StandInPrediction, rows: Sequence[int]) -> StandInPrediction:
    chosen = {name: value[list(rows)] for name, value in seen.named().items() if isinstance(value, Tensor)}
    backbone = {name: value[list(rows)] for name, value in seen.backbone.named().items()}
    return replace(seen, backbone=replace(seen.backbone, **backbone), **chosen)
