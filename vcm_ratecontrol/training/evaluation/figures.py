"""Figures with bootstrap intervals over pictures, and how they are written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.bench.bootstrap import bootstrap

Floats = npt.NDArray[np.float64]
Statistic = Callable[[npt.NDArray[np.intp]], float]


@dataclass(frozen=True)
class Figure:
    """An estimate with its interval (95 %), None where there is too little to tell. n: pictures or objects."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def text(self, digits: int = 2, unit: str = "") -> str:
        """Such as '0.52 (0.41 to 0.60)'."""
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f}{unit}"
        return f"{self.value:.{digits}f}{unit} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True)
class Resampling:
    """How intervals are made. resamples: of the bootstrap, 0 for none."""

    seed: int = 0
    resamples: int = 500


def figure(statistic: Statistic, n: int, how: Resampling) -> Figure:
    """The statistic of item numbers, over n items. NaN gives no estimate; resamples that are NaN are left out."""
    if n < 1:
        return Figure(None, None, None, 0)
    estimate = float(statistic(np.arange(n)))
    if not np.isfinite(estimate):
        return Figure(None, None, None, n)
    if n < 2 or not how.resamples:
        return Figure(estimate, None, None, n)
    draws: list[float] = []

    def kept(items: npt.NDArray[np.intp]) -> float:
        draws.append(float(statistic(items)))
        return draws[-1] if np.isfinite(draws[-1]) else 0.0

    bootstrap(kept, n, seed=how.seed, n_resamples=how.resamples)
    finite = np.array(draws[1:])[np.isfinite(draws[1:])]
    if len(finite) < how.resamples / 2:
        return Figure(estimate, None, None, n)
    low, high = np.quantile(finite, [0.025, 0.975])
    return Figure(estimate, float(low), float(high), n)


def mean_figure(values: Floats, how: Resampling) -> Figure:
    """Mean of one value per item."""
    return figure(lambda items: float(values[items].mean()), len(values), how)


def share_figure(errors: Floats, reference: Floats, how: Resampling) -> Figure:
    """Percent that the mean error is of the mean reference error, one value per item each."""
    return figure(lambda items: 100 * float(errors[items].mean() / reference[items].mean()), len(errors), how)


def correlation_figure(predicted: Sequence[Floats], true: Floats, how: Resampling) -> Figure:
    """Mean over several draws of the correlation of the predicted with the true values."""

    def statistic(items: npt.NDArray[np.intp]) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.mean([np.corrcoef(one[items], true[items])[0, 1] for one in predicted]))

    if any(one.std() < 1e-9 for one in predicted) or true.std() < 1e-9:
        return Figure(None, None, None, len(true))
    return figure(statistic, len(true), how)


def middle_figure(figures: Sequence[Figure]) -> Figure:
    """Mean of several estimates, such as at several QPs; its interval is the mean of theirs, as for estimates that err
    together: they are of the same pictures. n: the least of theirs."""
    values = [one.value for one in figures if one.value is not None]
    if not values or len(values) < len(figures):
        return Figure(None, None, None, 0)
    lows, highs = ([v for v in ends if v is not None] for ends in zip(*((f.low, f.high) for f in figures), strict=True))
    n = min(one.n for one in figures)
    if len(lows) < len(values) or len(highs) < len(values):
        return Figure(float(np.mean(values)), None, None, n)
    return Figure(float(np.mean(values)), float(np.mean(lows)), float(np.mean(highs)), n)


@dataclass(frozen=True)
class Row:
    """One line of a table: its name and its figures by column."""

    name: str
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Table:
    """Rows of one kind. columns: title -> (digits, unit)."""

    title: str
    columns: dict[str, tuple[int, str]]
    rows: list[Row]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        rows = {row.name: {name: one.to_json() for name, one in row.figures.items()} for row in self.rows}
        return {"title": self.title, "note": self.note, "rows": rows}

    def markdown(self) -> str:
        lines = [f"### {self.title}", ""]
        if self.note:
            lines += [self.note, ""]
        lines += [f"| | {' | '.join(self.columns)} |", f"|---|{'---:|' * len(self.columns)}"]
        for row in self.rows:
            cells = [
                row.figures[name].text(digits, unit) if name in row.figures else "-"
                for name, (digits, unit) in self.columns.items()
            ]
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Report:
    """All tables of an evaluation, and the facts that they rest on."""

    facts: dict[str, Any]
    tables: list[Table] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"facts": self.facts, "tables": [table.to_json() for table in self.tables]}

    def markdown(self) -> str:
        facts = "".join(f"- {name}: {_plain(value)}\n" for name, value in self.facts.items())
        return facts + "\n" + "\n".join(table.markdown() for table in self.tables)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
