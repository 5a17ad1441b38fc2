"""The Encoder protocol, and the registry through which others add encoders without touching this code.

An encoder here is a small object that turns a job (some frames, their QPs, a preset) into one ffmpeg or
encoder command line, and reads back from what the command printed or wrote which QP and how many bits each
picture really got. It never starts a process: `pipeline` and `still` do.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from codec_wrappers.capabilities import Capabilities, Codec
from codec_wrappers.errors import EncoderError, InputError, MissingToolError
from codec_wrappers.frames import PixelFormat, VideoFormat
from codec_wrappers.plan import Segment

if TYPE_CHECKING:
    from codec_wrappers.qpmap import QPMap
    from codec_wrappers.qpmap_legal import MapRules

ENTRY_POINT_GROUP = "codec_wrappers.encoders"

# Random access (inter coding with a hierarchy), or every picture on its own.
CodingType = Literal["inter", "still"]

# A watchdog, not a limit. The slowest that was measured is VVenC, preset slower, QP 0: 2e-4 s per sample and frame
# of an intra picture on a core of its own, 5e-4 on one that is shared.
TIMEOUT_BASE_S = 300.0
TIMEOUT_PER_SAMPLE_S = 2e-3


@dataclass(frozen=True)
class EncodeJob:
    """One encoder process: raw frames on stdin, one file out.

    segments: frames counted from 0 of this job; one only when the encoder has no per-frame QP.
    qp_map: absolute QPs of this job's frames (one map, or one per frame), already legal for the encoder.
    output: file to write, '.mp4' for video or the raw suffix ('.266', '.265', '.obu') for a still.
    work_dir: private folder for helper files (ROI maps, statistics).
    threads: of VVenC, see `pipeline._run_job`; the others always have one.
    """

    format: VideoFormat
    pix_fmt: PixelFormat
    segments: tuple[Segment, ...]
    preset: str
    coding: CodingType
    output: Path
    work_dir: Path
    qp_map: QPMap | None = None
    threads: int = 1

    @property
    def n_frames(self) -> int:
        return self.segments[-1].stop

    @property
    def timeout_s(self) -> float:
        """Seconds after which an encoder must be hanging."""
        samples = self.format.padded_width * self.format.padded_height * self.n_frames
        return TIMEOUT_BASE_S + TIMEOUT_PER_SAMPLE_S * samples


@dataclass(frozen=True)
class PictureRecord:
    """What became of one coded picture.

    index: display index within the job; kind: 'I', 'P' or 'B'; qp: slice QP read back, None when the
    encoder tells nobody; bits: coded size.
    """

    index: int
    kind: str
    qp: float | None
    bits: int


@dataclass(frozen=True)
class EncodeCommand:
    """A command line and the files it needs.

    argv: the program and its arguments; raw frames are written to its standard input.
    files: contents to write into the job's work folder before the start, by name.
    explain: what the log of a failed run means: the error to raise; None where that is not known.
    """

    argv: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    explain: Callable[[str], EncoderError | None] = field(default=lambda log: None, compare=False)


@runtime_checkable
class Encoder(Protocol):
    """Plug-in for one encoder. `name` is what users type; `raw_format` is ffmpeg's name of the raw stream."""

    name: str
    codec: Codec
    raw_format: str
    default_preset: str

    def capabilities(self) -> Capabilities:
        """What the binary can do. Raises MissingToolError when it is not there."""
        ...

    def map_rules(self) -> MapRules | None:
        """What a QP map must keep to; None when the encoder takes no map, or any."""
        ...

    def command(self, job: EncodeJob) -> EncodeCommand:
        """The command line for a job. Pure: no process, no file."""
        ...

    def read_back(self, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
        """Records in display order from the log (all that was printed) and the job's files; () if untold."""
        ...


@cache
def encoder_names() -> tuple[str, ...]:
    """Names of all registered encoders, sorted."""
    return tuple(sorted(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)))


# What users type for --codec, besides the encoders' own names.
CODEC_ALIASES: dict[str, str] = {
    "vvc": "vvenc",
    "hevc": "x265",
    "hevc-kvazaar": "kvazaar",
    "av1": "svtav1",
}


def get_encoder(name: str, executable: Path | None = None) -> Encoder:
    """The encoder called `name` (a registered name or an alias such as 'vvc').

    executable: a program to use instead of the bundled library, where the encoder takes one; a path, or a name
        on PATH.
    Raises InputError for an unknown name, MissingToolError when the executable is not there.
    """
    wanted = CODEC_ALIASES.get(name, name)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == wanted:
            encoder: Encoder = entry.load()(_found(executable, wanted)) if executable is not None else entry.load()()
            return encoder
    known = ", ".join(sorted({*CODEC_ALIASES, *encoder_names()}))
    raise InputError(f"codec {name!r}: unknown; choose one of {known}")


def _found(executable: Path, encoder: str) -> Path:
    """The absolute path of a program: encoders are started in folders of their own."""
    found = shutil.which(executable)
    if found is None:
        raise MissingToolError(f"{executable}: no such program for {encoder}; check the path")
    return Path(found).absolute()
