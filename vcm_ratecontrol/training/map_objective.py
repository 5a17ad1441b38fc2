"""Stage 'dense map': the whole picture -> per cell whether an object is there, and its JRD at ratios of machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.backbone import StandInPrediction
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.interface import Batch, MapPrediction, Sample, Tensors
from vcm_ratecontrol.predictors.jrd_map import CELL, JRDMapNetwork
from vcm_ratecontrol.predictors.preprocess import collate, prepare
from vcm_ratecontrol.progress import Progress
from vcm_ratecontrol.training.buckets import bucket_draws, input_sizes
from vcm_ratecontrol.training.curve_bank import Partition, halves, partitions
from vcm_ratecontrol.training.data import TrainingData
from vcm_ratecontrol.training.feature_bank import FeatureBank
from vcm_ratecontrol.training.full_reference_objective import data_hash, describe_data
from vcm_ratecontrol.training.object_bank import ObjectBank, ObjectTargets
from vcm_ratecontrol.training.objective import SCORE, Draw
from vcm_ratecontrol.training.options import objective_options
from vcm_ratecontrol.training.views import View, random_view, whole

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MapOptions:
    """least_machines: an object is one that so many machines see. partitions: of the detectors, targets from one part,
    confidence maps from the other. crop: share of a side that a view may leave out. map_share: of the views, how many
    come with a detector's confidence map. level_weight: of the levels' likelihood beside the objects' cross entropy."""

    least_machines: int = 2
    partitions: int = 16
    crop: float = 0.3
    map_share: float = 0.5
    level_weight: float = 0.3


@dataclass(frozen=True)
class MapItem(Tensors):
    """A batch with its targets on cells of 8 x 8 pixels of the input.

    there: float32 [B, h, w], 1 where an object touches the cell. levels: float32 [B, R, h, w], 0..63, the lowest JRD of
    the objects there, at each ratio; anything where none is. seen: what a frozen stand-in saw, or None.
    """

    batch: Batch
    there: Tensor
    levels: Tensor
    seen: StandInPrediction | None = None


