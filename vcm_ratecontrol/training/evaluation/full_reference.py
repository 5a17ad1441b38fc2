"""Evaluation of full-reference SMR predictors at single coded QPs, with machines at hand and without, beside what is
known without looking at the coded picture (the shipped one-shot curve), other machines that were measured there, and
what the finite library of the judges leaves for nobody to predict."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard
from vcm_ratecontrol.predictors.inference import WEIGHTS_DIR, SMRCurvePredictor, load_predictor
from vcm_ratecontrol.predictors.interface import Sample
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.ratecontrol.shift import fit_shifts
from vcm_ratecontrol.training.curve_bank import Partition, draw_evidence
from vcm_ratecontrol.training.curve_exam import grouped
from vcm_ratecontrol.training.curve_targets import LEAST_VALID, LEVELS
from vcm_ratecontrol.training.data import TrainingData
from vcm_ratecontrol.training.evaluation.figures import (
    Figure,
    Report,
    Resampling,
    Row,
    Table,
    correlation_figure,
    mean_figure,
    middle_figure,
    share_figure,
)
from vcm_ratecontrol.training.evaluation.plots import Draw, scatter_chart
from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings
from vcm_ratecontrol.training.evaluation.split_half import Halves, between_halves, floor_figures, split_halves
from vcm_ratecontrol.training.full_reference_objective import FullReferenceObjective, Pair, answer
from vcm_ratecontrol.training.label_set import TASKS
from vcm_ratecontrol.training.views import whole

Floats = npt.NDArray[np.float64]

LEVELS_ASKED = (27, 33, 39, 45)
"""Levels whose nearest measured QPs are asked about: where curves fall."""

COUNTS = (0, 2)
"""Machines at hand that looked at original and coded picture."""

COLUMNS = {
    "MAE": (3, ""),
    "% of the mean curve's error": (0, " %"),
    "SMR correlation": (2, ""),
    "shift correlation": (2, ""),
}

FLOOR = "split-half floor: the finite library alone"
NOTE = (
    "The floor is half the error between two random halves of the judges: what is left to a perfect predictor that"
    " knows nothing of them, as their number is finite; its correlation is the highest that such a one can have."
)
SAME_NOTE = (
    "The judges also trained, and the machines at hand are among them: what they saw of the coded picture holds their"
    " own verdicts. So a predictor may lie below the floor, and there are no other machines to measure."
)

ONE_SHOT = "curve_small"

_AT_ONCE = 8


def evaluate_full_reference(
    network: nn.Module,
    card: CheckpointCard,
    data: TrainingData,
    settings: EvaluationSettings,
    device: torch.device,
    progress: Progress = SILENT,
) -> tuple[Report, dict[str, Draw]]:
    """The report and its charts. Raises InputError when there is nothing to judge."""
    parts = [Partition(data.machines.judging, data.machines.choosing)]
    objective = FullReferenceObjective(card.config, {"partitions": 1}, data, 0, parts)
    pairs = _pairs(objective, settings)
    if not pairs:
        raise InputError(f"no {settings.split} picture has enough valid judges; annotate more")
    predicted = _predict(network, objective, pairs, device, progress)
    said = _one_shot(objective, pairs, progress)
    if data.machines.disjoint:
        said = {"other machines, measured": _others(objective, pairs), **said}
    tables = []
    charts: dict[str, Draw] = {}
    for (at, task), group in grouped(range(len(pairs)), lambda i: _kind(objective, pairs[i])):
        name = f"{data.sets[at].name}/{task}"
        rows = _rows(objective, pairs, predicted, said, group, settings.how)
        note = NOTE if data.machines.disjoint else f"{NOTE} {SAME_NOTE}"
        tables.append(Table(f"Full reference: {name}", COLUMNS, rows, note))
        true = np.array([objective.true_smr(pairs[i], pairs[i].qp_at) for i in group])
        charts[f"smr-predicted-true-{task}"] = scatter_chart(predicted[group], true, name, "SMR")
    facts = {"split": settings.split, "pairs": len(pairs), "judging machines": list(data.machines.judging)}
    return Report(facts, tables), charts


def _rows(
    objective: FullReferenceObjective,
    pairs: list[Pair],
    predicted: Floats,
    said: dict[str, Floats],
    group: list[int],
    how: Resampling,
) -> list[Row]:
    """Of one condition: each QP's references and predictions, then their means over the QPs. said: what references
    say of all pairs; group: places of the condition's pairs."""
    found: list[tuple[int, str, dict[str, Figure]]] = []
    for (qp_at, count), members in grouped(group, lambda i: (pairs[i].qp_at, int(pairs[i].mask.sum()))):
        asked = [pairs[i] for i in members]
        if not count:
            halves, mean_error = _halves(objective, asked), _mean_error(objective, asked)
            found.append((qp_at, FLOOR, floor_figures(halves, mean_error, how)))
            found.append((qp_at, "one half of the judges for the other half", between_halves(halves, how)))
            for name, one in said.items():
                if np.isfinite(one[members]).any():
                    found.append((qp_at, name, _figures(objective, asked, one[members], how)))
        name = f"{count} machines at hand"
        found.append((qp_at, name, _figures(objective, asked, predicted[members], how)))
    qps = objective.samples.labels(pairs[group[0]].sample)[0].verdicts.qps
    rows = [Row(f"QP {qps[qp_at]}, {name}", figures) for qp_at, name, figures in found]
    asked_at = {qp_at for qp_at, _, _ in found}
    for name, members in grouped(range(len(found)), lambda i: found[i][1]):
        if len(members) == len(asked_at):
            of_all = [found[i][2] for i in members]
            means = {column: middle_figure([one[column] for one in of_all]) for column in of_all[0]}
            rows.append(Row(f"mean over QPs, {name}", means))
    return rows


