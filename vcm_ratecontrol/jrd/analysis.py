"""A clip -> the level of each block of each frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.jrd.frame_levels import BACKGROUND, FrameLevels, LevelSource
from vcm_ratecontrol.jrd.maps import HOLD_SECONDS, Levels, block_levels, smooth_in_time
from vcm_ratecontrol.progress import SILENT, Progress

if TYPE_CHECKING:
    from vcm_ratecontrol.media import Clip


@dataclass(frozen=True, eq=False)
class ClipLevels:
    """levels: uint8 [n_frames, rows, cols] in the orientation that is coded, smooth in time. looked: frames looked
    at; objects: boxes found on them; contradictions: of predictions about them, see `FrameLevels`."""

    levels: Levels
    block_size: int
    looked: int
    objects: int
    contradictions: int
    notes: tuple[str, ...]

    @property
    def lowest(self) -> int | None:
        """Level of the most fragile object, None when there is none."""
        inside = self.levels[self.levels != BACKGROUND]
        return int(inside.min()) if inside.size else None

    @property
    def object_share(self) -> float:
        """Share (0..1) of all blocks that are not background."""
        return float((self.levels != BACKGROUND).mean())


def clip_levels(
    clip: Clip,
    source: LevelSource,
    block_size: int,
    looks_per_second: float,
    progress: Progress = SILENT,
    on_look: Callable[[int, FrameLevels], None] | None = None,
) -> ClipLevels:
    """Look at frames of a clip, evenly spread and the last one, and give levels to all.

    on_look: called with each frame's number and what was seen. Raises InputError when the clip does not decode or
    its pictures change in size.
    """
    rate = float(clip.frame_rate)
    step = max(1, round(rate / looks_per_second))
    at = sorted({*range(0, clip.n_frames, step), clip.n_frames - 1})
    progress.phase("looking for objects", len(at))
    looked, objects, contradictions = [], 0, 0
    for frame, rgb in zip(at, clip.read_rgb(at), strict=True):
        seen = source.look(rgb, frame)
        looked.append(block_levels(as_coded(seen.level, clip), block_size))
        objects += len(seen.objects)
        contradictions += seen.contradictions
        if on_look is not None:
            on_look(frame, seen)
        progress.advance(1)
    levels = smooth_in_time(np.stack(looked), at, clip.n_frames, round(HOLD_SECONDS * rate))
    notes = list(source.notes)
    if contradictions:
        notes.append(f"{contradictions} objects: the predictions contradict each other; the lower level was taken")
    return ClipLevels(levels, block_size, len(at), objects, contradictions, tuple(notes))


def as_coded(level: npt.NDArray[np.uint8], clip: Clip) -> npt.NDArray[np.uint8]:
    """An upright picture [H, W] as the clip codes it: turned and mirrored back."""
    from vcm_ratecontrol.media.convert import upright

    turned = level[..., None]
    for _ in range(3):  # a quarter turn four times, or a mirror twice, is nothing: three times undoes either
        turned = upright(turned, clip.display_matrix)
    return turned[..., 0]
