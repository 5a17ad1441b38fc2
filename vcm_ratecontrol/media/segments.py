"""Cutting a clip into segments: at scene cuts, then long scenes into even pieces.

The detectors are PySceneDetect's; they are fed reduced frames of this project's own decoder, so that frame
numbers agree with those of every other reading.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from vcm_ratecontrol.media.clip import Clip

if TYPE_CHECKING:
    from scenedetect.detector import SceneDetector

    from vcm_ratecontrol.media.analysis import FrameView

Detector = Literal["adaptive", "content"]

SEGMENT_SECONDS = 4.0
"""Longest segment, for callers without a wish. In shorter ones intra pictures and closed GOPs cost more bits than an
encoder's own random access (docs/rate-control.md)."""

FRAMES_PER_SEGMENT = 3
"""Frames of a segment that are looked at, likewise."""

# PySceneDetect reduces to about this width before it compares colours.
DETECTION_WIDTH = 256


class SceneCuts:
    """A consumer of the analysis pass that finds scene cuts.

    After the pass `cuts` are the frames at which a new scene begins (not 0), rising, at least `min_seconds`
    apart.
    """

    def __init__(self, clip: Clip, min_seconds: float = 0.5, detector: Detector = "adaptive") -> None:
        self._rate = float(clip.frame_rate)
        self._detector = _make_detector(detector, max(1, math.ceil(min_seconds * self._rate)))
        self._found: list[int] = []
        self._last = 0

    def wants(self, index: int) -> bool:
        return True

    def feed(self, view: FrameView) -> None:
        from scenedetect import FrameTimecode

        self._last = view.index
        reduced = view.reduced_bgr(DETECTION_WIDTH)
        found = self._detector.process_frame(FrameTimecode(view.index, fps=self._rate), reduced)
        self._found += [cut.frame_num for cut in found]

    def finish(self) -> None:
        from scenedetect import FrameTimecode

        found = self._detector.post_process(FrameTimecode(self._last, fps=self._rate))
        self._found += [cut.frame_num for cut in found]

    @property
    def cuts(self) -> tuple[int, ...]:
        return tuple(sorted({cut for cut in self._found if cut > 0}))


def _make_detector(name: Detector, min_scene_frames: int) -> SceneDetector:
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    if name == "adaptive":
        return AdaptiveDetector(min_scene_len=min_scene_frames)
    if name == "content":
        return ContentDetector(min_scene_len=min_scene_frames)
    raise ValueError(f"scene detector {name!r} is neither 'adaptive' nor 'content'")


def cut_segments(
    clip: Clip, max_seconds: float = SEGMENT_SECONDS, min_seconds: float = 0.5, detector: Detector = "adaptive"
) -> tuple[range, ...]:
    """Decode a clip once and cut it: the one-line form of a pass with `SceneCuts` and `segments_from_cuts`.

    A still, and a clip no longer than `min_seconds`, is one segment. Raises InputError when it does not
    decode and ValueError for limits that contradict each other.
    """
    _check_limits(max_seconds, min_seconds)
    cuts: tuple[int, ...] = ()
    if clip.n_frames > 1 and clip.duration > min_seconds:
        from vcm_ratecontrol.media.analysis import fan_out

        consumer = SceneCuts(clip, min_seconds, detector)
        fan_out(clip, [consumer])
        cuts = consumer.cuts
    return segments_from_cuts(clip, cuts, max_seconds, min_seconds)


def segments_from_cuts(
    clip: Clip, cuts: Sequence[int], max_seconds: float = SEGMENT_SECONDS, min_seconds: float = 0.5
) -> tuple[range, ...]:
    """Segments in order; together they are exactly all frames.

    Cuts that would leave a piece shorter than `min_seconds` are dropped, the earlier of two stays; scenes
    longer than `max_seconds` are cut evenly in time. So at a constant rate every segment lasts from
    `min_seconds` (or the whole clip) to `max_seconds`, rounded to whole frames; where timestamps vary, a
    single frame may last longer, and pieces next to such a frame may be shorter.

    Raises ValueError when max_seconds is not above 0 or min_seconds is more than half of it.
    """
    _check_limits(max_seconds, min_seconds)
    times = frame_times(clip)
    longest, least = Fraction(max_seconds), Fraction(min_seconds)
    kept = [0]
    for cut in sorted(set(cuts)):
        if 0 < cut < clip.n_frames and times[cut] - times[kept[-1]] >= least and times[-1] - times[cut] >= least:
            kept.append(cut)
    scenes = pairwise([*kept, clip.n_frames])
    if clip.constant_rate:
        most = max(1, math.floor(longest * clip.frame_rate))
        bounds = [bound for scene in scenes for bound in _even_bounds(*scene, most)]
    else:
        bounds = [bound for scene in scenes for bound in _timed_bounds(times, *scene, longest)]
    return tuple(range(start, stop) for start, stop in pairwise([*bounds, clip.n_frames]))


def frame_times(clip: Clip) -> tuple[Fraction, ...]:
    """Start of each frame in seconds from the first, and the end of the last: n_frames + 1 values.

    At a constant rate index / rate, free of the rounding of the container.
    """
    if clip.constant_rate:
        return tuple(index / clip.frame_rate for index in range(clip.n_frames + 1))
    starts = [(pts - clip.pts[0]) * clip.time_base for pts in clip.pts]
    return (*starts, clip.duration)


def _even_bounds(start: int, stop: int, most: int) -> list[int]:
    """First frames of the fewest pieces of at most `most` frames; lengths differ by one at most."""
    frames = stop - start
    pieces = -(-frames // most)
    return [start + piece * frames // pieces for piece in range(pieces)]


def _timed_bounds(times: Sequence[Fraction], start: int, stop: int, longest: Fraction) -> list[int]:
    """First frames of pieces of at most `longest` seconds or of one frame: as even in time as frames allow.

    Where an even cut has no frame at the right time, pieces are filled one after the other.
    """
    span = times[stop] - times[start]
    pieces = max(1, math.ceil(span / longest))
    even = [start, *(_nearest(times, times[start] + span * k / pieces) for k in range(1, pieces)), stop]
    if all(a < b and (times[b] - times[a] <= longest or b - a == 1) for a, b in pairwise(even)):
        return even[:-1]
    bounds = [start]
    for frame in range(start + 1, stop):
        if times[frame + 1] - times[bounds[-1]] > longest:
            bounds.append(frame)
    return bounds


def _nearest(times: Sequence[Fraction], time: Fraction) -> int:
    """The frame that starts nearest to a time."""
    after = bisect_left(times, time)
    return after - 1 if after and time - times[after - 1] <= times[min(after, len(times) - 1)] - time else after


def _check_limits(max_seconds: float, min_seconds: float) -> None:
    if not (max_seconds > 0 and 0 <= min_seconds <= max_seconds / 2):
        raise ValueError(
            f"segments of {min_seconds} to {max_seconds} s: the shortest must be at most half of the longest"
        )