def _kind(objective: FullReferenceObjective, pair: Pair) -> tuple[int, str]:
    return int(objective.samples.labels_at[pair.sample]), pair.task


def _pairs(objective: FullReferenceObjective, settings: EvaluationSettings) -> list[Pair]:
    rng = np.random.default_rng(0)
    rows = objective.samples.of_split(settings.split)
    rows = rows[: settings.most or len(rows)]
    tasks = TASKS if objective.conditions else [t for t in TASKS if t == objective.options.task]
    found = []
    for sample, task, level, count in itertools.product(rows.tolist(), tasks, LEVELS_ASKED, COUNTS):
        labels, row = objective.samples.labels(sample)
        qp_at = 1 + int(np.abs(np.array(labels.qps) - level).argmin())
        candidates = objective.asked[sample] & objective.may_tell[0, objective.samples.labels_at[sample]]
        mask = draw_evidence(rng, candidates[None], count)[0]
        view = whole(int(labels.widths[row]), int(labels.heights[row]))
        pair = Pair(sample, task, 0, qp_at, 0, mask, view)
        if np.isfinite(objective.true_smr(pair, qp_at)) and int(mask.sum()) == count:
            found.append(pair)
    return found


def _predict(
    network: nn.Module, objective: FullReferenceObjective, pairs: list[Pair], device: torch.device, progress: Progress
) -> Floats:
    predicted = np.zeros(len(pairs))
    keys = list(dict.fromkeys((pair.sample, pair.qp_at, pair.reference_at) for pair in pairs))
    objective.look_once(network, keys, device, progress)
    progress.phase("asking the network", len(pairs))
    for size, members in grouped(range(len(pairs)), lambda at: objective.sizes[pairs[at].sample]):
        for start in range(0, len(members), _AT_ONCE):
            part = members[start : start + _AT_ONCE]
            item = objective.item([pairs[at] for at in part], size)
            predicted[part] = answer(network, item.to(device)).smr.float().clamp(0, 1).cpu().numpy()
            progress.advance(len(part))
    return predicted


