"""Every segment meets the target by itself: the QP of each, found by probing with the machines themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.plan import Segment
from vcm_ratecontrol.ratecontrol.parallel import in_parallel
from vcm_ratecontrol.ratecontrol.planning import Target
from vcm_ratecontrol.ratecontrol.probing import Probe, Prober
from vcm_ratecontrol.ratecontrol.search import QpSearch, SearchResult, SmrSample
from vcm_ratecontrol.ratecontrol.shift import pilot_mean_curve
from vcm_ratecontrol.scoring import Tasks

# Enough for the exact answer on every curve that falls.
MAX_PROBES = 7


@dataclass(frozen=True)
class PredictedSmr:
    """SMR at one QP as predicted, 0..1, with its 80 % band."""

    smr: float
    low: float
    high: float


@dataclass(frozen=True)
class SegmentChoice:
    """The QP found for one segment.

    reached: it meets the target, or all segments do in the mean where that was asked. probe: the measurement at the QP,
    None where nothing was measured. probes: how many encodes it took. predicted: SMR at the QP by the curves, None
    without any. seen: False where no machine sees anything, and the mean curve gave the QP. search: of a search.
    """

    segment: Segment
    reached: bool
    probe: Probe | None
    probes: int
    predicted: PredictedSmr | None = None
    seen: bool = True
    search: SearchResult | None = None


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
    prior: npt.NDArray[np.float64] | None = None,
) -> SegmentChoice:
    """Search one segment: the highest QP whose SMR meets the target, by the rule of `search`.

    prior: its predicted SMR at each QP of the range, by default the mean curve.
    """
    low, high = qp_range
    expected = level_prior(low, high, target.task) if prior is None else prior
    voters = max(1, prober.count(target.task))
    search = QpSearch(target.smr, low, high, max_probes=max_probes, prior=expected, machines=voters)
    measured: dict[int, Probe] = {}
    while (qp := search.next_probe()) is not None:
        probe = prober.probe(Segment(segment.start, segment.stop, qp))
        on_probe(probe)
        value = probe.smr(target.task)
        if value is None:
            fallback = int(low + np.flatnonzero(expected >= min(target.smr, expected[0]))[-1])
            return SegmentChoice(Segment(segment.start, segment.stop, fallback), True, None, 1, seen=False)
        measured[qp] = probe
        search.tell(qp, SmrSample(value, probe.margins(target.task)))
    result = search.best()
    chosen = Segment(segment.start, segment.stop, result.qp)
    prober.settle(chosen)
    return SegmentChoice(chosen, result.reached, measured[result.qp], len(measured), search=result)


def choose_all(
    segments: Sequence[range],
    prober: Prober,
    target: Target,
    qp_range: tuple[int, int],
    workers: int,
    on_probe: Callable[[Probe], None],
    on_segment: Callable[[SegmentChoice], None],
    max_probes: int = MAX_PROBES,
    priors: npt.NDArray[np.float64] | None = None,
) -> list[SegmentChoice]:
    """Search all segments in parallel, longest first; the choices in order of frames.

    priors: float64 [segments, QPs], see `choose_segment`.
    """

    def run(index: int) -> SegmentChoice:
        prior = None if priors is None else priors[index]
        choice = choose_segment(segments[index], prober, target, qp_range, on_probe, max_probes, prior)
        on_segment(choice)
        return choice

    order = sorted(range(len(segments)), key=lambda i: -len(segments[i]))
    found = in_parallel(run, order, workers, prober.pieces.group.close)
    return [found[index] for index in range(len(segments))]
