"""Evaluation of curve predictors: by unseen machines, by seen ones, on codecs that they were not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard
from vcm_ratecontrol.predictors.interface import Condition, Task
from vcm_ratecontrol.predictors.mean_curve import MeanCurves
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.curve_bank import Partition, TargetBank, halves
from vcm_ratecontrol.training.curve_exam import Answer, CurveExam, grouped
from vcm_ratecontrol.training.curve_targets import curve_targets
from vcm_ratecontrol.training.curve_validation import bits_error
from vcm_ratecontrol.training.evaluation.curve_report import Case, curve_table
from vcm_ratecontrol.training.evaluation.decision_report import decision_table
from vcm_ratecontrol.training.evaluation.figures import Figure, Report, Row, Table, correlation_figure, middle_figure
from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings
from vcm_ratecontrol.training.label_set import LabelSet
from vcm_ratecontrol.training.machine_split import MachineSplit
from vcm_ratecontrol.training.samples import Samples

Floats = npt.NDArray[np.float64]


def evaluate_curves(
    network: nn.Module,
    card: CheckpointCard,
    samples: Samples,
    machines: MachineSplit,
    settings: EvaluationSettings,
    device: torch.device,
    progress: Progress = SILENT,
) -> tuple[Report, list[tuple[Case, list[Answer]]]]:
    """The report, and what it was made from (for plots). Raises InputError when there is nothing to judge."""
    curves = next(module for module in network.modules() if isinstance(module, MeanCurves))
    rows = samples.of_split(settings.split)
    bank = TargetBank.of(samples.sets, [Partition(machines.judging, machines.choosing)])
    exam = CurveExam(
        card.config, samples, rows, bank, curves.conditions, counts=settings.counts, repeats=settings.repeats
    )
    exam.build(progress, lambda condition: substitute(condition, curves, settings.asked_as))
    answers = exam.answers(network, device, progress)
    if not answers:
        raise InputError(f"no {settings.split} picture has enough valid judges; annotate more, or name more --judges")
    tables: list[Table] = []
    cases: list[tuple[Case, list[Answer]]] = []
    for (at, _), group in grouped(answers, lambda a: (a.question.labels_at, a.question.task)):
        labels = samples.sets[at]
        case = _case(labels, machines, group[0])
        asked = str(curves.conditions[group[0].question.condition])
        title = case.name if asked == case.name else f"{case.name}, asked as {asked}"
        offset = bits_offset(labels, curves, group[0].question.condition, own=asked == case.name)
        tables.append(curve_table(case, group, settings.how, f"Curves: {title}"))
        progress.phase(f"decisions on {case.name}")
        tables.append(decision_table(case, group, offset, settings.how, f"Decisions: {title}"))
        tables.append(_bits_table(group, labels, offset, f"Bits: {title}"))
        cases.append((case, group))
    if machines.disjoint:
        tables.append(_machines_left_out(network, card, samples, rows, machines, answers, settings, device))
    facts = {
        "split": settings.split,
        "pictures": len(rows),
        "judging machines": list(machines.judging),
        "choosing machines": list(machines.choosing),
        "resamples": settings.how.resamples,
    }
    return Report(facts, tables), cases


def substitute(condition: Condition, curves: MeanCurves, asked_as: str = "") -> Condition:
    """The condition that a network is asked by: its own if it was trained for it, else one of the same task.

    Raises InputError when it knows none.
    """
    fitted = [c for c, known in zip(curves.conditions, curves.fitted.tolist(), strict=True) if known]
    wanted = [c for c in fitted if asked_as and f"{c.codec}/{c.coding_type}" == asked_as]
    for candidates in (wanted, fitted):
        if not asked_as and condition in fitted:
            return condition
        alike = [c for c in candidates if c.task == condition.task]
        if alike:
            return alike[0]
    raise InputError(f"the predictor was trained for {', '.join(map(str, fitted))}; nothing of it fits {condition}")


def bits_offset(labels: LabelSet, curves: MeanCurves, condition: int, *, own: bool) -> Floats:
    """What is added to log2 bits predicted for one codec to have those of another: the difference of the mean curves
    over the training pictures, float64 [Q]; 0 for the own."""
    if own:
        return np.zeros(len(labels.qps))
    mean = labels.log2_bits_per_pixel()[labels.rows_of("train")].mean(axis=0).astype(np.float64)
    theirs = curves.log2_bits[condition].cpu().numpy().astype(np.float64)[list(labels.qps)]
    offset: Floats = mean - theirs
    return offset


def _case(labels: LabelSet, machines: MachineSplit, answer: Answer) -> Case:
    question = answer.question
    others = curve_targets(labels, labels.machines_at(machines.choosing, question.task), labels.rows_of("train"))
    return Case(
        str(labels.condition(question.task)), labels, question.targets, others, question.pictures, machines.disjoint
    )


def _bits_table(answers: Sequence[Answer], labels: LabelSet, offset: Floats, title: str) -> Table:
    rows = [
        Row(name, {"error of log2 bits": Figure(bits_error(answer, labels, offset), None, None, len(answer.shift))})
        for name, answer in (("no machine at hand", answers[0]), ("all choosing machines at hand", answers[-1]))
    ]
    return Table(title, {"error of log2 bits": (3, "")}, rows)


def _machines_left_out(
    network: nn.Module,
    card: CheckpointCard,
    samples: Samples,
    rows: npt.NDArray[np.int64],
    machines: MachineSplit,
    unseen: Sequence[Answer],
    settings: EvaluationSettings,
    device: torch.device,
) -> Table:
    """Skill judged by machines of the training against skill judged by others, on the same pictures."""
    curves = next(module for module in network.modules() if isinstance(module, MeanCurves))
    first = samples.sets[0].verdicts
    names = [name for name in machines.choosing if name in first.machines]
    tasks = [first.tasks[first.machines.index(name)] for name in names]
    exam = CurveExam(
        card.config, samples, rows, TargetBank.of(samples.sets, halves(names, tasks)), curves.conditions,
        counts=settings.counts, repeats=1,
    )  # fmt: skip
    exam.build(SILENT, lambda condition: substitute(condition, curves, settings.asked_as))
    seen = exam.answers(network, device)
    lines = []
    for (at, task, count), group in grouped(unseen, _kind):
        alike = [answer for answer in seen if _kind(answer) == (at, task, count)]
        if not alike:
            continue
        by_seen = [correlation_figure([a.mean], a.true_shift, settings.how) for a in alike]
        figures = {
            "judged by unseen machines": correlation_figure([a.mean for a in group], group[0].true_shift, settings.how),
            "by machines of the training": middle_figure([f for f in by_seen if f.value is not None]),
        }
        name = f"{samples.sets[at].condition(task)}, {'all' if count > 1000 else count} at hand"
        lines.append(Row(name, figures))
    columns = {"judged by unseen machines": (2, ""), "by machines of the training": (2, "")}
    return Table("Machines left out: shift correlation", columns, lines)


def _kind(answer: Answer) -> tuple[int, Task, int]:
    return answer.question.labels_at, answer.question.task, answer.question.count
