"""Stages of the object-wise JRD: 64 levels from the original crop (dtjrd), 'still recognised' from two (owjrd)."""

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
from vcm_ratecontrol.labels.splits import Split
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.dtjrd import ObjectJRDClassifier, decode_level, soft_label_loss
from vcm_ratecontrol.predictors.interface import Batch, Sample, Tensors
from vcm_ratecontrol.predictors.preprocess import PreparedSample, collate, object_crop, prepare
from vcm_ratecontrol.progress import Progress
from vcm_ratecontrol.training.curve_bank import Partition, halves, partitions
from vcm_ratecontrol.training.data import TrainingData
from vcm_ratecontrol.training.full_reference_objective import data_hash, describe_data
from vcm_ratecontrol.training.object_bank import ObjectBank, ObjectTargets
from vcm_ratecontrol.training.objective import SCORE, Draw, even_draws
from vcm_ratecontrol.training.options import objective_options

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_AT_ONCE = 32


@dataclass(frozen=True)
class ObjectOptions:
    """ratio: an object counts as recognised while at least this share of the machines recognises it; least_machines:
    so many must see it on the original. partitions: of the detectors, targets from one part, evidence from the other.
    jitter: share of a side by which a crop's edges move. least_side: pixels; smaller boxes are left out.
    validation_objects: looked at after each epoch. qps: coded crops only at these (the nearest measured), as every
    coded picture must be made once; (): at all."""

    ratio: float = 0.75
    least_machines: int = 3
    partitions: int = 16
    jitter: float = 0.08
    least_side: int = 12
    validation_objects: int = 512
    qps: tuple[int, ...] = ()


@dataclass(frozen=True)
class ObjectItem(Tensors):
    """Crops with their targets. jrd: int64 [B], level; recognised: int64 [B], 0 = still recognised in the coded crop
    (the published order of classes)."""

    batch: Batch
    jrd: Tensor
    recognised: Tensor


@dataclass(frozen=True)
class Target:
    """Object `at` of a label set's `ObjectTargets` of a partition; told: indices of machines that give evidence."""

    labels_at: int
    partition: int
    at: int
    told: tuple[int, ...] = ()
    qp_at: int = 0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    flip: bool = False