def _one_shot(objective: FullReferenceObjective, pairs: list[Pair], progress: Progress) -> dict[str, Floats]:
    """What the shipped `curve_small` says of the originals alone at each pair's level; nothing where it is not there or
    knows no such curves."""
    if not (WEIGHTS_DIR / f"{ONE_SHOT}.safetensors").is_file():
        return {}
    predictor = load_predictor(ONE_SHOT)
    assert isinstance(predictor, SMRCurvePredictor)
    found = np.zeros(len(pairs))
    asked = [(pair.sample, objective.samples.labels(pair.sample)[0].condition(pair.task)) for pair in pairs]
    if not {condition for _, condition in asked} <= {*predictor.known_conditions}:
        return {}
    progress.phase(f"asking {ONE_SHOT}", len(set(asked)))
    for (sample, condition), members in grouped(range(len(pairs)), lambda at: asked[at]):
        curve = predictor.predict([Sample(objective.samples.picture(sample), condition=condition)])[0]
        qps = objective.samples.labels(sample)[0].verdicts.qps
        found[members] = [curve.smr[qps[pairs[at].qp_at]] for at in members]
        progress.advance()
    return {f"`{ONE_SHOT}`, original alone": found}


def _others(objective: FullReferenceObjective, pairs: list[Pair]) -> Floats:
    """SMR over the machines that do not judge, at each pair's QP; NaN where too few of them are valid."""
    found = np.full(len(pairs), np.nan)
    for place, pair in enumerate(pairs):
        labels, row = objective.samples.labels(pair.sample)
        machines = labels.machines_at(objective.data.machines.choosing, pair.task)
        valid = labels.verdicts.valid[row, machines, pair.qp_at]
        if valid.sum() >= LEAST_VALID:
            found[place] = labels.verdicts.satisfied[row, machines, pair.qp_at][valid].mean()
    return found


def _halves(objective: FullReferenceObjective, pairs: list[Pair]) -> Halves:
    """The judges of pairs of one label set, task and QP, in halves."""
    labels, _ = objective.samples.labels(pairs[0].sample)
    machines = labels.machines_at(objective.data.machines.judging, pairs[0].task)
    at = np.ix_(objective.samples.row[[pair.sample for pair in pairs]], machines)
    verdicts = (labels.verdicts.valid, labels.verdicts.satisfied)
    valid, satisfied = (verdict[:, :, pairs[0].qp_at][at] for verdict in verdicts)
    return split_halves(valid, satisfied, [labels.verdicts.tasks[machine] for machine in machines])


def _mean_error(objective: FullReferenceObjective, pairs: list[Pair]) -> Floats:
    """Error of the judges' mean curve at pairs of one label set, task and QP."""
    at = int(objective.samples.labels_at[pairs[0].sample])
    qp = objective.samples.sets[at].verdicts.qps[pairs[0].qp_at]
    mean = objective.bank.targets[at, pairs[0].task, 0].mean[qp]
    error: Floats = np.abs(mean - np.array([objective.true_smr(pair, pair.qp_at) for pair in pairs]))
    return error


def _figures(
    objective: FullReferenceObjective, pairs: list[Pair], predicted: Floats, how: Resampling
) -> dict[str, Figure]:
    """One QP and number of machines. The shift is the one that the predicted SMR at that QP makes most probable."""
    there = np.isfinite(predicted)
    pairs, predicted = [pair for pair, known in zip(pairs, there, strict=True) if known], predicted[there]
    first = pairs[0]
    at = int(objective.samples.labels_at[first.sample])
    targets = objective.bank.targets[at, first.task, 0]
    qp = objective.samples.sets[at].verdicts.qps[first.qp_at]
    true = np.array([objective.true_smr(pair, pair.qp_at) for pair in pairs])
    rows = objective.samples.row[[pair.sample for pair in pairs]]
    shifts = fit_shifts(targets.mean, LEVELS, [qp], predicted[:, None])
    error = np.abs(predicted - true)
    return {
        "MAE": mean_figure(error, how),
        "% of the mean curve's error": share_figure(error, _mean_error(objective, pairs), how),
        "SMR correlation": correlation_figure([predicted], true, how),
        "shift correlation": correlation_figure([shifts], targets.shift[rows], how),
    }
