"""Probing in rounds: plan by the curves, probe what is planned, let the probes move the curves, plan again.

Where a predictor scores the probes, a plan is probed again only where it has changed. Where machines that count do,
each round measures the QPs that promise most (`exploration`): luck that is measured is real. Not so where
items have more frames than are looked at: there the luckiest sample would be chosen, and the other frames would miss
the target. Such items are probed where the plan is, and what is chosen is looked at again, on other frames; from then
on it is these that say what was measured there, as they did not choose, and the plan changes if they miss the target.

A probe codes an item exactly as the final file does, so the last probe of an item is its final encode: an item whose
first probe is accepted costs nothing more than plain coding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vcm_ratecontrol.ratecontrol.exploration import MIN_GAP, next_levels
from vcm_ratecontrol.ratecontrol.planning import (
    NEAR_QP,
    Curves,
    Flags,
    Plan,
    ProbePoint,
    Target,
    among_probed,
    contradicts,
    lowered,
    plan,
    refined,
    replan,
    without_margin,
)
from vcm_ratecontrol.scoring import Tasks

# How much more than the target each further correction aims at: curves that proved too hopeful are doubted.
_AIM_STEP = 0.01
# Plans that are looked at again before the last one is taken as it is.
_SECOND_LOOKS = 10


class ProbeLike(Protocol):
    """What a probe gives: `probing.Probe` of machines, `reference.PredictedProbe` of a predictor."""

    @property
    def bits(self) -> int: ...

    def smr(self, task: Tasks) -> float | None: ...


P = TypeVar("P", bound=ProbeLike)


@dataclass(frozen=True, eq=False)
class Settled(Generic[P]):
    """The outcome for I items.

    qps: int64 [I]; reached: bool [I]; probes: of each item by QP. predicted: the curves, with a predictor's
    probes in them; with machines as judges the one-shot curves, for comparison with what was measured.
    contradictory: number of items of which the predictor said that a higher QP is better.
    """

    qps: NDArray[np.int64]
    reached: Flags
    probes: tuple[Mapping[int, P], ...]
    predicted: Curves
    contradictory: int


class Rounds(Generic[P]):
    """One run of the rounds over all items of a job."""

    def __init__(
        self,
        curves: Curves,
        target: Target,
        probe_all: Callable[[Sequence[tuple[int, int]]], Sequence[P]],
        *,
        judges: bool,
        look_again: Callable[[Sequence[tuple[int, int]]], Sequence[P]] | None = None,
        step: float = 1.0,
    ) -> None:
        """probe_all: probes (item, QP) pairs, in parallel as it likes. judges: the probes are made by the machines that
        count, and the target must be met as measured. look_again: with judges, where probes look at a sample of an
        item's frames: probes of coded (item, QP) pairs at other frames. step: QPs between two columns of the curves,
        where they are not those of all QPs but counted from 0."""
        self._first, self._target, self._probe_all, self._judges = curves, target, probe_all, judges
        self._look_again = look_again if judges else None
        self._min_gap, self._near = MIN_GAP / step, int(NEAR_QP / step)
        self._curves = curves
        self._probes: list[dict[int, P]] = [{} for _ in range(len(curves))]
        self._points: list[dict[int, ProbePoint]] = [{} for _ in range(len(curves))]
        self._looked: set[tuple[int, int]] = set()

    def run(self, probes: int) -> Settled[P]:
        """probes: most for an item; 0 trusts the curves. With judges under `mean` the last corrections, which make
        the target met as measured, may take more."""
        planned = plan(self._curves, self._target)
        explores = self._judges and self._look_again is None and probes > 1 and bool(self._first.seen.any())
        qps = self._promising(probes) if explores else planned.qps
        for left in range(probes - 1, -1, -1):
            if not self._probe(qps) or not left:
                break
            qps = self._promising(left) if explores else self._replanned()
        if probes:
            planned = self._settled() if self._judges else self._affordable()
        return Settled(
            planned.qps,
            planned.reached if self._judges and probes else self._told(planned),
            tuple(self._probes),
            self._first if self._judges else self._curves,
            0 if self._judges else sum(contradicts(points) for points in self._points),
        )

    def _told(self, planned: Plan) -> Flags:
        """Where the target is reached by what is predicted, as it stands: a margin may be out of reach."""
        return planned.reached | self._fixed(without_margin(self._curves), planned.qps).reached

    def _replanned(self) -> NDArray[np.int64]:
        curves = refined(self._first, self._points, judges=self._judges, nearby=True)
        return replan(curves, self._target, self._points, self._near).qps

    def _promising(self, left: int) -> NDArray[np.int64]:
        """The QP of every item that is worth measuring next; one that was measured where nothing is left to measure.
        left: rounds that are left."""
        rows = np.flatnonzero(self._first.seen)
        curves = refined(self._first, self._points, judges=True, pin=False).pick(rows)
        tried = np.array([[int(qp) in self._points[row] for qp in curves.qps] for row in rows])
        share = curves.weights / curves.weights.sum()
        grid = curves.qps.astype(np.float64)
        columns = next_levels(curves.smr, curves.bits, grid, tried, share, self._target.smr, left, self._min_gap)
        qps = np.array([next(iter(points), self._first.qps[0]) for points in self._points], np.int64)
        qps[rows] = np.where(columns >= 0, curves.qps[columns], qps[rows])
        return qps

    def _affordable(self) -> Plan:
        """The plan over QPs that are coded already, lowered by the curves where it would miss the target."""
        planned = among_probed(self._curves, self._target, self._points)
        if planned.reached.all():
            return planned
        qps = lowered(self._curves, self._target, planned.qps, self._target.smr)
        return self._fixed(self._curves, qps)

    def _settled(self) -> Plan:
        """The proven plan; with a second look, the first one that meets the target by that, or the last."""
        for _ in range(_SECOND_LOOKS):
            planned = self._proven()
            if self._look_again is None:
                break
            new = self._look(planned.qps)
            planned = self._fixed(self._curves, planned.qps)
            if planned.reached.all() or not new:
                break
        return planned

    def _look(self, qps: NDArray[np.int64]) -> bool:
        """Look again at what is planned; False when all of it was looked at twice."""
        assert self._look_again is not None
        todo = [(item, int(qp)) for item, qp in enumerate(qps) if int(qp) in self._probes[item]]
        todo = [pair for pair in todo if pair not in self._looked]
        for (item, qp), probe in zip(todo, self._look_again(todo), strict=True):
            if probe.smr(self._target.task) is not None:
                self._take(item, qp, probe)
        self._looked.update(todo)
        self._curves = refined(self._first, self._points, judges=True)
        return bool(todo)

    def _proven(self) -> Plan:
        """The plan over measured QPs; QPs are lowered and measured until it meets the target, or none is left."""
        aim = self._target.smr
        while True:
            planned = among_probed(self._curves, self._target, self._points)
            if planned.reached.all():
                return planned
            qps = lowered(self._curves, self._target, planned.qps, min(1.0, aim))
            if not self._probe(qps):
                return planned
            aim += _AIM_STEP

    def _fixed(self, curves: Curves, qps: NDArray[np.int64]) -> Plan:
        return plan(curves, self._target, curves.qps[None] == qps[:, None])

    def _probe(self, qps: NDArray[np.int64]) -> bool:
        """Probe the items at the QPs that are new; False when all are known."""
        seen = self._curves.seen
        todo = [(item, int(qp)) for item, qp in enumerate(qps) if seen[item] and int(qp) not in self._probes[item]]
        for (item, qp), probe in zip(todo, self._probe_all(todo), strict=True):
            self._take(item, qp, probe)
        self._curves = refined(self._first, self._points, judges=self._judges)
        return bool(todo)

    def _take(self, item: int, qp: int, probe: P) -> None:
        self._probes[item][qp] = probe
        self._points[item][qp] = ProbePoint(qp, probe.smr(self._target.task), probe.bits)
