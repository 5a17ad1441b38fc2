"""What to encode at which QP: numbers for an encoder, without a word of targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError

if TYPE_CHECKING:
    from codec_wrappers.qpmap import QPMap


@dataclass(frozen=True)
class Segment:
    """Frames start..stop-1, coded at `qp` (the QP of their intra picture, in the encoder's own range)."""

    start: int
    stop: int
    qp: int

    @property
    def n_frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class EncodePlan:
    """Consecutive segments from frame 0 on, optionally with a map of absolute QPs per block.

    qp_map: one map per frame of the whole plan, or a single one that holds for all frames.
    Raises InputError when the segments leave a gap, overlap or are empty.
    """

    segments: tuple[Segment, ...]
    qp_map: QPMap | None = None

    def __post_init__(self) -> None:
        at = 0
        for segment in self.segments:
            if segment.start != at or segment.stop <= segment.start:
                raise InputError(f"plan: segment {segment} does not follow frame {at}; segments must be consecutive")
            at = segment.stop
        if at == 0:
            raise InputError("plan: it has no frames")
        if self.qp_map is not None and self.qp_map.n_frames not in (1, at):
            raise InputError(f"plan: the map has {self.qp_map.n_frames} frames, the plan {at}; give 1 or {at}")

    @property
    def n_frames(self) -> int:
        return self.segments[-1].stop


def flat_plan(n_frames: int, qp: int) -> EncodePlan:
    """One segment over all frames at one QP: the anchor that everything is compared with."""
    return EncodePlan((Segment(0, n_frames, qp),))
