"""Levels of frames -> QP maps: blocks, smooth in time, in the QPs of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.capabilities import Capabilities
from codec_wrappers.qpmap import QPMap, grid_shape
from vcm_ratecontrol.jrd.frame_levels import BACKGROUND

Levels = npt.NDArray[np.uint8]

# A block that was needed stays fine for so long after; it becomes fine as long before: detectors blink for a
# few frames, and what moves is between the frames that were looked at.
HOLD_SECONDS = 0.4
# The useful top of the range: coarser backgrounds save few bits more, and detectors find things in the ruins
# (docs/jrd.md holds the measurement).
BACKGROUND_QP = 45
# The lowest level that is planned: below it nobody has measured anything.
UNREACHED = 8
# A segment of a clip with more object blocks than this share is coded at one QP where the dense predictor alone says
# so, or where a map means pre-coding. In motion a background that was seen before costs little, and what is missed
# there is lost: on six clips whose blocks were objects by 43 to 100 %, maps of the dense predictor took 15 % more than
# one QP; those of detectors as many (docs/jrd.md).
MOST_BLOCKS = 0.5
# Smaller rises of a level are not followed: they are noise of the predictor, and each costs a new QP.
DEADBAND = 3


def block_levels(level: Levels, block_size: int) -> Levels:
    """The lowest level that each block touches: uint8 [H, W] -> [rows, cols]."""
    height, width = level.shape
    rows, cols = grid_shape(width, height, block_size)
    padded = np.pad(level, ((0, rows * block_size - height), (0, cols * block_size - width)), mode="edge")
    lowest: Levels = padded.reshape(rows, block_size, cols, block_size).min(axis=(1, 3))
    return lowest


def smooth_in_time(looked: Levels, at: Sequence[int], n_frames: int, hold: int, deadband: int = DEADBAND) -> Levels:
    """Levels of all frames from those of some, without flicker: uint8 [K, rows, cols] -> [n_frames, rows, cols].

    at: which frames were looked at, rising, K of them. A frame takes the lowest level that a block has in any frame
    looked at from the last one before it, less `hold` frames, to the next one after it, plus `hold` frames. Over
    that a level falls at once and rises only by more than `deadband`: hysteresis.
    """
    indices = np.asarray(at)
    frames = np.arange(n_frames)
    before = np.searchsorted(indices, frames, side="right") - 1
    after = np.minimum(np.searchsorted(indices, frames, side="left"), len(indices) - 1)
    first = np.searchsorted(indices, np.minimum(indices[np.maximum(before, 0)], frames - hold), side="left")
    last = np.searchsorted(indices, np.maximum(indices[after], frames + hold), side="right")
    smooth = np.empty((n_frames, *looked.shape[1:]), np.uint8)
    for frame in range(n_frames):
        wanted = looked[first[frame] : max(last[frame], first[frame] + 1)].min(axis=0)
        if frame:
            held = smooth[frame - 1]
            rises = wanted.astype(np.int16) > held.astype(np.int16) + deadband
            wanted = np.where((wanted < held) | rises | (wanted == BACKGROUND), wanted, held)
        smooth[frame] = wanted
    return smooth


@dataclass(frozen=True)
class PlannedMap:
    """A map in an encoder's QPs. notes: what of the levels its range or the background's QP cut off."""

    map: QPMap
    notes: tuple[str, ...]


def background_qp_of(asked: int | None, capabilities: Capabilities) -> int:
    """The background's QP: as asked, or the useful top of the encoder's range. Raises UnsupportedError."""
    if asked is None:
        return min(capabilities.qp_max, BACKGROUND_QP)
    capabilities.require_qp(asked)
    return asked


def qp_map_of(
    levels: Levels, width: int, height: int, block_size: int, background_qp: int, qp_range: tuple[int, int]
) -> PlannedMap:
    """Levels as QPs: uint8 [frames, rows, cols] -> map. Background gets its QP, no object more than that.

    The label space and the encoders' ranges count in the same quantiser steps, so a level is a QP.
    """
    low, high = qp_range
    background = levels == BACKGROUND
    wanted = np.where(background, background_qp, np.clip(levels, UNREACHED, max(UNREACHED, background_qp)))
    inside = levels[~background]
    notes = []
    if not inside.size:
        notes.append(f"no object was found: everything is background, at QP {background_qp}")
    elif not (inside < background_qp).any():
        notes.append(f"every object is recognised at the background's QP {background_qp} already: all is coded at it")
    # A level of 0 says that machines lost the object at the lowest QP that was ever measured.
    if unmet := int((inside <= UNREACHED).sum()):
        notes.append(f"no level is predicted to reach the target in {unmet} blocks: coded at QP {UNREACHED}")
    return PlannedMap(QPMap(np.clip(wanted, low, high).astype(np.int16), block_size, width, height), tuple(notes))


def without_needless_maps(planned: PlannedMap, segments: Sequence[range], background_qp: int) -> PlannedMap:
    """Of a clip with pooled levels: segments that objects cover for the most part, at the mean of their blocks' QPs."""
    qp = planned.map.qp.copy()
    covered = 0
    for segment in segments:
        part = qp[segment.start : segment.stop]
        inside = part < background_qp
        if inside.mean() > MOST_BLOCKS:
            covered += 1
            part[:] = round(float(part[inside].mean()))
    if not covered:
        return planned
    note = (
        f"{covered} of {len(segments)} segments are coded at one QP each: objects cover most of them, and a map would"
        " cost more than it saves; --pool each keeps it"
    )
    return PlannedMap(planned.map.with_qp(qp), (*planned.notes, note))
