"""Coded versions of annotated pictures, made when first asked for and kept in a bounded cache.

Of stills the bitstream is kept (some ten kilobytes) and decoded each time; of a clip's frames the decoded frame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

from codec_wrappers.encoder import Encoder, get_encoder
from codec_wrappers.errors import InputError
from codec_wrappers.still import EncodedStill, StillSource, decode_still, encode_still
from vcm_ratecontrol.annotate.clips import SEGMENT_SECONDS, coded_segment
from vcm_ratecontrol.annotate.picture import Spent
from vcm_ratecontrol.annotate.sources import local_copy, scaled
from vcm_ratecontrol.training.disk_cache import DiskCache
from vcm_ratecontrol.training.label_set import LabelSet
from vcm_ratecontrol.training.pictures import FRAME_MARK, RGB, PictureStore, from_png, to_png

_HEADER = struct.Struct("<HH")  # width, height without padding


@dataclass(frozen=True)
class CodedPictures:
    """Gives pictures as the machines of the labels saw them. Safe for threads."""

    store: PictureStore
    cache: DiskCache

    def rgb(self, labels: LabelSet, row: int, qp: int) -> RGB:
        """A picture of a label set after coding at `qp`: uint8 [H, W, 3].

        Raises InputError (picture gone), EncoderError, MissingToolError (no such encoder here).
        """
        name = self._name(labels, labels.verdicts.pictures[row], qp)
        kept = self.cache.get(name)
        if labels.config.coding != "still":
            return from_png(kept) if kept is not None else self._code_segment(labels, row, qp)
        encoder = get_encoder(labels.config.encoder)
        if kept is None:
            kept = code_still(self.store.rgb(labels, row), qp, encoder, labels.config.preset)
            self.cache.put(name, kept)
        return decode_kept(kept, qp, encoder)

    def _name(self, labels: LabelSet, picture: str, qp: int) -> str:
        config = labels.config
        return (
            f"coded {config.encoder} {config.encoder_version} {config.preset} {config.coding} {config.max_side}"
            f" {qp} {picture}"
        )

    def _code_segment(self, labels: LabelSet, row: int, qp: int) -> RGB:
        """Code the segment that a frame lies in, and keep all its annotated frames."""
        path, index = self.store.clip_of(labels, row)
        frames, rate, start = _segment_around(path, index, labels.config.max_side)
        clip_name = labels.sources[row].rpartition(FRAME_MARK)[0]
        picks: dict[int, int] = {}
        for other, source in enumerate(labels.sources):
            name, _, number = source.rpartition(FRAME_MARK)
            if name == clip_name and 0 <= int(number) - start < len(frames):
                picks[int(number) - start] = other
        encoder, spent = get_encoder(labels.config.encoder), Spent()
        wanted = sorted(picks)
        versions = coded_segment(frames, rate, wanted, encoder, labels.config.preset, [qp], spent)
        decoded = {picks[pick]: version[0][1] for pick, version in zip(wanted, versions, strict=True)}
        for other, rgb in decoded.items():
            self.cache.put(self._name(labels, labels.verdicts.pictures[other], qp), to_png(rgb))
        if row not in decoded:
            raise InputError(f"{labels.sources[row]}: its segment does not hold it; the clip has changed")
        return decoded[row]


def code_still(picture: RGB, qp: int, encoder: Encoder, preset: str | None) -> bytes:
    """A still's size and bitstream in one piece, for `decode_kept`."""
    still = encode_still(StillSource(picture), qp, encoder, preset)
    return _HEADER.pack(still.width, still.height) + still.data


def decode_kept(kept: bytes, qp: int, encoder: Encoder) -> RGB:
    """uint8 [H, W, 3]."""
    width, height = _HEADER.unpack_from(kept)
    return decode_still(EncodedStill(kept[_HEADER.size :], encoder.codec, qp, None, width, height, 0.0))


def _segment_around(path: str, index: int, max_side: int) -> tuple[list[RGB], Fraction, int]:
    """Frames of the segment that holds a frame, the clip's frame rate, and the segment's first frame."""
    from vcm_ratecontrol.media import cut_segments, open_clip

    with local_copy(path) as file:
        clip = open_clip(file)
        for segment in cut_segments(clip, SEGMENT_SECONDS):
            if segment.start <= index < segment.stop:
                frames = [scaled(rgb, max_side) for rgb in clip.read_rgb(range(segment.start, segment.stop))]
                return frames, clip.frame_rate, segment.start
    raise InputError(f"{path}: no segment holds frame {index}")