class ObjectObjective:
    """See `objective.Objective`. Networks: `ObjectJRDClassifier`, `ObjectRecognition`."""

    def __init__(
        self,
        config: PredictorConfig,
        values: Mapping[str, Any],
        data: TrainingData,
        seed: int,
        parts: Sequence[Partition] | None = None,
    ) -> None:
        """parts: of the detectors, instead of those for training. Raises InputError for options, or labels without
        objects."""
        self.options = objective_options(ObjectOptions, values)
        self.config, self.data, self.samples = config, data, data.samples
        first = data.sets[0].verdicts
        tasks = dict(zip(first.machines, first.tasks, strict=True))
        names = [name for name in data.machines.choosing if tasks.get(name) == "detection"]
        if len(names) < 2:
            raise InputError("the JRD of objects needs two detectors at least among the machines that train")
        of = ["detection"] * len(names)
        drawn = parts or [*halves(names, of), *partitions(names, of, self.options.partitions, seed)]
        self.partitions: list[Partition] = list(drawn)
        self.banks = [ObjectBank.of(labels) for labels in data.sets]
        self.targets = [
            [bank.targets(part.target, [self.options.ratio], self.options.least_machines) for part in self.partitions]
            for bank in self.banks
        ]
        self.pairs = config.kind == "owjrd"
        self.columns = [labels.qp_columns(self.options.qps) for labels in data.sets]
        self._sample_of = {
            (int(at), int(row)): sample
            for sample, (at, row) in enumerate(zip(self.samples.labels_at, self.samples.row, strict=True))
        }
        self.train = self._objects("train")

    def _objects(self, split: Split) -> list[tuple[int, int]]:
        """(label set, picture row) of the pictures of a split that hold an object in some partition."""
        found = []
        for sample in self.samples.of_split(split).tolist():
            at, row = int(self.samples.labels_at[sample]), int(self.samples.row[sample])
            if any((targets.picture == row).any() for targets in self.targets[at]):
                found.append((at, row))
        if not found:
            raise InputError(f"no {split} picture holds an object that {self.options.least_machines} detectors see")
        return found

    def usable(self, at: int, partition: int) -> Indices:
        """Objects of a partition whose picture is there and whose box is large enough."""
        there = [(at, int(row)) in self._sample_of for row in self.targets[at][partition].picture]
        return np.flatnonzero(np.array(there, bool) & self.large(at, partition))

    def large(self, at: int, partition: int) -> npt.NDArray[np.bool_]:
        """Which objects of a partition have a large enough box: bool [K]."""
        boxes = self.targets[at][partition].boxes
        large: npt.NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= self.options.least_side
        return large

    @cached_property
    def _drawable(self) -> dict[int, dict[tuple[int, int], Indices]]:
        """partition -> (label set, picture) -> usable objects."""
        found: dict[int, dict[tuple[int, int], Indices]] = {}
        for number in range(len(self.partitions)):
            of_picture: dict[tuple[int, int], list[int]] = {}
            for at in range(len(self.data.sets)):
                rows = self.targets[at][number].picture
                for index in self.usable(at, number).tolist():
                    of_picture.setdefault((at, int(rows[index])), []).append(index)
            found[number] = {key: np.array(members) for key, members in of_picture.items()}
        return found

    @cached_property
    def _trainable(self) -> list[int]:
        """Partitions, validation's two excepted, whose machines see an object of a training picture."""
        numbers = range(2, len(self.partitions))
        found = [number for number in numbers if not self._drawable[number].keys().isdisjoint(self.train)]
        if not found:
            raise InputError(
                f"no training picture holds a large enough object that {self.options.least_machines} of the detectors"
                " see; annotate more, or lower [training] least_machines"
            )
        return found

    def prepare(self, network: nn.Module, device: torch.device, progress: Progress) -> None:
        pass

    def plan(self, rng: np.random.Generator, steps: int, batch_size: int) -> list[Draw]:
        return even_draws(rng, np.arange(len(self.train)), steps, batch_size)

    def load(self, draw: Draw) -> ObjectItem:
        rng = draw.rng()
        return self.item([self._draw(rng, *self.train[picture]) for picture in draw.rows])

    def _draw(self, rng: np.random.Generator, at: int, row: int) -> Target:
        """A random object of a picture, in a random partition of validation's two excepted; of another picture where
        no machine of that partition sees one."""
        number = self._trainable[int(rng.integers(len(self._trainable)))]
        drawable = self._drawable[number]
        while (at, row) not in drawable:
            at, row = self.train[int(rng.integers(len(self.train)))]
        index = int(rng.choice(drawable[at, row]))
        jitter = tuple(float(value) for value in rng.uniform(-1, 1, 4) * self.options.jitter)
        return Target(
            at,
            number,
            index,
            self.told(rng, at, number),
            int(rng.choice(self.columns[at])),
            (jitter[0], jitter[1], jitter[2], jitter[3]),
            bool(rng.random() < 0.5),
        )

    def told(self, rng: np.random.Generator, at: int, number: int, count: int | None = None) -> tuple[int, ...]:
        machines = self.data.sets[at].machines_at(self.partitions[number].evidence, "detection")
        size = int(rng.choice([0, 0, 1, 1, 2, 4])) if count is None else count
        return tuple(rng.permutation(machines)[:size].tolist())

    def item(self, targets: Sequence[Target]) -> ObjectItem:
        """Crops as a batch with its targets."""
        batch = collate([self.prepared(target) for target in targets])
        if not self.pairs:
            batch = self._with_evidence(batch, targets)
        jrd = [int(self.of(t).jrd[t.at, 0]) for t in targets]
        share = [float(self.of(t).share[t.at, t.qp_at - 1]) if t.qp_at else 1.0 for t in targets]
        lost = [int(value < self.options.ratio - 1e-6) for value in share]
        return ObjectItem(batch, torch.tensor(jrd), torch.tensor(lost))

    def of(self, target: Target) -> ObjectTargets:
        return self.targets[target.labels_at][target.partition]

    def prepared(self, target: Target) -> PreparedSample:
        labels = self.data.sets[target.labels_at]
        objects = self.of(target)
        row = int(objects.picture[target.at])
        box = moved_box(objects.boxes[target.at], target.jitter, int(labels.widths[row]), int(labels.heights[row]))
        picture = object_crop(self.data.store.rgb(labels, row), box)
        coded = None
        if self.pairs:
            coded = object_crop(self.data.coded.rgb(labels, row, labels.verdicts.qps[target.qp_at]), box)
        if target.flip:
            picture = np.ascontiguousarray(picture[:, ::-1])
            coded = None if coded is None else np.ascontiguousarray(coded[:, ::-1])
        return prepare(Sample(np.ascontiguousarray(picture), coded), self.config.input)

    def _with_evidence(self, batch: Batch, targets: Sequence[Target]) -> Batch:
        told = [
            self.banks[t.labels_at].evidence(int(self.of(t).group[t.at]), np.array(t.told, np.int64)) for t in targets
        ]
        width = max(1, *(len(rows) for rows in told))
        features = np.zeros((len(told), width, batch.evidence.shape[2]), np.float32)
        masks = np.zeros((len(told), width), bool)
        for at, rows in enumerate(told):
            features[at, : len(rows)], masks[at, : len(rows)] = rows, True
        return replace(batch, evidence=torch.from_numpy(features), evidence_mask=torch.from_numpy(masks))

    def loss(self, network: nn.Module, item: Tensors) -> dict[str, Tensor]:
        assert isinstance(item, ObjectItem)
        prediction = network(item.batch)
        if self.pairs:
            return {"recognised": F.cross_entropy(prediction.logits.float(), item.recognised)}
        return {"jrd": soft_label_loss(replace(prediction, logits=prediction.logits.float()), item.jrd)}

    @cached_property
    def _validation(self) -> list[Target]:
        return self.judged("validation", self.options.validation_objects)

    def judged(self, split: Split, most: int, numbers: Sequence[int] = (0, 1)) -> list[Target]:
        """Objects of a split in the partitions of these numbers, with one detector at hand for every second; at most
        so many (0: all), a random choice that is always the same."""
        rng = np.random.default_rng(0)
        pictures = set(self._objects(split))
        found: list[Target] = []
        for number in numbers[: len(self.partitions)]:
            for (at, row), members in sorted(self._drawable[number].items()):
                if (at, row) not in pictures:
                    continue
                for index in members.tolist():
                    qp_at = int(rng.choice(self.columns[at]))
                    told = self.told(rng, at, number, count=index % 2)
                    found.append(Target(at, number, int(index), told, qp_at))
        if not found:
            raise InputError(f"no {split} picture holds an object that {self.options.least_machines} of its judges see")
        order = rng.permutation(len(found))[: most or len(found)]
        return [found[at] for at in sorted(order.tolist())]

    @cached_property
    def constant(self) -> int:
        """Level of least mean absolute error over the training objects."""
        levels = [
            self.targets[at][number].jrd[members, 0]
            for number in range(min(2, len(self.partitions)))
            for (at, row), members in self._drawable[number].items()
            if (at, row) in set(self.train)
        ]
        return int(np.median(np.concatenate(levels)))

    def validate(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        """dtjrd: error in levels, and skill against the best constant. owjrd: cross entropy and accuracy."""
        outputs, items = [], []
        for start in range(0, len(self._validation), _AT_ONCE):
            item = self.item(self._validation[start : start + _AT_ONCE])
            outputs.append(network(item.batch.to(device)).logits.float().cpu())
            items.append(item)
        logits = torch.cat(outputs)
        if self.pairs:
            lost = torch.cat([item.recognised for item in items])
            accuracy = float((logits.argmax(dim=1) == lost).float().mean())
            return {SCORE: float(F.cross_entropy(logits, lost)), "accuracy": accuracy}
        assert isinstance(network, ObjectJRDClassifier)
        true = torch.cat([item.jrd for item in items]).numpy()
        error = np.abs(decode_level(logits, network.decode).numpy() - true).mean()
        constant = np.abs(self.constant - true).mean()
        return {SCORE: float(error), "skill": float(1 - error / constant), "constant": float(constant)}

    def finish(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        return {}

    def data_sha256(self) -> str:
        return data_hash(self.data)

    def describe(self) -> Mapping[str, Any]:
        return {**describe_data(self.data), "train_pictures_with_objects": len(self.train)}


def moved_box(box: Floats, jitter: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    """A box whose edges moved by shares of its sides, inside the picture and at least two pixels wide and high."""
    x1, y1, x2, y2 = (float(value) for value in box)
    across, down = x2 - x1, y2 - y1
    left = min(max(0.0, x1 + jitter[0] * across), width - 2.0)
    top = min(max(0.0, y1 + jitter[1] * down), height - 2.0)
    right = max(left + 2.0, min(float(width), x2 + jitter[2] * across))
    bottom = max(top + 2.0, min(float(height), y2 + jitter[3] * down))
    return left, top, right, bottom
