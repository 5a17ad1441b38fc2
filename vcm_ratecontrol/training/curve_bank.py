"""Targets and evidence for curves, from machines that are never the same: what transfers between machines is learnt.

Each partition divides the choosing machines in two: the curve of the one half is the target, the other half is what
evidence is drawn from. So no machine ever reveals its own verdicts, and a network learns what one machine's confidence
says of another machine's satisfaction, which is what it will be asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.interface import Condition, Task
from vcm_ratecontrol.training.curve_targets import CurveTargets, curve_targets
from vcm_ratecontrol.training.label_set import TASKS, LabelSet

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

TARGET_SHARE = (0.3, 0.7)
"""Share of the choosing machines that a partition's curve is of: drawn evenly in between."""

COUNTS = (0, 1, 1, 2, 2, 3, 4, 6)
"""How many machines give evidence in training; besides these, all that a partition has."""


@dataclass(frozen=True)
class Partition:
    """Names of machines: of the target curve, and for evidence."""

    target: tuple[str, ...]
    evidence: tuple[str, ...]


def partitions(names: Sequence[str], tasks: Sequence[str], count: int, seed: int) -> list[Partition]:
    """Random partitions, each with machines of every task on both sides where a task has two.

    Raises InputError for fewer than two machines.
    """
    if len(names) < 2:
        raise InputError("training curves needs two machines at least: one for the target, one for evidence")
    rng = np.random.default_rng([seed, 1])
    by_task = [[n for n, t in zip(names, tasks, strict=True) if t == task] for task in sorted(set(tasks))]
    found = []
    for _ in range(count):
        target: list[str] = []
        for members in by_task:
            size = round(len(members) * rng.uniform(*TARGET_SHARE))
            size = min(max(size, 1), max(len(members) - 1, 1))
            target += rng.permutation(members)[:size].tolist()
        evidence = tuple(n for n in names if n not in target)
        found.append(Partition(tuple(n for n in names if n in target), evidence))
    return found


def halves(names: Sequence[str], tasks: Sequence[str]) -> list[Partition]:
    """The two partitions of validation: every second machine of a task, and the other way round."""
    order = sorted(range(len(names)), key=lambda at: (tasks[at], at))
    odd = {names[at] for at in order[1::2]}
    first = tuple(n for n in names if n in odd)
    second = tuple(n for n in names if n not in odd)
    return [Partition(first, second), Partition(second, first)]


@dataclass(frozen=True, eq=False)
class TargetBank:
    """Targets of every label set, task and partition that has any.

    targets: (label set, task, partition) -> targets of all its pictures.
    """

    sets: tuple[LabelSet, ...]
    partitions: tuple[Partition, ...]
    targets: dict[tuple[int, Task, int], CurveTargets]

    @classmethod
    def of(cls, sets: Sequence[LabelSet], parts: Sequence[Partition]) -> TargetBank:
        """Raises InputError when nothing can be learnt from these labels."""
        targets: dict[tuple[int, Task, int], CurveTargets] = {}
        for (at, labels), task, (number, part) in itertools.product(enumerate(sets), TASKS, enumerate(parts)):
            machines = labels.machines_at(part.target, task)
            try:
                targets[at, task, number] = curve_targets(labels, machines, labels.rows_of("train"))
            except InputError:
                continue  # Such as no detector among the machines: nothing to learn for this task.
        if not targets:
            raise InputError("no training picture has enough valid machines for a curve; annotate more pictures")
        return cls(tuple(sets), tuple(parts), targets)

    def shifts(self, labels_at: Indices, row: Indices) -> npt.NDArray[np.float32]:
        """Target shifts of samples (set and row each): float32 [partitions, tasks, N], NaN where there is none."""
        found = np.full((len(self.partitions), len(TASKS), len(row)), np.nan, np.float32)
        for (at, task, number), targets in self.targets.items():
            of_set = labels_at == at
            found[number, TASKS.index(task), of_set] = targets.shift[row[of_set]]
        return found

    def evidence(self, width: int) -> Flags:
        """Machines that may give evidence: bool [partitions, sets, width]."""
        allowed = np.zeros((len(self.partitions), len(self.sets), width), bool)
        for (number, part), (at, labels) in itertools.product(enumerate(self.partitions), enumerate(self.sets)):
            allowed[number, at, labels.machines_at(part.evidence)] = True
        return allowed


def fitted_curves(sets: Sequence[LabelSet], machines: Sequence[str]) -> dict[Condition, tuple[LabelSet, CurveTargets]]:
    """Mean curves over the training pictures of every condition that the label sets hold, of these machines."""
    found: dict[Condition, tuple[LabelSet, CurveTargets]] = {}
    for labels, task in itertools.product(sets, TASKS):
        try:
            targets = curve_targets(labels, labels.machines_at(machines, task), labels.rows_of("train"))
        except InputError:
            continue
        found[labels.condition(task)] = (labels, targets)
    return found


def draw_evidence(rng: np.random.Generator, candidates: Flags, counts: Sequence[int] | int) -> Flags:
    """Which machines give evidence on each picture: bool [B, M].

    candidates: bool [B, M], machines to draw from. counts: one number of machines for all pictures, or several of
    which each picture draws one; a number above what there is means all.
    """
    number = np.full(len(candidates), counts) if isinstance(counts, int) else rng.choice(counts, len(candidates))
    # The candidates of each picture in random order: the first so many are taken.
    order = np.where(candidates, rng.random(candidates.shape), np.inf).argsort(axis=1)
    ranks = order.argsort(axis=1)
    chosen: Flags = candidates & (ranks < number[:, None])
    return chosen
