"""What an encode gave, in numbers: the value that the summary, the JSON and the notebook share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class SegmentReport:
    """One segment. qp: as planned; intra_qp: slice QP of its intra picture, read back (None: the encoder does not
    tell). smr: mean over the sampled frames, None when not measured or no machine is valid; smr_min: the worst
    frame. bits: coded pictures. probes: encodes that the search took. reached: it meets the target."""

    start: int
    stop: int
    qp: int
    intra_qp: float | None
    smr: float | None
    smr_min: float | None
    bits: int
    probes: int
    reached: bool


@dataclass(frozen=True)
class AnchorReport:
    """Bits of the same segments at a fixed QP, to compare with. segments: how many were coded for it; saving:
    1 - bits / anchor bits over those, as a fraction (negative when the anchor is smaller)."""

    qp: int
    segments: int
    bits: int
    saving: float


@dataclass(frozen=True)
class EncodeReport:
    """A finished encode.

    mode: 'measured' (by machines) or 'fixed' (a QP was given). target: SMR asked for, None for a fixed QP.
    smr, smr_min: over all sampled frames of all segments, None when not measured. reached: every segment meets
    the target. bits: coded pictures; file_bytes: size on disk. seconds: wall time of the whole job.
    """

    mode: str
    input: Path
    output: Path
    encoder: str
    encoder_version: str
    preset: str
    width: int
    height: int
    n_frames: int
    duration: float
    target: float | None
    task: str | None
    smr: float | None
    smr_min: float | None
    reached: bool
    segments: tuple[SegmentReport, ...]
    bits: int
    file_bytes: int
    anchor: AnchorReport | None
    probes: int
    seconds: float
    notes: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    @property
    def bits_per_pixel(self) -> float:
        """Bits per pixel over all frames."""
        return self.bits / (self.width * self.height * self.n_frames)

    @property
    def kilobits_per_second(self) -> float | None:
        """Rate in 1000 bits per second, None for a still."""
        return None if self.n_frames == 1 else self.bits / self.duration / 1000.0
