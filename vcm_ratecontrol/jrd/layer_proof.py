"""Proof that pre-coding acts: background is coarser than in a flat coding, the finest objects are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec_wrappers.color import split_planes
from codec_wrappers.encoder import Encoder
from codec_wrappers.errors import MapHadNoEffectError
from codec_wrappers.frames import FrameSource, PixelFormat
from codec_wrappers.pipeline import EncodeOptions, encode_segment, pixel_format
from codec_wrappers.plan import Segment
from codec_wrappers.process import ProcessGroup
from vcm_ratecontrol.jrd.layers import BLOCK_SIZE, LayeredSource, SegmentLayers

# The finest objects may lose this much (mean squared error, 8-bit luma) to their new surroundings: prediction across
# a border and filters over it.
WORSE_FACTOR, WORSE_MARGIN = 1.3, 1.0


def prove_layers(
    plan: Sequence[SegmentLayers],
    source: LayeredSource,
    encoder: Encoder,
    options: EncodeOptions,
    folder: Path,
    group: ProcessGroup,
) -> None:
    """Code one frame flat and pre-coded, each as a still at the finest QP, and compare the errors block by block.

    The frame is one with the most blocks in other layers. Where the pre-coded picture is the original itself (nothing
    in it that a QP could change) there is nothing to prove. Raises MapHadNoEffectError.
    """
    layers = max(plan, key=lambda one: np.count_nonzero(one.choice) / one.choice.shape[0])
    if not layers.choice.any():
        return
    index = int(np.count_nonzero(layers.choice, axis=(1, 2)).argmax())
    frame, choice = layers.segment.start + index, layers.choice[index]
    pix_fmt = pixel_format(encoder.capabilities())
    (original,), (made,) = (list(s.read(frame, frame + 1, pix_fmt)) for s in (source.clip, source))
    if made == original:
        return
    still = replace(options, coding="still")
    errors = []
    for name, picture in (("flat", original), ("layered", made)):
        one = _OneFrame(source, picture)
        segment = Segment(0, 1, layers.qps[0])
        piece = encode_segment(segment, one, encoder, folder / f"proof-{name}", still, group).piece
        (decoded,) = source.decoded(piece, 0, 1, pix_fmt)
        errors.append(_block_errors(original, decoded, source, pix_fmt, choice.shape))
    flat, layered = errors
    fine = choice == 0
    if not layered[~fine].mean() > flat[~fine].mean():
        raise MapHadNoEffectError(
            f"{encoder.name}: pre-coding changed nothing on frame {frame}: the background's QP"
            f" {layers.qps[-1]} is no coarser than {layers.qps[0]}; raise --background-qp"
        )
    if fine.any() and layered[fine].mean() > WORSE_FACTOR * flat[fine].mean() + WORSE_MARGIN:
        raise MapHadNoEffectError(
            f"{encoder.name}: pre-coding spoilt the objects of frame {frame} (error {layered[fine].mean():.1f}, flat"
            f" {flat[fine].mean():.1f}); use --codec hevc-kvazaar, which takes QPs by block"
        )


class _OneFrame:
    """A frame that is there already. A `FrameSource`."""

    def __init__(self, like: FrameSource, frame: bytes) -> None:
        self.format, self.n_frames, self._frame = like.format, 1, frame

    def read(self, start: int, stop: int, pix_fmt: PixelFormat):  # type: ignore[no-untyped-def]
        for _ in range(start, stop):
            yield self._frame


def _block_errors(
    original: bytes, decoded: bytes, source: FrameSource, pix_fmt: PixelFormat, shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Mean squared error of each block's luma in 8-bit steps: float64 [rows, cols]."""
    width, height = source.format.padded_width, source.format.padded_height
    before, after = (split_planes(frame, width, height, pix_fmt)[0].astype(np.float64) for frame in (original, decoded))
    squared = (after - before) ** 2 / (16.0 if pix_fmt == "yuv420p10le" else 1.0)
    rows, cols = shape
    errors = np.zeros((rows, cols))
    for row, col in np.ndindex(rows, cols):
        top, left = row * BLOCK_SIZE, col * BLOCK_SIZE
        errors[row, col] = squared[top : top + BLOCK_SIZE, left : left + BLOCK_SIZE].mean()
    return errors
