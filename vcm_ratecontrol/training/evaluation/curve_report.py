"""Error of predicted SMR curves and shifts, beside the references on the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.ratecontrol.shift import TRANSFER_SHRINK
from vcm_ratecontrol.training.curve_exam import ALL, Answer
from vcm_ratecontrol.training.curve_targets import CurveTargets, shifted_curves
from vcm_ratecontrol.training.evaluation.figures import (
    Figure,
    Resampling,
    Row,
    Table,
    correlation_figure,
    share_figure,
)
from vcm_ratecontrol.training.label_set import LabelSet

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

COLUMNS = {
    "SMR error, % of the mean curve's": (0, " %"),
    "with the own mean curve": (0, " %"),
    "mean absolute error": (3, ""),
    "shift correlation": (2, ""),
}

AMONG_JUDGES = "The machines at hand are among the judges; there are no other machines that could be measured."


@dataclass(frozen=True, eq=False)
class Case:
    """Pictures of one label set and task, judged by some machines, with other machines measured beside them.

    judge, others: targets over the judges and over the choosing machines; pictures: rows of the label set that
    the judges can judge. name: such as 'vvc/still/both'. disjoint: the two are not the same machines.
    """

    name: str
    labels: LabelSet
    judge: CurveTargets
    others: CurveTargets
    pictures: Indices
    disjoint: bool = True

    @property
    def true(self) -> Floats:
        """float64 [n, Q]."""
        return self.judge.smr[self.pictures]

    @property
    def true_shift(self) -> Floats:
        return self.judge.shift[self.pictures]

    def error(self, shifts: Floats, mean: Floats) -> Floats:
        """Mean absolute error of each picture when `mean` [64] is shifted: float64 [n]."""
        error: Floats = np.abs(shifted_curves(mean, shifts, self.labels.qps) - self.true).mean(axis=1)
        return error

    @property
    def other_shift(self) -> Floats:
        """Shift that the other machines measured; 0 where too few of them are valid."""
        return np.nan_to_num(self.others.shift[self.pictures], nan=0.0)


def curve_table(case: Case, answers: Sequence[Answer], how: Resampling, title: str) -> Table:
    """References first, then the predictor with each number of machines at hand. answers: of this case."""
    zero = np.zeros(len(case.pictures))
    reference = case.error(zero, case.judge.mean)
    rows = [
        _row(case, "mean curve of the judges", [zero], reference, how),
        _row(case, "best shift (needs the judges)", [case.true_shift], reference, how),
    ]
    if case.disjoint:
        measured = [TRANSFER_SHRINK * case.other_shift]
        rows += [_row(case, "other machines, measured: their shift", measured, reference, how)]
        rows += [_raw_row(case, reference, how)]
    for count in dict.fromkeys(answer.question.count for answer in answers):
        drawn = [answer for answer in answers if answer.question.count == count]
        rows.append(_row(case, hand_name(count), [a.shift for a in drawn], reference, how, [a.mean for a in drawn]))
    return Table(title, COLUMNS, rows, "" if case.disjoint else AMONG_JUDGES)


def hand_name(count: int) -> str:
    """How many machines are at hand, for people."""
    if count == 0:
        return "predicted, no machine at hand"
    if count == ALL:
        return "predicted, all choosing machines at hand"
    return f"predicted, {count} machine{'s' if count > 1 else ''} at hand"


def _row(
    case: Case,
    name: str,
    shifts: Sequence[Floats],
    reference: Floats,
    how: Resampling,
    unshrunk: Sequence[Floats] | None = None,
) -> Row:
    """Errors are means over the draws; the correlation is that of the unshrunk shifts where they are given."""
    on_judges = np.mean([case.error(one, case.judge.mean) for one in shifts], axis=0)
    own = np.mean([case.error(one, case.others.mean) for one in shifts], axis=0)
    figures = {
        "SMR error, % of the mean curve's": share_figure(on_judges, reference, how),
        "with the own mean curve": share_figure(own, reference, how),
        "mean absolute error": Figure(float(on_judges.mean()), None, None, len(on_judges)),
        "shift correlation": correlation_figure(list(unshrunk or shifts), case.true_shift, how),
    }
    return Row(name, figures)


def _raw_row(case: Case, reference: Floats, how: Resampling) -> Row:
    """The other machines' own SMR taken for the judges', unshrunk; the mean curve where too few are valid."""
    raw = case.others.smr[case.pictures]
    raw = np.where(np.isfinite(raw), raw, shifted_curves(case.others.mean, np.zeros(1), case.labels.qps))
    error = np.abs(raw - case.true).mean(axis=1)
    figures = {
        "SMR error, % of the mean curve's": share_figure(error, reference, how),
        "mean absolute error": Figure(float(error.mean()), None, None, len(error)),
    }
    return Row("other machines, measured: their SMR as it is", figures)