class MapObjective:
    """See `objective.Objective`. Network: `JRDMapNetwork`."""

    def __init__(
        self, config: PredictorConfig, values: Mapping[str, Any], data: TrainingData, seed: int, *, frozen: bool = False
    ) -> None:
        """frozen: the stand-in does not learn, so it runs once.

        Raises InputError for options, or labels without objects.
        """
        self.options = objective_options(MapOptions, values)
        self.config, self.data, self.samples = config, data, data.samples
        self.ratios = tuple(config.network.get("ratios", (0.25, 0.5, 0.75, 0.9, 1.0)))
        first = data.sets[0].verdicts
        tasks = dict(zip(first.machines, first.tasks, strict=True))
        names = [name for name in data.machines.choosing if tasks.get(name) == "detection"]
        if len(names) < 2:
            raise InputError("JRD maps need two detectors at least among the machines that train")
        of = ["detection"] * len(names)
        self.partitions: list[Partition] = [*halves(names, of), *partitions(names, of, self.options.partitions, seed)]
        banks = [ObjectBank.of(labels) for labels in data.sets]
        self.targets = [
            [bank.targets(part.target, self.ratios, self.options.least_machines) for part in self.partitions]
            for bank in banks
        ]
        self.train = self.samples.of_split("train")
        self.validation = self.samples.of_split("validation")
        heights, widths = self.samples.sizes()
        self.sizes = input_sizes(heights, widths, config.input)
        self.frozen = FeatureBank(keep_fine=True) if frozen else None

    def prepare(self, network: nn.Module, device: torch.device, progress: Progress) -> None:
        if self.frozen is None:
            return
        assert isinstance(network, JRDMapNetwork)
        views = [(int(s), flip) for s in self.train for flip in (False, True)]
        views += [(int(s), False) for s in self.validation]
        self.frozen.fill(network.stand_in, views, self._picture, self.config, self.sizes, device, progress)

    def _picture(self, sample: int, flip: bool) -> npt.NDArray[np.uint8]:
        picture = self.samples.picture(sample)
        return np.ascontiguousarray(picture[:, ::-1]) if flip else picture

    def plan(self, rng: np.random.Generator, steps: int, batch_size: int) -> list[Draw]:
        return bucket_draws(rng, self.train, self.sizes, steps, batch_size)

    def load(self, draw: Draw) -> MapItem:
        rng = draw.rng()
        number = int(rng.integers(2, len(self.partitions)))
        views = [self._view(rng, sample) for sample in draw.rows]
        told = [rng.random() < self.options.map_share for _ in draw.rows]
        return self.item(rng, list(draw.rows), views, number, told, draw.size)

    def _view(self, rng: np.random.Generator, sample: int) -> View:
        labels, row = self.samples.labels(sample)
        width, height = int(labels.widths[row]), int(labels.heights[row])
        if self.frozen is not None:
            return whole(width, height, bool(rng.random() < 0.5))
        return random_view(rng, width, height, self.options.crop)

    def item(
        self,
        rng: np.random.Generator,
        samples: Sequence[int],
        views: Sequence[View],
        partition: int,
        told: Sequence[bool],
        size: tuple[int, int],
    ) -> MapItem:
        """Views of samples as a batch of one input size. told: which get a detector's confidence map."""
        spec = replace(self.config.input, mode="stretch", height=size[0], width=size[1])
        prepared, there, levels = [], [], []
        for sample, view, with_map in zip(samples, views, told, strict=True):
            confidence = self._map(rng, sample, partition, view) if with_map else None
            picture = view.of(self.samples.picture(sample))
            prepared.append(prepare(Sample(picture, confidence_map=confidence), spec))
            row = int(self.samples.row[sample])
            targets = self.targets[int(self.samples.labels_at[sample])][partition]
            here, lowest = cell_targets(targets, row, view, size)
            there.append(here)
            levels.append(lowest)
        seen = None
        if self.frozen is not None:
            seen = self.frozen.of([(s, view.flip) for s, view in zip(samples, views, strict=True)])
        return MapItem(collate(prepared), torch.from_numpy(np.stack(there)), torch.from_numpy(np.stack(levels)), seen)

    def _map(self, rng: np.random.Generator, sample: int, partition: int, view: View) -> Floats | None:
        labels, _ = self.samples.labels(sample)
        machines = labels.machines_at(self.partitions[partition].evidence, "detection")
        return self.samples.map_of(sample, int(rng.choice(machines)), view) if len(machines) else None

    def loss(self, network: nn.Module, item: Tensors) -> dict[str, Tensor]:
        assert isinstance(item, MapItem)
        return map_losses(_see(network, item), item, self.options.level_weight)

    @cached_property
    def constants(self) -> npt.NDArray[np.float64]:
        """Level of least mean absolute error over the training objects, at each ratio: float64 [R]."""
        rows: list[npt.NDArray[np.int16]] = []
        for at, of_set in enumerate(self.targets):
            pictures = self.samples.row[self.train[self.samples.labels_at[self.train] == at]]
            rows += [targets.jrd[np.isin(targets.picture, pictures)] for targets in of_set[:2]]
        found = np.concatenate(rows)
        if not len(found):
            raise InputError("no training picture holds an object; annotate more pictures")
        constants: npt.NDArray[np.float64] = np.median(found, axis=0).astype(np.float64)
        return constants

    def validate(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        """Score: the loss, with a detector's map on every second picture. skill: error of the levels on cells with
        objects against the best constant, at all ratios."""
        losses: list[float] = []
        errors, constants = [], []
        hits = np.zeros(3)
        for at, sample in enumerate(self.validation.tolist()):
            labels, row = self.samples.labels(sample)
            view = whole(int(labels.widths[row]), int(labels.heights[row]))
            rng = np.random.default_rng(at)
            item = self.item(rng, [sample], [view], at % 2, [at // 2 % 2 == 0], self.sizes[sample]).to(device)
            prediction = _see(network, item)
            parts = map_losses(prediction, item, self.options.level_weight)
            losses.append(float(sum(float(part) for part in parts.values())))
            inside = item.there[0] > 0.5
            found = prediction.object_logit[0] > 0
            hits += [int((found & inside).sum()), int((found & ~inside).sum()), int((~found & inside).sum())]
            if bool(inside.any()):
                true = item.levels[0][:, inside]
                errors.append(float((prediction.levels[0][:, inside] - true).abs().mean()))
                constant = torch.tensor(self.constants, device=true.device)[:, None]
                constants.append(float((constant - true).abs().mean()))
        f1 = 2 * hits[0] / max(1.0, 2 * hits[0] + hits[1] + hits[2])
        error, constant_error = float(np.mean(errors or [np.nan])), float(np.mean(constants or [np.nan]))
        return {
            SCORE: float(np.mean(losses)),
            "levels": error,
            "skill": 1 - error / constant_error,
            "objects F1": float(f1),
        }

    def finish(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        return {}

    def data_sha256(self) -> str:
        return data_hash(self.data)

    def describe(self) -> Mapping[str, Any]:
        return describe_data(self.data)


def cell_targets(targets: ObjectTargets, row: int, view: View, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Objects of a picture on the cells of the input: float32 [h, w] (1: there), float32 [R, h, w] (lowest level).

    size: height and width of the input, which the view is stretched to.
    """
    height, width = size[0] // CELL, size[1] // CELL
    there = np.zeros((height, width), np.float32)
    levels = np.full((targets.jrd.shape[1], height, width), float(N_LEVELS - 1), np.float32)
    members = np.flatnonzero(targets.picture == row)
    boxes, inside = view.boxes(targets.boxes[members])
    scale = np.array([width / view.width, height / view.height] * 2, np.float32)
    for member, box in zip(members[inside].tolist(), boxes[inside] * scale, strict=True):
        left, top = int(box[0]), int(box[1])
        right, bottom = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
        there[top:bottom, left:right] = 1
        part = levels[:, top:bottom, left:right]
        np.minimum(part, targets.jrd[member].astype(np.float32)[:, None, None], out=part)
    return there, levels


def map_losses(prediction: MapPrediction, item: MapItem, level_weight: float) -> dict[str, Tensor]:
    """Cross entropy of the objects; where they are, likelihood of their levels under Laplace distributions, whose
    median is what the mean absolute error asks for."""
    objects = F.binary_cross_entropy_with_logits(prediction.object_logit.float(), item.there)
    inside = item.there[:, None].expand_as(item.levels)
    deviation = prediction.deviation.float()[:, None].expand_as(item.levels)
    likelihood = (prediction.levels.float() - item.levels).abs() / deviation + deviation.log()
    levels = (likelihood * inside).sum() / inside.sum().clamp(min=1)
    return {"objects": objects, "levels": level_weight * levels}


def _see(network: nn.Module, item: MapItem) -> MapPrediction:
    if item.seen is not None and isinstance(network, JRDMapNetwork):
        return network.predict(item.batch, item.seen)
    prediction: MapPrediction = network(item.batch)
    return prediction
