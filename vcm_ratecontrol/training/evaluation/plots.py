"""Charts of an evaluation: predicted against true, reliability of the stated doubt, error by QP and by size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import MissingToolError, OutputError
from vcm_ratecontrol.training.curve_exam import Answer
from vcm_ratecontrol.training.curve_targets import shifted_curves
from vcm_ratecontrol.training.evaluation.curve_report import Case, hand_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
Draw = Callable[["Figure"], None]

DPI = 110
SIZE_GROUPS = 4


def write_charts(charts: dict[str, Draw], folder: Path) -> list[Path]:
    """Draw each chart into a PNG of its name. Raises MissingToolError without matplotlib, OutputError."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingToolError("matplotlib: not installed; install vcm-ratecontrol[bench] for the plots") from error
    paths = []
    for name, draw in charts.items():
        chart = Figure(layout="constrained", dpi=DPI)
        draw(chart)
        path = folder / f"{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            chart.savefig(path, metadata={"Software": None})
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
        paths.append(path)
    return paths


def curve_charts(cases: Sequence[tuple[Case, Sequence[Answer]]]) -> dict[str, Draw]:
    """Charts of curve predictors, one panel per label set and task."""
    return {
        "shift-predicted-true": lambda figure: _panels(figure, cases, _scatter),
        "shift-reliability": lambda figure: _panels(figure, cases, _reliability),
        "error-by-qp": lambda figure: _panels(figure, cases, _error_by_qp),
        "error-by-size": lambda figure: _panels(figure, cases, _error_by_size),
    }


def _panels(
    figure: Figure,
    cases: Sequence[tuple[Case, Sequence[Answer]]],
    draw: Callable[[Axes, Case, Sequence[Answer]], None],
) -> None:
    figure.set_size_inches(4.2 * len(cases), 4.2)
    for axes, (case, answers) in zip(np.atleast_1d(figure.subplots(1, len(cases))), cases, strict=True):
        firsts = [answer for answer in answers if answer.question.repeat == 0]
        draw(axes, case, firsts)
        axes.set_title(f"{case.name}, {len(case.pictures)} pictures", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)


def _scatter(axes: Axes, case: Case, answers: Sequence[Answer]) -> None:
    for answer in (answers[0], answers[-1]):
        axes.scatter(answer.mean, case.true_shift, s=9, alpha=0.6, label=hand_name(answer.question.count))
    limit = float(np.abs(case.true_shift).max(initial=1.0))
    axes.plot([-limit, limit], [-limit, limit], color="grey", lw=1)
    axes.set(xlabel="predicted shift, QP", ylabel="true shift, QP")


def _reliability(axes: Axes, case: Case, answers: Sequence[Answer]) -> None:
    """Share of true shifts inside the central band of each stated share."""
    from scipy.stats import norm

    stated = np.linspace(0.05, 0.95, 19)
    for answer in answers:
        off = np.abs(case.true_shift - answer.mean) / answer.deviation
        found = [(off <= norm.ppf(0.5 + share / 2)).mean() for share in stated]
        axes.plot(stated, found, marker=".", label=hand_name(answer.question.count))
    axes.plot([0, 1], [0, 1], color="grey", lw=1)
    axes.set(xlabel="stated probability of the band", ylabel="share of pictures inside")


def _error_by_qp(axes: Axes, case: Case, answers: Sequence[Answer]) -> None:
    zero = np.zeros(len(case.pictures))
    known = {"mean curve": zero, "best shift": case.true_shift}
    known |= {hand_name(answer.question.count): answer.shift for answer in (answers[0], answers[-1])}
    for name, shift in known.items():
        error = np.abs(shifted_curves(case.judge.mean, shift, case.labels.qps) - case.true).mean(axis=0)
        axes.plot(case.labels.qps, error, marker=".", label=name)
    axes.set(xlabel="QP", ylabel="mean absolute error of SMR")


def _error_by_size(axes: Axes, case: Case, answers: Sequence[Answer]) -> None:
    area = (case.labels.widths * case.labels.heights)[case.pictures].astype(np.float64)
    groups = np.array_split(np.argsort(area, kind="stable"), min(SIZE_GROUPS, len(area)))
    names = [f"{area[group].mean() / 1e3:.0f}" for group in groups]
    known = {"mean curve": np.zeros(len(area))}
    known |= {hand_name(answer.question.count): answer.shift for answer in (answers[0], answers[-1])}
    places = np.arange(len(groups))
    for at, (name, shift) in enumerate(known.items()):
        error = case.error(shift, case.judge.mean)
        axes.bar(places + 0.25 * (at - 1), [error[group].mean() for group in groups], 0.25, label=name)
    axes.set_xticks(places, names)
    axes.set(xlabel="picture size, thousand pixels", ylabel="mean absolute error of SMR")


def scatter_chart(predicted: Floats, true: Floats, title: str, what: str, most: int = 5000) -> Draw:
    """Predicted against true values, as a density where there are many (at most so many points are drawn)."""

    def draw(figure: Figure) -> None:
        step = max(1, len(true) // most)
        figure.set_size_inches(4.6, 4.2)
        axes = figure.subplots()
        axes.scatter(predicted[::step], true[::step], s=6, alpha=0.35)
        low, high = float(min(predicted.min(), true.min())), float(max(predicted.max(), true.max()))
        axes.plot([low, high], [low, high], color="grey", lw=1)
        axes.set(xlabel=f"predicted {what}", ylabel=f"true {what}", title=f"{title}, n = {len(true)}")
        axes.grid(alpha=0.3)

    return draw
