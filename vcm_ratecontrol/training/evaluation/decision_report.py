"""What predicted curves are worth: bits saved by pooling, and how far single pictures miss their target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.ratecontrol.shift import TRANSFER_SHRINK
from vcm_ratecontrol.training.curve_exam import Answer
from vcm_ratecontrol.training.curve_targets import shifted_curves
from vcm_ratecontrol.training.curve_validation import predicted_bits
from vcm_ratecontrol.training.decisions import TARGETS, Truth, each, pooled, probed, saving, shortfall
from vcm_ratecontrol.training.evaluation.curve_report import Case, hand_name
from vcm_ratecontrol.training.evaluation.figures import Figure, Resampling, Row, Table, figure, mean_figure

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Believed = tuple[Floats, Floats, Floats]
"""SMR and bits as a planner believes them, float64 [n, Q] each, and by how many QPs the curves may be off, [n]."""

MOST_PROBES = 3

COLUMNS = {f"pooled, SMR {target}": (1, " %") for target in TARGETS}
EACH_COLUMNS = {f"shortfall, SMR {target}": (3, "") for target in TARGETS}
NOTE = (
    "Bits saved against the best single QP with the same true mean SMR of the judges; 'each' is the mean by which a"
    " picture falls short when each is to meet the target by itself; predictions keep a margin then."
)


def decision_table(case: Case, answers: Sequence[Answer], offset: Floats, how: Resampling, title: str) -> Table:
    """Pooling with each kind of knowledge. offset: [Q], added to predicted log2 bits (0 for the network's own)."""
    truth = Truth(case.true, case.labels.verdicts.bits[case.pictures, 1:].astype(np.float64), case.labels.qps)
    qps, own = case.labels.qps, case.others.mean
    flat = np.zeros(len(case.pictures))

    def curves(mean: Floats, shift: Floats) -> Believed:
        return shifted_curves(mean, shift, qps), truth.bits, flat

    others = {"other machines measured: their shift, true bits": [curves(own, TRANSFER_SHRINK * case.other_shift)]}
    known: dict[str, list[Believed]] = {
        "blind: mean curve, true bits": [curves(own, flat)],
        **(others if case.disjoint else {}),
        "the judges' best shift, true bits": [curves(case.judge.mean, case.true_shift)],
        "known machines: all measured": [(truth.smr, truth.bits, flat)],
    }
    rows = [_row(truth, name, believed, how) for name, believed in known.items()]
    for count in dict.fromkeys(answer.question.count for answer in answers):
        drawn = [answer for answer in answers if answer.question.count == count]
        believed = [
            (shifted_curves(own, answer.shift, qps), predicted_bits(answer, case.labels, offset), answer.deviation)
            for answer in drawn
        ]
        rows.append(_row(truth, hand_name(count), believed, how))
        true_bits = [(smr, truth.bits, off) for smr, _, off in believed]
        rows.append(_row(truth, f"{hand_name(count)}, true bits", true_bits, how))
        rows.append(_probed_row(truth, hand_name(count), believed[:1], how))
    return Table(title, {**COLUMNS, **EACH_COLUMNS}, rows, NOTE)


def _row(truth: Truth, name: str, believed: Sequence[Believed], how: Resampling) -> Row:
    figures: dict[str, Figure] = {}
    for target in TARGETS:
        choices = [pooled(truth, smr, bits, target) for smr, bits, _ in believed]
        figures[f"pooled, SMR {target}"] = saving_figure(truth, choices, how)
        missed = np.mean([shortfall(truth, each(truth, *b, target), target) for b in believed], axis=0)
        figures[f"shortfall, SMR {target}"] = mean_figure(missed, how)
    return Row(name, figures)


def _probed_row(truth: Truth, name: str, believed: Sequence[Believed], how: Resampling) -> Row:
    """Known machines: from predicted curves, at most three measured QPs per picture."""
    figures = {}
    for target in TARGETS:
        choices = [probed(truth, smr, bits, target, MOST_PROBES) for smr, bits, _ in believed]
        figures[f"pooled, SMR {target}"] = saving_figure(truth, choices, how)
    return Row(f"known machines, {MOST_PROBES} probes from: {name}", figures)


def saving_figure(truth: Truth, choices: Sequence[Indices], how: Resampling) -> Figure:
    """Mean saving (percent) over several draws, with its interval over pictures."""
    rows = np.arange(len(truth.smr))

    def statistic(items: npt.NDArray[np.intp]) -> float:
        sample = Truth(truth.smr[items], truth.bits[items], truth.qps)
        return float(np.mean([saving(sample, choice[items]) for choice in choices]))

    checked: Callable[[npt.NDArray[np.intp]], float] = statistic
    return figure(checked, len(rows), how)
