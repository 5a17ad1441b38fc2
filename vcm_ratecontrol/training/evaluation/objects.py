"""Evaluation of object-wise JRD predictors: error in levels, and skill against the best constant level, beside what
other detectors tell that were measured, and what one half of the judges tells of the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vcm_ratecontrol.predictors.checkpoint import CheckpointCard
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.curve_bank import Partition
from vcm_ratecontrol.training.data import TrainingData
from vcm_ratecontrol.training.evaluation.curve_report import AMONG_JUDGES
from vcm_ratecontrol.training.evaluation.figures import Figure, Report, Resampling, Row, Table, figure
from vcm_ratecontrol.training.evaluation.object_levels import MEDIAN, predicted_levels
from vcm_ratecontrol.training.evaluation.object_references import (
    Shrinkage,
    levels_of,
    measured_by,
    measured_by_halves,
    median_regression,
    training_objects,
)
from vcm_ratecontrol.training.evaluation.plots import Draw, scatter_chart
from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings
from vcm_ratecontrol.training.object_objective import ObjectObjective, Target

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

COLUMNS = {"error, levels": (2, ""), "skill against the best constant": (1, " %")}
SIDES = (0, 48, 96, 192, 10_000)
"""Edges of the groups by object size: square root of the box's area, pixels as annotated."""

MOST_FULL_REFERENCE = 200
"""Objects of a full-reference network, which looks at every measured QP, when nobody says how many."""

MOST_SHRINKING = 100
"""Objects of validation pictures that tell by how much to shrink."""


@dataclass(frozen=True, eq=False)
class Judged:
    """N objects. targets: what is asked; true: float64 [N], levels; pictures: int64 [N], equal for one picture, with
    whatever codec. constant: the level of least mean absolute error over them."""

    targets: list[Target]
    true: Floats
    pictures: Indices
    constant: float

    @classmethod
    def of(cls, objective: ObjectObjective, targets: list[Target]) -> Judged:
        names = [
            objective.data.sets[t.labels_at].verdicts.pictures[int(objective.of(t).picture[t.at])] for t in targets
        ]
        true = levels_of(objective, targets)
        return cls(targets, true, np.unique(names, return_inverse=True)[1], float(np.median(true)))

    def row(self, name: str, levels: Floats | float, how: Resampling, members: Indices | None = None) -> Row:
        """Of predicted levels [N]. members: only these objects."""
        error, reference = np.abs(levels - self.true), np.abs(self.constant - self.true)
        return error_row(name, error, reference, self.pictures, how, members)


def evaluate_objects(
    network: nn.Module,
    card: CheckpointCard,
    data: TrainingData,
    settings: EvaluationSettings,
    device: torch.device,
    progress: Progress = SILENT,
) -> tuple[Report, dict[str, Draw]]:
    """The report and its charts. The best constant is that of the judged objects themselves: hard to beat."""
    judging, choosing = data.machines.judging, data.machines.choosing
    parts = [Partition(judging, choosing), Partition(choosing, judging)]
    values = {name: value for name, value in card.config.training.items() if name in ("ratio", "least_machines")}
    objective = ObjectObjective(card.config, values, data, 0, parts)
    most = settings.most or (MOST_FULL_REFERENCE if objective.pairs else 0)
    judged = Judged.of(objective, objective.judged(settings.split, most, (0,)))
    rows = reference_rows(objective, judged, settings.how)
    charts: dict[str, Draw] = {}
    for count in (0,) if objective.pairs else (0, 1, 2):
        rng = np.random.default_rng(count)
        asked = [replace(t, told=objective.told(rng, t.labels_at, t.partition, count)) for t in judged.targets]
        progress.phase(f"asking with {count} detectors at hand", len(asked))
        said = predicted_levels(network, objective, asked, device, progress)
        if objective.pairs and settings.split != "validation":
            said |= _shrunk(network, objective, said[MEDIAN], most, device, progress)
        for decoding, levels in said.items():
            name = f"{count} detectors at hand" + (f", {decoding}" if decoding else "")
            rows.append(judged.row(name, levels, settings.how))
            if not count:
                rows += _by_size(objective, judged, name, levels, settings.how)
                charts["jrd-predicted-true"] = scatter_chart(levels, judged.true, card.config.name, "JRD, level")
    kind = "full reference" if objective.pairs else "no reference"
    note = (
        f"Judged by {len(data.machines.judging)} machines at ratio {objective.options.ratio}; the best constant is"
        f" {judged.constant:.0f}. What was measured is moved towards the constant of the training objects, by what fits"
        " those. The floor is half the difference between two random halves of the judges; a half of one to three is a"
        " noisy thing to predict. Intervals: over pictures."
    )
    if objective.pairs:
        note += " 'Shrunk': by what fits validation pictures, judged by the machines that train."
    if not data.machines.disjoint:
        note += f" {AMONG_JUDGES}"
    facts = {"split": settings.split, "objects": len(judged.true), "judging machines": list(data.machines.judging)}
    return Report(facts, [Table(f"JRD of objects, {kind}", COLUMNS, rows, note)]), charts


