"""A curve network's answers about pictures: with so many machines at hand, drawn at random, and judged by others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vcm_ratecontrol.predictors.backbone import Features, StandInPrediction
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.predictors.interface import Batch, Condition, CurvePrediction, Sample, Task
from vcm_ratecontrol.predictors.preprocess import PreparedSample, collate, prepare
from vcm_ratecontrol.predictors.smr_curve import SMRCurveNetwork
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.curve_bank import TargetBank, draw_evidence
from vcm_ratecontrol.training.curve_targets import CurveTargets
from vcm_ratecontrol.training.label_set import TASKS
from vcm_ratecontrol.training.samples import Samples

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

ALL = 1 << 16
"""As a number of machines at hand: all that there are."""

COUNTS = (0, 1, 2, 4, ALL)

_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Question:
    """One label set, task and partition of the machines, one number of machines at hand, one draw of them.

    targets: of that partition. places: int64 [n], where the pictures stand in `CurveExam.rows`; pictures: int64 [n],
    rows of the label set. condition: index by which the network is asked. masks: bool [n, M].
    """

    labels_at: int
    task: Task
    partition: int
    count: int
    repeat: int
    condition: int
    targets: CurveTargets
    places: Indices
    pictures: Indices
    masks: Flags


@dataclass(frozen=True, eq=False)
class Answer:
    """To one question, in the order of its pictures; float64, QP levels.

    shift: [n], shrunk; mean, deviation: [n], before shrinking; log2_bits: [n, 64].
    """

    question: Question
    shift: Floats
    mean: Floats
    deviation: Floats
    log2_bits: Floats

    @property
    def true_shift(self) -> Floats:
        """float64 [n]."""
        return self.question.targets.shift[self.question.pictures]


class CurveExam:
    """Questions about the pictures `rows` (sample indices), for the targets of a bank."""

    def __init__(
        self,
        config: PredictorConfig,
        samples: Samples,
        rows: Indices,
        bank: TargetBank,
        conditions: Sequence[Condition],
        *,
        counts: Sequence[int] = COUNTS,
        repeats: int = 1,
    ) -> None:
        """conditions: of the network. repeats: draws of the machines at hand, where there is a choice."""
        self.config, self.samples, self.rows, self.bank = config, samples, rows, bank
        self.conditions = list(conditions)
        self.counts, self.repeats = tuple(counts), repeats
        self.pixels = config.kind == "smr_curve"
        self._features, self._asked = samples.evidence()
        self._may_tell = bank.evidence(self._asked.shape[1])
        self._statistics = torch.zeros(0)
        self._prepared: list[PreparedSample] = []
        self.questions: list[Question] = []

    def build(self, progress: Progress = SILENT, substitute: Callable[[Condition], Condition] | None = None) -> None:
        """Read the pictures, draw the machines at hand; the same whenever it is called.

        substitute: the condition that the network is asked by for labels of another.
        """
        if self.questions:
            return
        self._statistics = torch.from_numpy(self.samples.all_statistics(progress)[self.rows])
        if self.pixels:
            spec = replace(self.config.input, statistics=False)
            self._prepared = [prepare(Sample(self.samples.picture(s)), spec) for s in self.rows.tolist()]
        for (at, task, partition), targets in self.bank.targets.items():
            condition = self.samples.sets[at].condition(task)
            asked_by = substitute(condition) if substitute else condition
            index = self.conditions.index(asked_by)
            for count in self.counts:
                for repeat in range(self.repeats if 0 < count < ALL else 1):
                    rng = np.random.default_rng([at, TASKS.index(task), partition, count, repeat])
                    question = self._ask(rng, at, task, partition, targets)
                    if len(question.places):
                        self.questions.append(replace(question, count=count, repeat=repeat, condition=index))
                        self._draw(rng, len(self.questions) - 1)

    def _ask(self, rng: np.random.Generator, at: int, task: Task, partition: int, targets: CurveTargets) -> Question:
        of_set = np.flatnonzero(self.samples.labels_at[self.rows] == at)
        pictures = self.samples.row[self.rows[of_set]]
        known = targets.known[pictures]
        places, pictures = of_set[known], pictures[known]
        return Question(at, task, partition, 0, 0, 0, targets, places, pictures, np.zeros((len(places), 0), bool))

    def _draw(self, rng: np.random.Generator, at: int) -> None:
        """Draw the machines at hand of a question. No confidence maps: vcm-encode gives none."""
        question = self.questions[at]
        samples = self.rows[question.places]
        candidates = self._asked[samples] & self._may_tell[question.partition, question.labels_at]
        masks = draw_evidence(rng, candidates, question.count)
        self.questions[at] = replace(question, masks=masks)

    def answers(self, network: nn.Module, device: torch.device, progress: Progress = SILENT) -> list[Answer]:
        """What the network says to every question."""
        seen = self._seen(network, device)
        found = []
        progress.phase("asking the network", len(self.questions))
        for question in self.questions:
            found.append(self._answer(network, device, question, seen))
            progress.advance()
        return found

    def _answer(
        self, network: nn.Module, device: torch.device, question: Question, seen: dict[int, StandInPrediction]
    ) -> Answer:
        n = len(question.places)
        values = {name: np.zeros(n) for name in ("shift", "shift_mean", "shift_deviation")}
        bits = np.zeros((n, 64))
        for group in self._by_size(question.places):
            batch = self._batch(question, group).to(device)
            views = stacked([seen[place] for place in question.places[group].tolist()]) if seen else None
            prediction = see(network, batch, views)
            for name, array in values.items():
                array[group] = getattr(prediction, name).float().cpu().numpy()
            bits[group] = prediction.log2_bits.float().cpu().numpy()
        return Answer(question, values["shift"], values["shift_mean"], values["shift_deviation"], bits)

    def _batch(self, question: Question, group: Indices) -> Batch:
        places, n = question.places[group], len(group)
        masks = question.masks[group]
        return Batch(
            picture=torch.zeros(n, 3, 32, 32),
            condition=torch.full((n,), question.condition),
            level=torch.full((n,), -1.0),
            reference_level=torch.full((n,), -1.0),
            evidence=torch.from_numpy(np.where(masks[..., None], self._features[self.rows[places]], 0)),
            evidence_mask=torch.from_numpy(masks),
            confidence_map=self._no_maps(places),
            statistics=self._statistics[torch.from_numpy(places)],
        )

    def _no_maps(self, places: Indices) -> Tensor:
        """Confidence maps on the cells of the input, not there: float32 [n, 1, h / 16, w / 16] of -1."""
        height, width = self._prepared[int(places[0])].size if self.pixels else (32, 32)
        return torch.full((len(places), 1, height // 16, width // 16), -1.0)

    def _by_size(self, places: Indices) -> list[Indices]:
        """Indices into `places`, by input size."""
        if not self.pixels:
            return [np.arange(len(places))] if len(places) else []
        sizes = [self._prepared[place].size for place in places.tolist()]
        return [np.array(group) for _, group in grouped(range(len(places)), lambda at: sizes[at])]

    def _seen(self, network: nn.Module, device: torch.device) -> dict[int, StandInPrediction]:
        """What the stand-in sees of each picture, without `fine`; empty for a network without pixels."""
        if not isinstance(network, SMRCurveNetwork):
            return {}
        found: dict[int, StandInPrediction] = {}
        for group in self._by_size(np.arange(len(self._prepared))):
            for start in range(0, len(group), _AT_ONCE):
                part = group[start : start + _AT_ONCE].tolist()
                batch = collate([self._prepared[at] for at in part])
                seen = network.stand_in.see(batch.picture.to(device))
                found |= {at: one_of(seen, row) for row, at in enumerate(part)}
        return found


def see(network: nn.Module, batch: Batch, seen: StandInPrediction | None) -> CurvePrediction:
    """The network's answer, from what its stand-in saw where that is known."""
    if seen is not None and isinstance(network, SMRCurveNetwork):
        return network.predict(batch, seen)
    prediction: CurvePrediction = network(batch)
    return prediction


def one_of(seen: StandInPrediction, row: int) -> StandInPrediction:
    """One picture's part, without the fine map and the heads that only teach."""
    part = slice(row, row + 1)
    empty = seen.confidence.new_zeros(1, 0)
    backbone = Features(empty, seen.backbone.map[part], seen.backbone.vector[part])
    return StandInPrediction(seen.confidence[part], empty, empty, seen.objectness[part], backbone)


def stacked(views: Sequence[StandInPrediction]) -> StandInPrediction:
    """Several pictures of one input size as one batch."""

    def together(name: str) -> Tensor:
        return torch.cat([getattr(view, name) for view in views])

    parts = [torch.cat([getattr(view.backbone, name) for view in views]) for name in ("fine", "map", "vector")]
    return StandInPrediction(
        confidence=together("confidence"),
        groups=together("groups"),
        features=together("features"),
        objectness=together("objectness"),
        backbone=Features(*parts),
    )


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> list[tuple[Key, list[Item]]]:
    """(key, items), in order of first appearance."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())
