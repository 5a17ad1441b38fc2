"""Measuring a coded file against its original: verdicts, SMR, bits, PSNR, SSIM. What vcm-measure prints.

library = MachineLibrary.load("data/machines")
measured = measure(open_clip("in.png"), open_clip("out.mp4"), library)
measured.smr().mean
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError
from vcm_ratecontrol.fidelity import Fidelity, compare, mean_ssim, psnr_db
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds
from vcm_ratecontrol.scoring import (
    ClipSMR,
    FrameScore,
    LookResults,
    MachineRoom,
    OriginalResults,
    Tasks,
    clip_smr,
    opened,
    run_originals,
    score_frames,
)
from vcm_ratecontrol.true_size import cropped_to, without_padding

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from vcm_ratecontrol.machines.library import MachineLibrary
    from vcm_ratecontrol.media.clip import Clip

    RGB = npt.NDArray[np.uint8]

__all__ = [
    "ClipSMR",
    "FrameScore",
    "LookResults",
    "MachineRoom",
    "MachineVerdict",
    "Measurement",
    "OriginalResults",
    "clip_smr",
    "coded_size",
    "default_indices",
    "measure",
    "run_originals",
    "score_frames",
]

#: Frames looked at when nothing else is asked.
DEFAULT_FRAMES = 16


@dataclass(frozen=True)
class MachineVerdict:
    """One machine over all scored frames.

    valid, satisfied, failed: numbers of frames; score: mean of its scores over the valid ones, None without any.
    """

    machine: str
    task: str
    valid: int
    satisfied: int
    failed: int
    score: float | None


@dataclass(frozen=True)
class Measurement:
    """A coded file against its original.

    frames: verdicts of the scored frames, `FrameScore.index` counted in the clip; fidelity: of the same frames.
    bits: coded pictures of the whole file without container; file_bytes: its size on disk.
    width, height: as shown, without padding; n_frames and duration (seconds): of the whole clip.
    """

    frames: tuple[FrameScore, ...]
    fidelity: tuple[Fidelity, ...]
    thresholds: Thresholds
    bits: int
    file_bytes: int
    width: int
    height: int
    n_frames: int
    duration: Fraction

    def smr(self, task: Tasks = "both") -> ClipSMR:
        """Mean and minimum SMR over the scored frames."""
        return clip_smr(self.frames, task)

    @property
    def bpp(self) -> float:
        """Bits per pixel, over all frames of the clip."""
        return self.bits / (self.width * self.height * self.n_frames)

    @property
    def kbps(self) -> float | None:
        """Thousands of bits per second; None for a single picture."""
        return float(self.bits / self.duration / 1000) if self.n_frames > 1 else None

    @property
    def psnr_db(self) -> float:
        """Luma PSNR over the scored frames, dB; infinite when they equal the original's."""
        return psnr_db(self.fidelity)

    @property
    def ssim(self) -> float | None:
        """Luma SSIM, mean over the scored frames; None for pictures below 11x11."""
        return mean_ssim(self.fidelity)

    @property
    def machines(self) -> tuple[MachineVerdict, ...]:
        """The verdicts frame by frame, summed up for each machine."""
        return tuple(_summed(self.frames, place) for place in range(len(self.frames[0].verdicts)))


def measure(
    original: Clip,
    encoded: Clip,
    library: MachineLibrary | MachineRoom,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    indices: Sequence[int] | None = None,
    progress: Progress = SILENT,
) -> Measurement:
    """Decode both files and let every machine of a library judge the coded one.

    indices: frames to look at, rising; by default `default_indices`. Memory holds one frame of each file at a time.
    Raises InputError (sizes or numbers of frames differ; a file damaged) and MachineRunError (no machine works).
    """
    truth = without_padding(original)
    cropped = cropped_to(encoded, truth)
    if original.n_frames != encoded.n_frames:
        raise InputError(
            f"{encoded.path}: has {encoded.n_frames} frames, the original {original.n_frames};"
            " give the file that was coded from this original"
        )
    chosen = default_indices(original) if indices is None else tuple(indices)
    bits, file_bytes = coded_size(encoded)
    progress.phase("measuring", len(chosen))
    scores: list[FrameScore] = []
    fidelity: list[Fidelity] = []
    with opened(library) as room:
        pairs = zip(truth.read_rgb(chosen), cropped.read_rgb(chosen), strict=True)
        for index, (before, after) in zip(chosen, pairs, strict=True):
            scores += score_frames([before], [after], room, thresholds, [index])
            fidelity.append(compare(before, after))
            progress.advance()
    width, height = truth.upright_size
    return Measurement(
        frames=tuple(scores),
        fidelity=tuple(fidelity),
        thresholds=thresholds,
        bits=bits,
        file_bytes=file_bytes,
        width=width,
        height=height,
        n_frames=original.n_frames,
        duration=original.duration,
    )


def default_indices(clip: Clip, frames: int = DEFAULT_FRAMES) -> tuple[int, ...]:
    """Frames spread evenly over a clip; all where it has no more than `frames`."""
    from vcm_ratecontrol.media.sampling import sample_indices

    return sample_indices(range(clip.n_frames), frames)


def coded_size(clip: Clip) -> tuple[int, int]:
    """Bits of the coded pictures without container (of a PNG or JPEG: the file), and bytes of the file."""
    from codec_wrappers.join import coded_bits

    file_bytes = clip.path.stat().st_size
    return (8 * file_bytes if clip.kind == "still" else coded_bits(clip.path)), file_bytes


def _summed(frames: Sequence[FrameScore], place: int) -> MachineVerdict:
    verdicts = [frame.verdicts[place] for frame in frames]
    name, task = verdicts[0].machine, verdicts[0].task
    scores = [verdict.score for verdict in verdicts if verdict.valid]
    return MachineVerdict(
        machine=name,
        task=task,
        valid=len(scores),
        satisfied=sum(verdict.satisfied for verdict in verdicts),
        failed=sum(name in frame.failed for frame in frames),
        score=sum(scores) / len(scores) if scores else None,
    )