def _shrunk(
    network: nn.Module, objective: ObjectObjective, levels: Floats, most: int, device: torch.device, progress: Progress
) -> dict[str, Floats]:
    """Full reference: the levels as far from the constant as fits what the network says of validation pictures, where
    the machines that it was trained with judge. A network that learnt at a few QPs is not to be believed at others."""
    known = objective.judged("validation", min(most, MOST_SHRINKING), (1,))
    progress.phase("asking about validation objects", len(known))
    said = predicted_levels(network, objective, known, device, progress)[MEDIAN]
    return {f"{MEDIAN}, shrunk": Shrinkage.fitted(said, levels_of(objective, known))(levels)}


def reference_rows(objective: ObjectObjective, judged: Judged, how: Resampling) -> list[Row]:
    """What a predictor's error stands beside. Nothing in them is fitted to the judged objects but the best constant."""
    machines, training = objective.data.machines, training_objects(objective)
    rows = [judged.row("best constant", judged.constant, how)]
    if not training:
        return rows
    true = levels_of(objective, training)
    rows.append(judged.row("constant of the training objects", float(np.median(true)), how))
    if machines.disjoint:
        known, asked = (measured_by(objective, machines.choosing, targets) for targets in (training, judged.targets))
        levels = Shrinkage.fitted(known[:, 0], true)(asked[:, 0])
        rows.append(judged.row("other detectors, measured: their JRD", levels, how))
        if np.isfinite(known).any():
            levels = median_regression(known, true, asked)
            rows.append(judged.row("other detectors, measured: also their mean JRD and number", levels, how))
    return rows + _split_half_rows(objective, judged, training, how)


def _split_half_rows(objective: ObjectObjective, judged: Judged, training: list[Target], how: Resampling) -> list[Row]:
    """One half of the judges that see an object for the other, both ways, and what that leaves for the whole (see
    `split_half`); none where no object has two judges."""
    judges = objective.data.machines.judging
    known = measured_by_halves(objective, judges, training).levels
    halves = measured_by_halves(objective, judges, judged.targets)
    members = np.flatnonzero(halves.whole > 0)
    if not np.isfinite(known).any() or not len(members):
        return []
    there = np.isfinite(known)
    shrinkage = Shrinkage.fitted(known[there], known[::-1][there])
    said, asked = halves.levels[:, :, members], halves.levels[::-1, :, members]
    error = np.abs(shrinkage(said) - asked).mean(axis=(0, 1))
    reference = np.abs(float(np.median(asked)) - asked).mean(axis=(0, 1))
    left = halves.whole[members] * np.abs(said - asked).mean(axis=(0, 1))
    constant = np.abs(judged.constant - judged.true)[members]
    pictures = judged.pictures[members]
    return [
        error_row("one half of the judges for the other half", error, reference, pictures, how),
        error_row("split-half floor: the finite library alone", left, constant, pictures, how),
    ]


def _by_size(objective: ObjectObjective, judged: Judged, name: str, levels: Floats, how: Resampling) -> list[Row]:
    sizes = np.array([_side(objective, target) for target in judged.targets])
    return [
        judged.row(f"{name}, side {low} to {high} pixels", levels, how, members)
        for low, high in pairwise(SIDES)
        if len(members := np.flatnonzero((sizes >= low) & (sizes < high)))
    ]


def _side(objective: ObjectObjective, target: Target) -> float:
    x1, y1, x2, y2 = (float(value) for value in objective.of(target).boxes[target.at])
    return float(np.sqrt((x2 - x1) * (y2 - y1)))


def error_row(
    name: str, error: Floats, reference: Floats, pictures: Indices, how: Resampling, members: Indices | None = None
) -> Row:
    """Errors [N] in levels, and those of the best constant. Intervals are over pictures, as objects of one picture are
    alike."""
    chosen = np.arange(len(error)) if members is None else members
    _, of = np.unique(pictures[chosen], return_inverse=True)
    number = np.bincount(of).astype(np.float64)
    errors, references = (np.bincount(of, weights=values[chosen]) for values in (error, reference))

    def mean(items: npt.NDArray[np.intp]) -> float:
        return float(errors[items].sum() / number[items].sum())

    def skill(items: npt.NDArray[np.intp]) -> float:
        return 100 * (1 - float(errors[items].sum() / max(1e-9, references[items].sum())))

    figures: dict[str, Figure] = {
        "error, levels": figure(mean, len(number), how),
        "skill against the best constant": figure(skill, len(number), how),
    }
    return Row(name, figures)
