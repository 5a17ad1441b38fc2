"""Evaluation of object-wise JRD predictors: error in levels, and skill against the best constant level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vcm_ratecontrol.jrd_rules import published_window_rules
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard
from vcm_ratecontrol.predictors.dtjrd import ObjectJRDClassifier, decode_level
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.curve_bank import Partition
from vcm_ratecontrol.training.data import TrainingData
from vcm_ratecontrol.training.evaluation.figures import Figure, Report, Resampling, Row, Table, figure, mean_figure
from vcm_ratecontrol.training.evaluation.plots import Draw, scatter_chart
from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings
from vcm_ratecontrol.training.object_objective import ObjectObjective, Target

Floats = npt.NDArray[np.float64]

COLUMNS = {"error, levels": (2, ""), "skill against the best constant": (1, " %")}
SIDES = (0, 48, 96, 192, 10_000)
"""Edges of the groups by object size: square root of the box's area, pixels as annotated."""

MOST_FULL_REFERENCE = 200
"""Objects of a full-reference network, which looks at every measured QP, when nobody says how many."""

_AT_ONCE = 32


def evaluate_objects(
    network: nn.Module,
    card: CheckpointCard,
    data: TrainingData,
    settings: EvaluationSettings,
    device: torch.device,
    progress: Progress = SILENT,
) -> tuple[Report, dict[str, Draw]]:
    """The report and its charts. The best constant is that of the judged objects themselves: hard to beat."""
    parts = [Partition(data.machines.judging, data.machines.choosing)]
    values = {name: value for name, value in card.config.training.items() if name in ("ratio", "least_machines")}
    objective = ObjectObjective(card.config, values, data, 0, parts)
    most = settings.most or (MOST_FULL_REFERENCE if objective.pairs else 0)
    targets = objective.judged(settings.split, most)
    true = np.array([int(objective.of(t).jrd[t.at, 0]) for t in targets], np.float64)
    sizes = np.array([_side(objective, t) for t in targets])
    constant = float(np.median(true))
    rows = []
    charts: dict[str, Draw] = {}
    for count in (0,) if objective.pairs else (0, 1, 2):
        rng = np.random.default_rng(count)
        asked = [replace(t, told=objective.told(rng, t.labels_at, t.partition, count)) for t in targets]
        progress.phase(f"asking with {count} detectors at hand", len(asked))
        predicted = _levels(network, objective, asked, device, progress)
        name = f"{count} detectors at hand"
        rows += [_row(name, predicted, true, constant, np.arange(len(true)), settings.how)]
        if not count:
            rows += [
                _row(f"{name}, side {low} to {high} pixels", predicted, true, constant, members, settings.how)
                for low, high in pairwise(SIDES)
                if len(members := np.flatnonzero((sizes >= low) & (sizes < high)))
            ]
            charts["jrd-predicted-true"] = scatter_chart(predicted, true, card.config.name, "JRD, level")
    kind = "full reference" if objective.pairs else "no reference"
    note = (
        f"Judged by {len(data.machines.judging)} machines at ratio {objective.options.ratio}; constant {constant:.0f}."
    )
    facts = {"split": settings.split, "objects": len(targets), "judging machines": list(data.machines.judging)}
    return Report(facts, [Table(f"JRD of objects, {kind}", COLUMNS, rows, note)]), charts


def _side(objective: ObjectObjective, target: Target) -> float:
    x1, y1, x2, y2 = (float(value) for value in objective.of(target).boxes[target.at])
    return float(np.sqrt((x2 - x1) * (y2 - y1)))


def _levels(
    network: nn.Module, objective: ObjectObjective, targets: Sequence[Target], device: torch.device, progress: Progress
) -> Floats:
    """Predicted level of each object: float64 [n]."""
    if objective.pairs:
        return _by_rule(network, objective, targets, device, progress)
    assert isinstance(network, ObjectJRDClassifier)
    found = []
    for start in range(0, len(targets), _AT_ONCE):
        item = objective.item(targets[start : start + _AT_ONCE])
        logits = network(item.batch.to(device)).logits.float().cpu()
        found.append(decode_level(logits, network.decode).numpy())
        progress.advance(len(logits))
    return np.concatenate(found).astype(np.float64)


def _by_rule(
    network: nn.Module, objective: ObjectObjective, targets: Sequence[Target], device: torch.device, progress: Progress
) -> Floats:
    """Full reference: asked at every measured QP, the answers become a level by the published rule."""
    levels = np.zeros(len(targets))
    for at, target in enumerate(targets):
        qps = objective.data.sets[target.labels_at].qps
        versions = [replace(target, qp_at=1 + column) for column in range(len(qps))]
        item = objective.item(versions)
        lost = network(item.batch.to(device)).logits.float().argmax(dim=1).cpu().numpy()
        levels[at] = int(published_window_rules((lost == 0)[None], qps)[0])
        progress.advance()
    return levels


def _row(
    name: str, predicted: Floats, true: Floats, constant: float, members: npt.NDArray[np.int64], how: Resampling
) -> Row:
    error, reference = np.abs(predicted - true)[members], np.abs(constant - true)[members]

    def skill(items: npt.NDArray[np.intp]) -> float:
        return 100 * (1 - float(error[items].mean() / max(1e-9, reference[items].mean())))

    figures: dict[str, Figure] = {
        "error, levels": mean_figure(error, how),
        "skill against the best constant": figure(skill, len(error), how),
    }
    return Row(name, figures)
