"""The QP of every segment of a job: one-shot curves first, then probes, by whoever is there to judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codec_wrappers.plan import Segment
from vcm_ratecontrol.progress import Progress
from vcm_ratecontrol.ratecontrol.judges import Judges
from vcm_ratecontrol.ratecontrol.measured import PredictedSmr, SegmentChoice, choose_all
from vcm_ratecontrol.ratecontrol.parallel import in_parallel
from vcm_ratecontrol.ratecontrol.pieces import Pieces
from vcm_ratecontrol.ratecontrol.planning import Curves, Target, joined, with_margin
from vcm_ratecontrol.ratecontrol.predicted import Witness, label_levels, predict_segments
from vcm_ratecontrol.ratecontrol.probe_cache import ProbeCache, content_hash
from vcm_ratecontrol.ratecontrol.probing import Probe, Prober
from vcm_ratecontrol.ratecontrol.reference import count_bits
from vcm_ratecontrol.ratecontrol.rounds import ProbeLike, Rounds, Settled

if TYPE_CHECKING:
    from vcm_ratecontrol.request import EncodeRequest

OnEvent = Callable[..., None]

# Items whose SMR lies below this share of the target are told: the mean is met at their cost.
_SACRIFICED_SHARE = 0.5


@dataclass(frozen=True)
class Source:
    """One file of a job. segments: of all its frames, in order; pieces: what codes them."""

    segments: tuple[range, ...]
    pieces: Pieces


@dataclass(frozen=True, eq=False)
class Decision:
    """choices: per source, in order of frames. curves: per source, as last predicted. notes: what the user should
    know."""

    choices: tuple[tuple[SegmentChoice, ...], ...]
    curves: tuple[Curves, ...]
    notes: tuple[str, ...]


class Decider:
    """Decides for all sources of one job together."""

    def __init__(
        self,
        request: EncodeRequest,
        target: Target,
        sources: Sequence[Source],
        judges: Judges,
        progress: Progress,
        on_event: OnEvent,
    ) -> None:
        """request: of any of the sources, they share all but the files. target: with its pool."""
        self._request, self._target, self._sources, self._judges = request, target, sources, judges
        self._progress, self._emit = progress, on_event
        self._workers = sources[0].pieces.options.n_workers
        capabilities = sources[0].pieces.encoder.capabilities()
        self._range = (capabilities.qp_min, capabilities.qp_max)
        self._items = [(place, segment) for place, source in enumerate(sources) for segment in source.segments]
        self._notes: list[str] = []
        self._probers = [self._prober(source) for source in sources]

    def decide(self) -> Decision:
        """Raises InputError, MissingToolError, CacheError, EncoderError, MachineRunError."""
        curves = self._predict()
        probes = self._request.n_probes
        measured = self._judges.room is not None and probes
        if measured and self._target.pool == "each":
            choices, final = self._search(curves, probes), curves
        else:
            if not measured:
                curves = with_margin(curves, self._target, len(self._sources))
            settled = self._rounds(curves, probes)
            choices, final = self._choices(settled), settled.predicted
        self._note_reach(choices)
        return Decision(self._by_source(choices), tuple(final.pick(rows) for rows in self._rows()), tuple(self._notes))

    def _prober(self, source: Source) -> Prober | None:
        if self._judges.room is None:
            return None
        request, pieces = self._request, source.pieces
        content = content_hash(pieces.clip.path)
        cache = ProbeCache(request.cache)
        return Prober(pieces, self._judges.room, request.thresholds, cache, content, request.frames_per_segment)

    def _predict(self) -> Curves:
        self._progress.phase("predicting", len(self._items))
        qps = np.arange(self._range[0], self._range[1] + 1)
        parts = []
        for source, prober in zip(self._sources, self._probers, strict=True):
            clip = source.pieces.clip
            known = self._judges.curves(source.pieces.options.coding)
            self._note(*known.notes)
            parts.append(
                predict_segments(
                    known, clip, source.segments, self._request.frames_per_segment, qps, self._witness(prober),
                    lambda: self._progress.advance(1), self._workers,
                )
            )  # fmt: skip
        return joined(parts)

    def _witness(self, prober: Prober | None) -> Witness | None:
        if prober is None:
            return None
        task = self._target.task
        return Witness(prober.see, lambda look: prober.counts(look, task), self._request.thresholds)

    def _search(self, curves: Curves, probes: int) -> list[SegmentChoice]:
        """Each by itself, measured."""
        self._progress.phase("probing", len(self._items))
        choices: list[SegmentChoice] = []
        for place, rows in enumerate(self._rows()):
            prober = self._probers[place]
            assert prober is not None
            finished: dict[int, SegmentChoice] = {}
            tell = partial(self._found, place, dict(zip(self._starts(place), rows, strict=True)), curves, finished)
            choose_all(
                self._sources[place].segments, prober, self._target, self._range, self._workers,
                partial(self._tell_probe, place), tell, probes, curves.smr[rows],
            )  # fmt: skip
            choices += [finished[start] for start in self._starts(place)]
        return choices

    def _starts(self, place: int) -> list[int]:
        return [frames.start for frames in self._sources[place].segments]

    def _found(
        self,
        place: int,
        row_of: Mapping[int, np.intp],
        curves: Curves,
        finished: dict[int, SegmentChoice],
        choice: SegmentChoice,
    ) -> None:
        """A search has ended: compare it with what was predicted, and tell."""
        segment = choice.segment
        compared = replace(choice, predicted=_predicted(curves, int(row_of[segment.start]), segment.qp))
        finished[segment.start] = compared
        self._tell_choice(place, compared)
        self._progress.advance(1)

    def _rounds(self, curves: Curves, probes: int) -> Settled[Any]:
        judges = self._judges.room is not None
        if probes:
            self._progress.phase("probing")
        sampled = any(len(frames) > self._request.frames_per_segment for _, frames in self._items)
        again = self._look_again if judges and sampled else None
        rounds: Rounds[Any] = Rounds(curves, self._target, self._probe_all, judges=judges, look_again=again)
        settled = rounds.run(probes)
        if settled.contradictory:
            self._note(
                f"{settled.contradictory} segment(s) where a higher QP was predicted to be better than a lower one:"
                " the lower prediction was taken for both"
            )
        return settled

    def _probe_all(self, wanted: Sequence[tuple[int, int]]) -> list[ProbeLike]:
        order = sorted(wanted, key=lambda pair: -len(self._items[pair[0]][1]))

        def run(pair: tuple[int, int]) -> ProbeLike:
            place, frames = self._items[pair[0]]
            probe = self._probe(place, Segment(frames.start, frames.stop, pair[1]))
            self._progress.advance(1)
            return probe

        found = in_parallel(run, order, self._workers, self._sources[0].pieces.group.close)
        return [found[pair] for pair in wanted]

    def _look_again(self, coded: Sequence[tuple[int, int]]) -> list[Probe]:
        def run(pair: tuple[int, int]) -> Probe:
            place, frames = self._items[pair[0]]
            prober = self._probers[place]
            assert prober is not None
            return prober.look_again(Segment(frames.start, frames.stop, pair[1]))

        found = in_parallel(run, coded, self._workers, self._sources[0].pieces.group.close)
        return [found[pair] for pair in coded]

    def _probe(self, place: int, segment: Segment) -> ProbeLike:
        prober, pieces = self._probers[place], self._sources[place].pieces
        if prober is not None:
            measured = prober.probe(segment)
            self._tell_probe(place, measured)
            return measured
        scorer = self._judges.scorer(pieces.options.coding)
        if scorer is None:
            predicted = count_bits(segment, pieces)
        else:
            predicted = scorer.probe(segment, pieces, self._request.frames_per_segment)
        self._tell_probe(place, predicted)
        return predicted

    def _choices(self, settled: Settled[Any]) -> list[SegmentChoice]:
        choices = []
        for row, (place, frames) in enumerate(self._items):
            segment = Segment(frames.start, frames.stop, int(settled.qps[row]))
            probe = settled.probes[row].get(segment.qp)
            choice = SegmentChoice(
                segment=segment,
                reached=bool(settled.reached[row]),
                probe=probe if isinstance(probe, Probe) else None,
                probes=len(settled.probes[row]),
                predicted=_predicted(settled.predicted, row, segment.qp),
                seen=bool(settled.predicted.seen[row]),
            )
            prober = self._probers[place]
            if prober is not None:
                prober.settle(segment)
            else:
                self._sources[place].pieces.keep_only(segment)
            choices.append(choice)
        for (place, _), choice in zip(self._items, choices, strict=True):
            self._tell_choice(place, choice)
        return choices

    def _note_reach(self, choices: Sequence[SegmentChoice]) -> None:
        what = "segment(s)" if any(s.pieces.clip.kind == "video" for s in self._sources) else "picture(s)"
        blind = sum(not choice.seen for choice in choices)
        if blind:
            self._note(f"{blind} {what} without a valid machine: nothing to recognise, coded at the mean curve's QP")
        missed = sum(not choice.reached for choice in choices)
        target = f"SMR {self._target.smr:g}"
        if missed and self._target.pool == "each":
            self._note(f"no QP was found that reaches {target} in {missed} {what}: the best effort was coded there")
        elif missed:
            self._note(f"{target} in the mean is out of reach, or a floor is: the best effort was coded")
        elif all(choice.segment.qp == self._range[1] for choice in choices if choice.seen) and blind < len(choices):
            self._note(f"every QP reaches {target}: coded at the highest, QP {self._range[1]}")
        if not missed and self._target.pool == "mean":
            self._note_sacrificed(choices, what)
        self._note_extrapolated(choices, target)

    def _note_sacrificed(self, choices: Sequence[SegmentChoice], what: str) -> None:
        """The mean may be cheapest where few items pay for it: it was asked for, and may not be what is meant."""
        told = [self._smr_of(choice) for choice in choices if choice.seen]
        low = [smr for smr in told if smr is not None and smr < _SACRIFICED_SHARE * self._target.smr]
        if low:
            self._note(
                f"{len(low)} of {len(choices)} {what} lie below {_SACRIFICED_SHARE:g} of the target, down to SMR"
                f" {min(low):.2f}, and the others make up for it; --floor bounds the worst"
            )

    def _smr_of(self, choice: SegmentChoice) -> float | None:
        """As measured, else as predicted."""
        if choice.probe is not None:
            return choice.probe.smr(self._target.task)
        return choice.predicted.smr if choice.predicted else None

    def _note_extrapolated(self, choices: Sequence[SegmentChoice], target: str) -> None:
        """Machines change their minds at any QP now and then, so that high targets are dear, and uncertain."""
        for (place, _), choice in zip(self._items, choices, strict=True):
            known = self._judges.curves(self._sources[place].pieces.options.coding)
            level = float(label_levels(known.codec, [choice.segment.qp])[0])
            if choice.probe is None and choice.seen and level < known.lowest_level:
                self._note(
                    f"{target} takes QPs below {known.lowest_level}, where nothing was measured for the prediction:"
                    " it is extrapolated, and dear; a lower target saves most of the bits"
                )
                return

    def _tell_probe(self, place: int, probe: Any) -> None:
        segment, measured = probe.segment, isinstance(probe, Probe)
        smr = probe.smr(self._target.task)
        self._emit(
            "probe", start=segment.start, stop=segment.stop, qp=segment.qp, smr=smr, bits=probe.bits,
            measured=measured, **self._of(place),
        )  # fmt: skip

    def _tell_choice(self, place: int, choice: SegmentChoice) -> None:
        segment = choice.segment
        smr = choice.probe.smr(self._target.task) if choice.probe else None
        predicted = choice.predicted.smr if choice.predicted else None
        self._emit(
            "segment", start=segment.start, stop=segment.stop, qp=segment.qp, smr=smr, predicted_smr=predicted,
            reached=choice.reached, **self._of(place),
        )  # fmt: skip

    def _of(self, place: int) -> dict[str, object]:
        """Which file an event is about, where there are several."""
        return {"input": self._sources[place].pieces.clip.path} if len(self._sources) > 1 else {}

    def _note(self, *texts: str) -> None:
        self._notes += [text for text in texts if text not in self._notes]

    def _rows(self) -> list[NDArray[np.intp]]:
        """The rows of each source among all items."""
        owner = np.array([place for place, _ in self._items])
        return [np.flatnonzero(owner == place) for place in range(len(self._sources))]

    def _by_source(self, choices: Sequence[SegmentChoice]) -> tuple[tuple[SegmentChoice, ...], ...]:
        return tuple(tuple(choices[int(row)] for row in rows) for rows in self._rows())


def _predicted(curves: Curves, row: int, qp: int) -> PredictedSmr:
    column = curves.column(qp)
    return PredictedSmr(*(float(values[row, column]) for values in (curves.smr, curves.low, curves.high)))
