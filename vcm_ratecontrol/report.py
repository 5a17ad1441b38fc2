"""What an encode gave, in numbers: the values that the summary, the JSON and the notebook share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec_wrappers.pipeline import CodedJob
    from vcm_ratecontrol.ratecontrol.measured import SegmentChoice
    from vcm_ratecontrol.ratecontrol.planning import Curves
    from vcm_ratecontrol.scoring import Tasks


@dataclass(frozen=True)
class SegmentReport:
    """One segment. qp: as planned, or the next where the encoder had room; intra_qp: slice QP of its intra picture,
    read back (None: the encoder does not tell). smr: mean over the sampled frames, None when not measured or no machine
    is valid; smr_min: the worst frame. predicted_smr, predicted_low, predicted_high: SMR at the QP by the curves and
    its 80 % band, None without curves. bits: coded pictures, None where nothing was coded; predicted_bits: by the
    curves, None without. probes: encodes that were tried. reached: it meets the target, or the job does where the mean
    was asked for."""

    start: int
    stop: int
    qp: int
    intra_qp: float | None
    smr: float | None
    smr_min: float | None
    predicted_smr: float | None
    predicted_low: float | None
    predicted_high: float | None
    bits: int | None
    predicted_bits: int | None
    probes: int
    reached: bool


@dataclass(frozen=True)
class AnchorReport:
    """Bits of the same segments at a fixed QP, to compare with. segments: how many were coded for it; saving:
    1 - bits / anchor bits over those, as a fraction (negative when the anchor is smaller). measured: the anchor was
    coded; else its bits are predicted."""

    qp: int
    segments: int
    bits: int
    saving: float
    measured: bool = True


@dataclass(frozen=True)
class VerifiedSmr:
    """SMR of the final file as machines measured it. smr, smr_min: mean and worst of the frames looked at, None where
    no machine is valid; frames: how many had a valid machine."""

    smr: float | None
    smr_min: float | None
    frames: int


@dataclass(frozen=True)
class EncodeReport:
    """A finished encode, or a planned one.

    mode: 'measured' (by machines), 'predicted' or 'fixed' (a QP was given). target: SMR asked for, None for a fixed QP;
    pool: 'each' or 'mean', floor: lowest SMR of a segment under 'mean'. smr: mean over the segments, weighted by
    frames; smr_min: worst sampled frame; None when not measured. predicted_smr and its band: the same mean of what the
    curves say. reached: every segment meets the target, or under 'mean' the whole job does. verified: with
    `verify_smr`. bits: coded pictures; file_bytes: size on disk; None where nothing was written (bits: unless probes
    tell them). predicted_bits: by the curves, None without. commands: with the pieces beside the output. seconds: wall
    time of the whole job.
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
    pool: str | None
    floor: float | None
    smr: float | None
    smr_min: float | None
    predicted_smr: float | None
    predicted_low: float | None
    predicted_high: float | None
    reached: bool
    segments: tuple[SegmentReport, ...]
    bits: int | None
    predicted_bits: int | None
    file_bytes: int | None
    anchor: AnchorReport | None
    verified: VerifiedSmr | None
    probes: int
    seconds: float
    notes: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    @property
    def bits_per_pixel(self) -> float | None:
        """Bits per pixel over all frames; None without bits."""
        return None if self.bits is None else self.bits / (self.width * self.height * self.n_frames)

    @property
    def kilobits_per_second(self) -> float | None:
        """Rate in 1000 bits per second, None for a still, and without bits."""
        return None if self.bits is None or self.n_frames == 1 else self.bits / self.duration / 1000.0


def total(values: Iterable[int | None]) -> int | None:
    """Their sum, None where one is not known."""
    told = list(values)
    known = [value for value in told if value is not None]
    return sum(known) if len(known) == len(told) else None


def predicted_bits(curves: Curves | None, choices: Sequence[SegmentChoice]) -> list[int | None]:
    """Of each segment at its QP by the curves; None without."""
    if curves is None:
        return [None] * len(choices)
    return [round(float(curves.bits[row, curves.column(one.segment.qp)])) for row, one in enumerate(choices)]


def predicted_anchor(
    qp: int, curves: Curves, choices: Sequence[SegmentChoice], coded_bits: Sequence[int]
) -> AnchorReport:
    """The anchor's bits by the bits curves, each moved to go through what was coded."""
    anchor_bits = 0.0
    for row, (choice, bits) in enumerate(zip(choices, coded_bits, strict=True)):
        at_anchor, here = (curves.bits[row, curves.column(at)] for at in (qp, choice.segment.qp))
        anchor_bits += bits * float(at_anchor / here)
    bits = sum(coded_bits)
    return AnchorReport(qp, len(coded_bits), round(anchor_bits), 1.0 - bits / anchor_bits, measured=False)


def segment_report(
    choice: SegmentChoice, piece: CodedJob | None, task: Tasks, predicted_bits: int | None
) -> SegmentReport:
    """What became of one segment. piece: its final encode, None for a plan."""
    from vcm_ratecontrol.scoring import clip_smr

    measured = clip_smr(choice.probe.frames, task) if choice.probe else None
    pictures = piece.pictures if piece else ()
    intra = next((picture.qp for picture in pictures if picture.kind == "I"), None)
    probed = choice.probe.bits if choice.probe else None  # the accepted probe is the final encode
    # Where no machine sees anything there is nothing that a curve could be right about.
    predicted = choice.predicted if choice.seen else None
    return SegmentReport(
        start=choice.segment.start,
        stop=choice.segment.stop,
        qp=piece.segments[0].qp if piece else choice.segment.qp,
        intra_qp=intra,
        smr=measured.mean if measured else None,
        smr_min=measured.minimum if measured else None,
        predicted_smr=predicted.smr if predicted else None,
        predicted_low=predicted.low if predicted else None,
        predicted_high=predicted.high if predicted else None,
        bits=piece.bits if piece else probed,
        predicted_bits=predicted_bits,
        probes=choice.probes,
        reached=choice.reached,
    )


def yield_notes(path: Path, choices: Sequence[SegmentChoice], coded: Sequence[CodedJob]) -> list[str]:
    """What is told where segments had to be coded at higher QPs than were chosen, see `pieces.Pieces`."""
    qps = [(choice.segment.qp, piece.segments[0].qp) for choice, piece in zip(choices, coded, strict=True)]
    moved = [f"QP {actual} instead of {chosen}" for chosen, actual in qps if actual != chosen]
    if not moved:
        return []
    more = f", and {len(moved) - 1} more segment(s) in this way" if len(moved) > 1 else ""
    return [f"{path}: coded at {moved[0]}{more}, as the encoder has no room for the bits that it takes there"]


def size_notes(path: Path, file_bytes: int, target: float) -> list[str]:
    """What is told where a result is larger than its input, which may be gone by now."""
    given = path.stat().st_size if path.is_file() else file_bytes
    if file_bytes <= given:
        return []
    return [
        f"{path}: {file_bytes:,} bytes are more than the {given:,} of the input, which was coded coarser than SMR"
        f" {target:g} asks: keep that, or ask for less"
    ]


def frame_mean(segments: Sequence[SegmentReport], name: str) -> float | None:
    """Mean of a field over the segments that have it, weighted by their frames; None when none has."""
    told = [(value, s.stop - s.start) for s in segments if (value := getattr(s, name)) is not None]
    return sum(value * frames for value, frames in told) / sum(frames for _, frames in told) if told else None
