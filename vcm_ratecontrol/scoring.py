"""Machines look at pictures before and after coding: the one place where verdicts of a library are made.

One library serves all cores: a frame's machines are shared out over a few threads (ONNX Runtime, LiteRT and ncnn
release the interpreter lock), each machine in one thread at a time. A library per thread, a frame each, takes the
same processor time (2.9 s for 31 machines on 8 photos, either way), but 500 MB and 2 s more for each thread, and
leaves all cores but one idle on a single still.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vcm_ratecontrol.machines.machine import Classification, Detections, MachineRunError, Result, Task
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, SMR, Thresholds, Verdict, smr, verdict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from vcm_ratecontrol.machines.library import MachineLibrary
    from vcm_ratecontrol.machines.preprocess import PreparedPicture

    RGB = npt.NDArray[np.uint8]

Tasks = Literal["classification", "detection", "both"]


@dataclass(frozen=True)
class LookResults:
    """What the machines of a library say about one picture.

    results: by name of the machine; failures: why a machine gave no result, by name, one line each.
    """

    results: Mapping[str, Result]
    failures: Mapping[str, str]


#: One `LookResults` per frame of the original: run once, compared with as many decoded versions as wanted.
OriginalResults = tuple[LookResults, ...]


@dataclass(frozen=True)
class FrameScore:
    """The verdicts on one decoded frame.

    index: position among the frames that were scored, from 0, or the frame's number in its clip where known.
    verdicts: one per machine, in the library's order. failed: machines that gave no result on the original or on
    the decoded frame; their verdicts are not valid.
    """

    index: int
    verdicts: tuple[Verdict, ...]
    failed: tuple[str, ...] = ()

    def smr(self, task: Tasks = "both") -> SMR:
        """Satisfied Machine Ratio of the frame over the valid machines of a task."""
        return smr(self.verdicts, task)


@dataclass(frozen=True)
class ClipSMR:
    """SMR of a clip: mean and minimum over those scored frames that have at least one valid machine.

    frames: how many those are; both values are None where there is none.
    """

    mean: float | None
    minimum: float | None
    frames: int


def clip_smr(frames: Iterable[FrameScore], task: Tasks = "both") -> ClipSMR:
    """The clip's SMR from its frames' (a still is a clip of one frame)."""
    values = [value for frame in frames if (value := frame.smr(task).value) is not None]
    if not values:
        return ClipSMR(None, None, 0)
    return ClipSMR(sum(values) / len(values), min(values), len(values))


class MachineRoom:
    """A library with the threads that run it. A context manager; for one caller at a time."""

    def __init__(self, library: MachineLibrary, workers: int | None = None) -> None:
        """workers: threads, by default one per core that this process may use."""
        self.library = library
        self._pool = ThreadPoolExecutor(max(1, min(workers or usable_cores(), len(library))), "machines")
        # Seconds that each machine has taken: the slow ones go first, so that no thread ends alone.
        self._spent = dict.fromkeys(library.names, 0.0)

    def __enter__(self) -> MachineRoom:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def look(self, rgb: RGB, names: Sequence[str] | None = None) -> LookResults:
        """Run machines (all by default) on one picture, uint8 [H, W, 3] RGB. A machine that fails is a failure."""
        from vcm_ratecontrol.machines.preprocess import PreparedPicture

        picture = PreparedPicture(rgb)
        wanted = self.library.names if names is None else names
        order = sorted(wanted, key=lambda name: -self._spent[name])
        answers = dict(zip(order, self._pool.map(lambda name: self._run(name, picture), order), strict=True))
        results = {name: answer for name in wanted if not isinstance(answer := answers[name], str)}
        failures = {name: answer for name in wanted if isinstance(answer := answers[name], str)}
        return LookResults(results, failures)

    def _run(self, name: str, picture: PreparedPicture) -> Result | str:
        started = time.monotonic()
        try:
            return self.library[name].run_one(picture)
        except MachineRunError as error:
            return str(error)
        finally:
            self._spent[name] += time.monotonic() - started


def run_originals(
    frames: Iterable[RGB],
    library: MachineLibrary | MachineRoom,
    on_frame: Callable[[], None] | None = None,
) -> OriginalResults:
    """Run all machines on the frames of the original; memory holds one frame at a time.

    on_frame: called after each. Raises MachineRunError when not one machine gives a result on a frame.
    """
    with opened(library) as room:
        looks = []
        for rgb in frames:
            look = room.look(rgb)
            if not look.results:
                raise MachineRunError("; ".join(look.failures.values()))
            looks.append(look)
            if on_frame is not None:
                on_frame()
        return tuple(looks)


def score_frames(
    originals: Iterable[RGB] | OriginalResults,
    decoded: Iterable[RGB],
    library: MachineLibrary | MachineRoom,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    indices: Sequence[int] | None = None,
    on_frame: Callable[[], None] | None = None,
) -> tuple[FrameScore, ...]:
    """The verdicts of a library on decoded frames, each against its own result on the original frame.

    originals: uint8 [H, W, 3] RGB frames, or the results of `run_originals` on them, to be used again and again.
    decoded: as many frames, of the same size. indices: numbers to give to the frames, by default 0, 1, ...
    A machine whose result on the original does not count (nothing detected, say) is not asked again.
    Raises ValueError when the numbers of frames differ, MachineRunError when no machine gives a result on an original.
    """
    with opened(library) as room:
        scores = []
        known = _results(originals, room)
        for number, (original, rgb) in enumerate(_pairs(known, decoded)):
            score = _score(original, rgb, room, thresholds)
            scores.append(replace(score, index=indices[number] if indices is not None else number))
            if on_frame is not None:
                on_frame()
        return tuple(scores)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def opened(library: MachineLibrary | MachineRoom) -> AbstractContextManager[MachineRoom]:
    """A room for a library, closed with the block; a room that is given stays open, for its owner to close."""
    return contextlib.nullcontext(library) if isinstance(library, MachineRoom) else MachineRoom(library)


def _results(originals: Iterable[RGB] | OriginalResults, room: MachineRoom) -> Iterator[LookResults]:
    for original in originals:
        if isinstance(original, LookResults):
            yield original
        else:
            yield from run_originals([original], room)


def _pairs(originals: Iterator[LookResults], decoded: Iterable[RGB]) -> Iterator[tuple[LookResults, RGB]]:
    end = object()
    frames = iter(decoded)
    count = 0
    for original in originals:
        rgb = next(frames, end)
        if rgb is end:
            raise ValueError(f"only {count} decoded frames for more originals")
        yield original, rgb  # type: ignore[misc]
        count += 1
    if next(frames, end) is not end:
        raise ValueError(f"more decoded frames than the {count} originals")


def _score(original: LookResults, rgb: RGB, room: MachineRoom, thresholds: Thresholds) -> FrameScore:
    names = room.library.names
    asked = [name for name in names if is_valid(original.results.get(name), thresholds)]
    now = room.look(rgb, asked)
    verdicts, failed = [], []
    for machine in room.library:
        before, after = original.results.get(machine.name), now.results.get(machine.name)
        if before is None or (machine.name in asked and after is None):
            failed.append(machine.name)
        if before is not None and after is not None:
            verdicts.append(verdict(machine.name, before, after, thresholds))
        else:
            verdicts.append(_no_opinion(machine.name, machine.task))
    return FrameScore(0, tuple(verdicts), tuple(failed))


def is_valid(result: Result | None, thresholds: Thresholds) -> bool:
    """Whether a machine's result on an original makes its opinion count."""
    if isinstance(result, Detections):
        return bool((result.scores >= thresholds.confidence).any())
    return isinstance(result, Classification) and result.confidence >= thresholds.label_confidence


def _no_opinion(name: str, task: Task) -> Verdict:
    return Verdict(machine=name, task=task, valid=False, satisfied=False, score=0.0)
