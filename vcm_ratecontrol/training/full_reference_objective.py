"""Stage 'full reference': original (or better) and coded picture -> SMR; heads G and Q, alone or jointly."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.interface import Batch, Condition, Sample, SMRPrediction, Task, Tensors
from vcm_ratecontrol.predictors.mean_curve import MeanCurves, conditions_from
from vcm_ratecontrol.predictors.preprocess import PreparedSample, collate, prepare
from vcm_ratecontrol.predictors.smr_full_reference import SmallPair, SMRFullReference
from vcm_ratecontrol.progress import Progress
from vcm_ratecontrol.training.buckets import bucket_draws, input_sizes
from vcm_ratecontrol.training.curve_bank import (
    COUNTS,
    Partition,
    TargetBank,
    draw_evidence,
    fitted_curves,
    halves,
    partitions,
)
from vcm_ratecontrol.training.curve_exam import ALL
from vcm_ratecontrol.training.curve_objective import enter_curves, plain_batch
from vcm_ratecontrol.training.data import TrainingData
from vcm_ratecontrol.training.label_set import TASKS
from vcm_ratecontrol.training.objective import SCORE, Draw, even_draws
from vcm_ratecontrol.training.options import objective_options
from vcm_ratecontrol.training.pair_bank import Key, SeenPair, look_at_pairs
from vcm_ratecontrol.training.views import View, random_view, whole

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FullReferenceOptions:
    """task: whose satisfaction a network without conditions is for. partitions, crop: as in the stage 'curve'.
    pair_share: of the samples, how many are pairs of two coded pictures (for head Q). unknown_share: how many come
    without condition and level. validation_pairs: pairs that are looked at after each epoch. qps: only these (the
    nearest measured), as every coded picture must be made once; (): all."""

    task: str = "both"
    partitions: int = 64
    crop: float = 0.1
    pair_share: float = 0.3
    unknown_share: float = 0.1
    validation_pairs: int = 256
    qps: tuple[int, ...] = ()


@dataclass(frozen=True)
class PairItem(Tensors):
    """A batch of pairs. smr, reference: float32 [B], true SMR of the coded picture and of what it is compared with.
    compared: what a frozen stand-in made of the pairs, or None."""

    batch: Batch
    smr: Tensor
    reference: Tensor
    compared: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """One question: a sample's picture at column `qp_at` of the set's QPs (with the original first), against the
    column `reference_at` (0: the original). mask: bool [M], machines that give evidence."""

    sample: int
    task: Task
    partition: int
    qp_at: int
    reference_at: int
    mask: Flags
    view: View
    known: bool = True


class FullReferenceObjective:
    """See `objective.Objective`. Network: `SMRFullReference`."""

    def __init__(
        self,
        config: PredictorConfig,
        values: Mapping[str, Any],
        data: TrainingData,
        seed: int,
        parts: Sequence[Partition] | None = None,
        *,
        frozen: bool = False,
    ) -> None:
        """parts: of the machines, instead of those for training. frozen: the trunk does not learn, so a stand-in looks
        once, at whole pictures. Raises InputError for options or labels that do not fit."""
        self.options = objective_options(FullReferenceOptions, values)
        self.config, self.data, self.samples = config, data, data.samples
        self.conditions = conditions_from(config.network.get("conditions", ()))
        first = data.sets[0].verdicts
        names = [name for name in data.machines.choosing if name in first.machines]
        tasks = [first.tasks[first.machines.index(name)] for name in names]
        drawn = parts or [*halves(names, tasks), *partitions(names, tasks, self.options.partitions, seed)]
        self.bank = TargetBank.of(data.sets, drawn)
        self.curves = fitted_curves(data.sets, data.machines.choosing)
        _, self.asked = self.samples.evidence()
        self.may_tell = self.bank.evidence(self.asked.shape[1])
        self.train = self.samples.of_split("train")
        heights, widths = self.samples.sizes()
        self.sizes = input_sizes(heights, widths, config.input)
        self.columns = [labels.qp_columns(self.options.qps) for labels in data.sets]
        self.has_difference = config.network.get("heads", "both") != "g"
        self.frozen = frozen and config.network.get("trunk") == "small"
        self.seen: Mapping[Key, SeenPair] = {}

    def prepare(self, network: nn.Module, device: torch.device, progress: Progress) -> None:
        for module in network.modules():
            if isinstance(module, MeanCurves):
                enter_curves(module, self.curves)
        if self.frozen:
            self.look_once(network, self._all_pairs(), device, progress)

    def look_once(self, network: nn.Module, pairs: Sequence[Key], device: torch.device, progress: Progress) -> None:
        """Let the stand-in look at whole pictures now, if the network has one; `answer` then needs no pixels."""
        if isinstance(network, SMRFullReference) and isinstance(network.pair, SmallPair):
            stand_in = network.pair.stand_in
            self.seen = look_at_pairs(stand_in, pairs, self._version, self.config, self.sizes, device, progress)

    def _all_pairs(self) -> list[Key]:
        """All that training and validation may ask of."""
        found: list[Key] = []
        for sample in [*self.train.tolist(), *self.samples.of_split("validation").tolist()]:
            columns = self.columns[int(self.samples.labels_at[sample])].tolist()
            found += [(sample, column, 0) for column in columns]
            if self.has_difference and self.options.pair_share:
                found += [(sample, worse, better) for better, worse in itertools.combinations(columns, 2)]
        return found

    def _version(self, sample: int, column: int) -> npt.NDArray[np.uint8]:
        """A picture coded at a column of the set's QPs; 0: as it is."""
        labels, row = self.samples.labels(sample)
        if not column:
            return self.samples.picture(sample)
        return self.data.coded.rgb(labels, row, labels.verdicts.qps[column])

    def plan(self, rng: np.random.Generator, steps: int, batch_size: int) -> list[Draw]:
        if self.seen:
            return even_draws(rng, self.train, steps, batch_size)
        return bucket_draws(rng, self.train, self.sizes, steps, batch_size)

    def load(self, draw: Draw) -> PairItem:
        rng = draw.rng()
        # The first two partitions are those of validation.
        pairs = [self._draw(rng, sample, int(rng.integers(2, len(self.bank.partitions)))) for sample in draw.rows]
        return self.item(pairs, draw.size)

    def _draw(self, rng: np.random.Generator, sample: int, partition: int) -> Pair:
        labels, row = self.samples.labels(sample)
        task = self._task(rng, sample, partition)
        columns = self.columns[int(self.samples.labels_at[sample])]
        place = int(rng.integers(len(columns)))
        qp_at, reference_at = int(columns[place]), 0
        if self.has_difference and place and rng.random() < self.options.pair_share:
            reference_at = int(columns[rng.integers(place)])
        candidates = self.asked[sample] & self.may_tell[partition, self.samples.labels_at[sample]]
        mask = draw_evidence(rng, candidates[None], (*COUNTS, ALL))[0]
        view = random_view(rng, int(labels.widths[row]), int(labels.heights[row]), self.options.crop)
        known = bool(rng.random() >= self.options.unknown_share)
        return Pair(sample, task, partition, qp_at, reference_at, mask, view, known)

    def _task(self, rng: np.random.Generator, sample: int, partition: int) -> Task:
        at, row = int(self.samples.labels_at[sample]), int(self.samples.row[sample])
        tasks = TASKS if self.conditions else [task for task in TASKS if task == self.options.task]
        known = [
            task
            for task in tasks
            if (at, task, partition) in self.bank.targets and self.bank.targets[at, task, partition].known[row]
        ]
        return known[int(rng.integers(len(known)))] if known else tasks[-1]

    def item(self, pairs: Sequence[Pair], size: tuple[int, int]) -> PairItem:
        """Pairs of one input size as a batch with its targets."""
        compared = None
        if self.seen:
            seen = [self.seen[pair.sample, pair.qp_at, pair.reference_at] for pair in pairs]
            batch = self._plain_batch(pairs, seen)
            compared = torch.stack([one.compared for one in seen])
        else:
            batch = collate([self.prepared(pair, size) for pair in pairs])
        features = np.stack([self.evidence(pair) for pair in pairs])
        masks = np.stack([pair.mask for pair in pairs])
        features[~masks] = 0
        batch = replace(batch, evidence=torch.from_numpy(features), evidence_mask=torch.from_numpy(masks))
        smr = torch.tensor([self.true_smr(pair, pair.qp_at) for pair in pairs], dtype=torch.float32)
        reference = torch.tensor([self.true_smr(pair, pair.reference_at) for pair in pairs], dtype=torch.float32)
        return PairItem(batch, smr, reference, compared)

    def _plain_batch(self, pairs: Sequence[Pair], seen: Sequence[SeenPair]) -> Batch:
        """The batch without pixels and without evidence."""
        told = [self._told(pair) for pair in pairs]
        conditions = [self.conditions.index(condition) if condition else -1 for condition, _, _ in told]
        levels = torch.tensor([[-1.0 if at is None else at for at in two] for _, *two in told])
        return replace(
            plain_batch(np.stack([one.statistics.numpy() for one in seen]), conditions),
            distortion=torch.stack([one.distortion for one in seen]),
            level=levels[:, 0],
            reference_level=levels[:, 1],
        )

    def _told(self, pair: Pair) -> tuple[Condition | None, float | None, float | None]:
        """Condition, level and level of the reference, as far as the network is told."""
        labels, _ = self.samples.labels(pair.sample)
        qps = labels.verdicts.qps
        condition = labels.condition(pair.task) if pair.known and self.conditions else None
        level = float(qps[pair.qp_at]) if pair.known else None
        return condition, level, float(qps[pair.reference_at]) if pair.reference_at and pair.known else None

    def prepared(self, pair: Pair, size: tuple[int, int]) -> PreparedSample:
        """The pictures of a pair as tensors, without evidence."""
        picture, coded = (pair.view.of(self._version(pair.sample, at)) for at in (pair.reference_at, pair.qp_at))
        spec = replace(self.config.input, mode="stretch", height=size[0], width=size[1])
        condition, level, reference = self._told(pair)
        sample = Sample(picture, coded, condition, level=level, reference_level=reference)
        return prepare(sample, spec, self.conditions)

    def evidence(self, pair: Pair) -> Floats:
        """float32 [M, N_EVIDENCE] of all machines; results on a coded reference are not told."""
        at, row = int(self.samples.labels_at[pair.sample]), int(self.samples.row[pair.sample])
        known = self._coded_features[at][pair.qp_at][row]
        features = np.zeros((self.asked.shape[1], known.shape[1]), np.float32)
        features[: len(known)] = known
        return features

    @cached_property
    def _coded_features(self) -> list[dict[int, Floats]]:
        return [
            {at: labels.evidence.on_coded(at) for at in range(1, len(labels.verdicts.qps))} for labels in self.data.sets
        ]

    def true_smr(self, pair: Pair, column: int) -> float:
        """NaN where too few machines are valid; 1 for the original."""
        at, row = int(self.samples.labels_at[pair.sample]), int(self.samples.row[pair.sample])
        targets = self.bank.targets.get((at, pair.task, pair.partition))
        if targets is None:
            return float("nan")
        return float(targets.smr[row, column - 1]) if column else 1.0

    def loss(self, network: nn.Module, item: Tensors) -> dict[str, Tensor]:
        assert isinstance(item, PairItem)
        return full_reference_losses(answer(network, item), item)

    @cached_property
    def _validation(self) -> list[Pair]:
        rng = np.random.default_rng(0)
        rows = self.samples.of_split("validation")
        found: list[Pair] = []
        for at in range(self.options.validation_pairs):
            sample = int(rows[at % len(rows)])
            labels, row = self.samples.labels(sample)
            pair = self._draw(rng, sample, at % 2)
            candidates = self.asked[sample] & self.may_tell[at % 2, self.samples.labels_at[sample]]
            mask = draw_evidence(rng, candidates[None], 2 * (at // 2 % 2))[0]
            view = whole(int(labels.widths[row]), int(labels.heights[row]))
            found.append(replace(pair, reference_at=0, mask=mask, view=view, known=True))
        return [pair for pair in found if np.isfinite(self.true_smr(pair, pair.qp_at))]

    def validate(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        """Error of SMR with two machines at hand and with none, as a share of the mean curve's error."""
        asked = self._validation
        predicted, true, mean = np.zeros((3, len(asked)))
        # Without pixels all go at once.
        for part in np.array_split(np.arange(len(asked)), 1 if self.seen else len(asked)):
            item = self.item([asked[at] for at in part], self.sizes[asked[part[0]].sample])
            predicted[part] = answer(network, item.to(device)).smr.float().clamp(0, 1).cpu().numpy()
            true[part] = item.smr.numpy()
        for at, pair in enumerate(asked):
            targets = self.bank.targets[int(self.samples.labels_at[pair.sample]), pair.task, pair.partition]
            mean[at] = targets.mean[self.samples.labels(pair.sample)[0].verdicts.qps[pair.qp_at]]
        error, reference = np.abs(predicted - true), np.abs(mean - true)
        told = np.array([bool(pair.mask.any()) for pair in asked])
        return {
            SCORE: float(error.mean() / reference.mean()),
            "MAE": float(error.mean()),
            "share with machines": float(error[told].mean() / reference[told].mean()) if told.any() else np.nan,
            "share without": float(error[~told].mean() / reference[~told].mean()) if (~told).any() else np.nan,
        }

    def finish(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        return {}

    def data_sha256(self) -> str:
        return data_hash(self.data)

    def describe(self) -> Mapping[str, Any]:
        return describe_data(self.data)


def answer(network: nn.Module, item: PairItem) -> SMRPrediction:
    """What the network says of a batch, from pixels or from what its stand-in saw before."""
    if item.compared is not None and isinstance(network, SMRFullReference):
        return network.predict(item.batch, item.compared)
    prediction: SMRPrediction = network(item.batch)
    return prediction


def full_reference_losses(prediction: SMRPrediction, item: PairItem) -> dict[str, Tensor]:
    """Errors of the heads that are there. G learns from pairs with the original only: it predicts an SMR, which a
    coded reference does not define; Q learns from all. Targets that are NaN do not count."""
    known = torch.isfinite(item.smr) & torch.isfinite(item.reference)
    with_original = known & (item.batch.reference_level < 0) & (item.reference == 1)
    zero = prediction.smr.sum() * 0
    losses: dict[str, Tensor] = {}
    for name, output, target, counted in (
        ("G", prediction.direct, item.smr, with_original),
        ("Q", prediction.difference, item.reference - item.smr, known),
    ):
        if output is not None:
            error = F.smooth_l1_loss(output[counted].float(), target[counted], beta=0.1)
            losses[name] = error if bool(counted.any()) else zero
    return losses


def data_hash(data: TrainingData) -> str:
    """Hash of labels, pictures that are there and choosing machines; hexadecimal."""
    digest = hashlib.sha256("".join(labels.sha256() for labels in data.sets).encode())
    digest.update(np.ascontiguousarray(data.samples.labels_at).tobytes())
    digest.update(np.ascontiguousarray(data.samples.row).tobytes())
    digest.update("\n".join(data.machines.choosing).encode())
    return digest.hexdigest()


def describe_data(data: TrainingData) -> dict[str, Any]:
    """Facts for provenance and model card."""
    return {
        "labels": [f"{labels.name} ({labels.config.encoder}, {labels.config.preset})" for labels in data.sets],
        "train_pictures": len(data.samples.of_split("train")),
        "validation_pictures": len(data.samples.of_split("validation")),
        "choosing_machines": list(data.machines.choosing),
        "judging_machines": list(data.machines.judging),
    }
