"""Measured mode: the QP of each segment, found by probing with the machines themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.plan import Segment
from vcm_ratecontrol.ratecontrol.probing import Probe, Prober
from vcm_ratecontrol.ratecontrol.search import QpSearch, SearchResult, SmrSample
from vcm_ratecontrol.ratecontrol.shift import pilot_mean_curve
from vcm_ratecontrol.scoring import Tasks

MAX_PROBES = 7


@dataclass(frozen=True)
class Target:
    """What the user asks: a Satisfied Machine Ratio of at least `smr` (0..1) over the machines of a task."""

    smr: float
    task: Tasks = "both"


@dataclass(frozen=True)
class SegmentChoice:
    """The QP found for one segment.

    search: None when no machine is valid on any sampled frame: there is nothing to recognise, and the QP is the
    one that the prior mean curve gives. probe: the measurement at the QP, None then too. probes: how many
    encodes it took.
    """

    segment: Segment
    search: SearchResult | None
    probe: Probe | None
    probes: int

    @property
    def reached(self) -> bool:
        return self.search is None or self.search.reached


def level_prior(qp_min: int, qp_max: int, task: Tasks) -> npt.NDArray[np.float64]:
    """Mean SMR at each QP of an encoder's range, from the pilot's curve over the 64 VVC levels.

    HEVC's range of 52 QPs is joined to the levels by equal quality: in the same units of quantiser step, so
    QP for QP; what lies beyond is not reachable.
    """
    levels = np.arange(qp_min, qp_max + 1, dtype=np.float64)
    return pilot_mean_curve(levels, "detection" if task == "detection" else "both")


def choose_segment(
    segment: range,
    prober: Prober,
    target: Target,
    qp_range: tuple[int, int],
    on_probe: Callable[[Probe], None],
    max_probes: int = MAX_PROBES,
) -> SegmentChoice:
    """Search one segment: the highest QP whose SMR meets the target, by the rule of `search`."""
    low, high = qp_range
    prior = level_prior(low, high, target.task)
    voters = max(1, prober.count(target.task))
    search = QpSearch(target.smr, low, high, max_probes=max_probes, prior=prior, machines=voters)
    measured: dict[int, Probe] = {}
    while (qp := search.next_probe()) is not None:
        probe = prober.probe(Segment(segment.start, segment.stop, qp))
        on_probe(probe)
        value = probe.smr(target.task)
        if value is None:
            fallback = int(low + np.flatnonzero(prior >= min(target.smr, prior[0]))[-1])
            return SegmentChoice(Segment(segment.start, segment.stop, fallback), None, None, 1)
        measured[qp] = probe
        search.tell(qp, SmrSample(value, probe.margins(target.task)))
    result = search.best()
    chosen = Segment(segment.start, segment.stop, result.qp)
    prober.settle(chosen)
    return SegmentChoice(chosen, result, measured[result.qp], len(measured))


def choose_all(
    segments: Sequence[range],
    prober: Prober,
    target: Target,
    qp_range: tuple[int, int],
    workers: int,
    on_probe: Callable[[Probe], None],
    on_segment: Callable[[SegmentChoice], None],
    max_probes: int = MAX_PROBES,
) -> list[SegmentChoice]:
    """Search all segments in parallel, longest first; the choices in order of frames."""
    order = sorted(range(len(segments)), key=lambda i: -len(segments[i]))
    with ThreadPoolExecutor(workers) as pool:

        def run(index: int) -> SegmentChoice:
            choice = choose_segment(segments[index], prober, target, qp_range, on_probe, max_probes)
            on_segment(choice)
            return choice

        futures = {index: pool.submit(run, index) for index in order}
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            for future in futures.values():
                future.cancel()
            prober.pieces.group.close()
            raise
        return [futures[index].result() for index in range(len(segments))]
