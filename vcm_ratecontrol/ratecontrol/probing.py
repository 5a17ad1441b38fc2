"""Probes: code a segment as the final encode would, decode sampled frames, ask the machines."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec_wrappers.frames import PixelFormat
from codec_wrappers.plan import Segment
from vcm_ratecontrol.machines.machine import Classification, Detections, Result
from vcm_ratecontrol.media import Clip, open_clip
from vcm_ratecontrol.media.sampling import sample_indices
from vcm_ratecontrol.ratecontrol.pieces import Pieces
from vcm_ratecontrol.ratecontrol.probe_cache import ProbeCache
from vcm_ratecontrol.satisfaction import Thresholds, Verdict
from vcm_ratecontrol.scoring import (
    FrameScore,
    LookResults,
    MachineRoom,
    Tasks,
    clip_smr,
    is_valid,
    run_originals,
    score_frames,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Probe:
    """One segment measured at one QP. frames: verdicts on its sampled frames; bits: its coded pictures."""

    segment: Segment
    frames: tuple[FrameScore, ...]
    bits: int

    def smr(self, task: Tasks) -> float | None:
        """Mean SMR over the sampled frames that have a valid machine; None when none has."""
        return clip_smr(self.frames, task).mean

    def margins(self, task: Tasks) -> tuple[float, ...]:
        """Margins of all valid machines on all sampled frames."""
        verdicts = (v for frame in self.frames for v in frame.verdicts)
        return tuple(v.margin for v in verdicts if v.valid and task in ("both", v.task))


class Prober:
    """Measures segments of one clip. Encoders run in parallel; machines look at one frame at a time, all cores
    on it."""

    def __init__(
        self,
        pieces: Pieces,
        room: MachineRoom,
        thresholds: Thresholds,
        cache: ProbeCache,
        content: str,
        frames_per_segment: int,
    ) -> None:
        """content: hash of the clip's file. frames_per_segment: how many are measured."""
        self.pieces, self._room, self._thresholds, self._cache = pieces, room, thresholds, cache
        self._n_sampled = frames_per_segment
        self._originals: dict[int, LookResults] = {}
        self._looking = threading.Lock()
        self._key: dict[str, Any] = {
            "content": content,
            "encoder": [pieces.encoder.name, pieces.encoder.capabilities().version],
            "machines": dict(room.library.hashes),
            "thresholds": asdict(thresholds),
            "sampled": frames_per_segment,
        }

    def count(self, task: Tasks) -> int:
        """Machines of a task in the library."""
        return sum(task in ("both", machine.task) for machine in self._room.library)

    def see(self, index: int, rgb: npt.NDArray[np.uint8]) -> LookResults:
        """Show an original frame to the machines, and remember what its verdicts will need of that."""
        with self._looking:
            (look,) = run_originals([rgb], self._room)
        self._originals[index] = _essence(look, self._thresholds)
        return look

    def counts(self, look: LookResults, task: Tasks) -> bool:
        """Whether any machine of a task counts on an original: sees something there, is sure enough."""
        valid = [name for name, result in look.results.items() if is_valid(result, self._thresholds)]
        return any(task in ("both", self._room.library[name].task) for name in valid)

    def probe(self, segment: Segment) -> Probe:
        """Measure a segment at its QP, or take the measurement from the cache."""
        # The command line holds all that shapes the bits, so a change of ours makes old results worthless.
        recipe = self.pieces.recipe(segment)
        key = {**self._key, "segment": [segment.start, segment.stop, segment.qp], "recipe": recipe}
        if (known := _from_json(segment, self._cache.get(key))) is not None:
            return known
        probe = self._measure(segment, self._sampled(segment))
        self._cache.put(key, _to_json(probe))
        return probe

    def _measure(self, segment: Segment, indices: Sequence[int]) -> Probe:
        coded = self.pieces.get(segment)
        positions = [index - segment.start for index in indices]
        decoded = list(decoded_like(self.pieces.clip, coded.piece, positions))
        with self._looking:
            originals = self._see_originals(indices)
            scores = score_frames(originals, decoded, self._room, self._thresholds, indices)
        return Probe(segment, scores, coded.bits)

    def look_again(self, segment: Segment) -> Probe:
        """Measure a segment at its QP on other frames than `probe` does; on the same where it has no others."""
        first = self._sampled(segment)
        others = sample_indices(range(segment.start, segment.stop), self._n_sampled + 1)
        indices = tuple(index for index in others if index not in first) or first
        return self._measure(segment, indices)

    def settle(self, chosen: Segment) -> None:
        """The search of a segment is over: drop what only it needed."""
        self.pieces.keep_only(chosen)
        for index in range(chosen.start, chosen.stop):
            self._originals.pop(index, None)

    def _sampled(self, segment: Segment) -> tuple[int, ...]:
        return sample_indices(range(segment.start, segment.stop), self._n_sampled)

    def _see_originals(self, indices: Sequence[int]) -> tuple[LookResults, ...]:
        missing = [index for index in indices if index not in self._originals]
        for index, rgb in zip(missing, self.pieces.clip.read_rgb(missing), strict=True):
            (look,) = run_originals([rgb], self._room)
            self._originals[index] = _essence(look, self._thresholds)
        return tuple(self._originals[index] for index in indices)


def _essence(look: LookResults, thresholds: Thresholds) -> LookResults:
    """What verdicts need of an original's results: thousands are kept when a long clip is planned as a whole."""
    import numpy as np

    kept: dict[str, Result] = {}
    for name, result in look.results.items():
        if isinstance(result, Classification):
            kept[name] = Classification(result.label, result.confidence, np.empty(0, np.float32))
        else:
            strong = result.above(thresholds.confidence)
            kept[name] = Detections(strong.boxes.copy(), strong.scores.copy(), strong.classes.copy())
    return LookResults(kept, look.failures)


def decoded_like(original: Clip, coded: Path, indices: Sequence[int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames of a coded file, cropped, coloured and turned as those of the clip that it was made from.

    indices: rising, in the coded file. Yields uint8 RGB [H, W, 3] of `original.upright_size`.
    """
    from vcm_ratecontrol.media.convert import pack_frame
    from vcm_ratecontrol.media.decode import FrameDecoder

    piece = open_clip(coded)
    tagged = replace(piece.format, color=original.color)
    with FrameDecoder(piece) as decoder:
        for frame in decoder.picked(indices):
            # Its own depth: full range does not scale by shifting.
            layout: PixelFormat = "yuv420p10le" if piece.bit_depth > 8 else "yuv420p"
            yield original.rgb_of(pack_frame(frame, layout, tagged), layout)


def _to_json(probe: Probe) -> dict[str, Any]:
    return {"bits": probe.bits, "frames": [asdict(frame) for frame in probe.frames]}


def _from_json(segment: Segment, stored: Any) -> Probe | None:
    """A stored probe; None where there is none, or something else under its name."""
    try:
        frames = tuple(
            FrameScore(frame["index"], tuple(Verdict(**v) for v in frame["verdicts"]), tuple(frame["failed"]))
            for frame in stored["frames"]
        )
        return Probe(segment, frames, int(stored["bits"]))
    except (TypeError, KeyError, ValueError):
        return None
