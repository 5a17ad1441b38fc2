"""x265 (HEVC, QP 0..51) through ffmpeg's libx265, or its own program.

What was measured on x265 4.3 and shapes this file:

- A fixed QP codes intra pictures at QP-3 unless `ipratio=1`; then the slice QP of intra and P pictures is the
  plan's QP, and B pictures lie 1 and 2 above it.
- Several QPs in one process: `zones=first,last,q=QP`. With `qp=` libx265 counts frames from 1, and in coding
  order. Where every zone starts with an IDR picture both orders meet, so one is forced there. With `crf=`
  the first picture of a zone is smoothed with the zone before; so zones go with `qp=`.
- QPs by block: rectangles of the `addroi` filter, in silence ignored with `qp=`. They act, to the exact offset, in
  `crf=Q:qcomp=1:ipratio=1:cutree=0:aq-mode=1:aq-strength=0.01`, and there, too, the slice QP is exactly Q.
- The output depends on whether there is a thread pool, not on its size, once `frame-threads` is fixed.
- The information SEI costs about 2 KB: a third of a small still. It is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec_wrappers.capabilities import Capabilities, Codec
from codec_wrappers.encoder import EncodeCommand, EncodeJob, PictureRecord
from codec_wrappers.errors import MissingToolError, UnsupportedError
from codec_wrappers.ffmpeg import ffmpeg_encoder_help, ffmpeg_path, ffmpeg_version, supported_pixel_formats
from codec_wrappers.frames import PixelFormat
from codec_wrappers.native import find_program, native_command
from codec_wrappers.params import param_string
from codec_wrappers.plan import Segment
from codec_wrappers.qpmap import CTU_SIZE, QPMap
from codec_wrappers.qpmap_legal import MapRules, require_legal
from codec_wrappers.rawinput import raw_input_arguments
from codec_wrappers.traceheaders import TRACE_FILTER, read_trace
from codec_wrappers.trial import SIDE, Trial, ffmpeg_trial, trial

HEVC_QP_MAX = 51
_QP_CANDIDATES = (63, HEVC_QP_MAX)
_VERSION = re.compile(r"HEVC encoder version (\S+)")
_PRESETS = re.compile(r"Possible presets: ([a-z ]+)")
# The command-line program does not list its presets; these are the documented ones.
_PROGRAM_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip


@dataclass(frozen=True)
class Rectangle:
    """Blocks of one QP: left, top, width, height in luma samples."""

    left: int
    top: int
    width: int
    height: int
    qp: int


class X265Encoder:
    """Encoder plug-in for libx265 inside ffmpeg, or for an `x265` program."""

    name = "x265"
    codec: Codec = "hevc"
    raw_format = "hevc"
    default_preset = "medium"

    def __init__(self, executable: Path | None = None) -> None:
        """executable: an `x265` program; None: the library in ffmpeg, or else the program on PATH."""
        self.ffmpeg = ffmpeg_path()
        self.program = executable
        if executable is None and not _has_library(str(self.ffmpeg)):
            self.program = find_program("x265")
            if self.program is None:
                raise MissingToolError(f"x265: {self.ffmpeg} has no libx265 and no x265 is on PATH; unset VCM_FFMPEG")

    def capabilities(self) -> Capabilities:
        path = self.program or self.ffmpeg
        version, qp_max, rectangles, presets = _asked(str(self.ffmpeg), str(self.program or ""))
        formats: tuple[str, ...] = ("yuv420p", "yuv420p10le")
        where = f"x265 {version}"
        if self.program is None:
            formats = supported_pixel_formats(ffmpeg_encoder_help(self.ffmpeg, "libx265"))
            where = f"ffmpeg {ffmpeg_version(self.ffmpeg)}, libx265 {version}"
        return Capabilities(
            path=str(path),
            version=where,
            qp_min=0,
            qp_max=qp_max,
            frame_qp=self.program is None,
            block_qp="rectangles" if rectangles else "none",
            block_size=CTU_SIZE if rectangles else 0,
            pixel_formats=formats,
            presets=presets,
        )

    def map_rules(self) -> MapRules:
        """The range only: how blocks follow each other is x265's own business, it signals smaller steps itself."""
        return MapRules(0, _asked(str(self.ffmpeg), str(self.program or ""))[1])

    def command(self, job: EncodeJob) -> EncodeCommand:
        params = _params(job)
        if self.program is not None:
            if job.qp_map is not None:
                raise UnsupportedError(f"QP map: {self.program} takes none; use the x265 inside ffmpeg, or kvazaar")
            return EncodeCommand(
                native_command(job, self.ffmpeg, self._program_arguments(job, params), self.raw_format)
            )
        filters: tuple[str, ...] = ()
        if job.qp_map is not None:
            rules = self.map_rules()
            require_legal(job.qp_map, rules, CTU_SIZE, self.name)
            marks = _addroi(job, job.qp_map)
            filters = ("-vf", ",".join(marks)) if marks else ()
        return EncodeCommand(
            (
                str(self.ffmpeg),
                *raw_input_arguments(job),
                *filters,
                *("-c:v", "libx265", "-preset", job.preset, "-pix_fmt", job.pix_fmt),
                *_forced_idr(job.segments),
                *("-x265-params", param_string(params, ":")),
                *("-bsf:v", TRACE_FILTER, str(job.output)),
            )
        )

    def _program_arguments(self, job: EncodeJob, params: dict[str, str | int | float]) -> tuple[str, ...]:
        if len(job.segments) > 1:
            raise UnsupportedError(f"{self.program}: takes one QP per process; use the x265 inside ffmpeg")
        depth = "10" if job.pix_fmt == "yuv420p10le" else "8"
        words = [str(self.program), "--input", "-", "--input-res", "{size}", "--fps", "{rate}", "--input-csp", "i420"]
        words += ["--input-depth", depth, "--output-depth", depth, "--preset", job.preset]
        switches = {"info": "no-info", "open-gop": "no-open-gop"}
        for key, value in params.items():
            words += [f"--{switches[key]}"] if key in switches else [f"--{key}", str(value)]
        return (*words, "--output", "{raw}")

    def read_back(self, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
        """Slice QPs from the stream; the offsets of rectangles come on top."""
        return tuple(sorted(read_trace(self.codec, log), key=lambda record: record.index))


def _params(job: EncodeJob) -> dict[str, str | int | float]:
    """x265's parameters for a job."""
    base = job.segments[0].qp
    params: dict[str, str | int | float] = {"qp": base, "ipratio": 1}
    if job.qp_map is not None:
        params = {"crf": base, "ipratio": 1, "qcomp": 1, "cutree": 0, "aq-mode": 1, "aq-strength": 0.01}
    if len(job.segments) > 1:
        params["zones"] = "/".join(f"{s.start + 1},{s.stop},q={s.qp}" for s in job.segments)
    return {
        **params,
        # Intra pictures where segments start, and nowhere else; nothing refers across them.
        "keyint": 1 if job.coding == "still" else -1,
        "scenecut": 0,
        "open-gop": 0,
        "pools": 1 if len(job.segments) == 1 else 4,
        "frame-threads": 1,
        "info": 0,
        "log-level": "error",
    }


def _forced_idr(segments: tuple[Segment, ...]) -> tuple[str, ...]:
    if len(segments) == 1:
        return ()
    starts = "+".join(f"eq(n,{segment.start})" for segment in segments)
    return "-force_key_frames", f"expr:{starts}", "-forced-idr", "1"


def _addroi(job: EncodeJob, qp_map: QPMap) -> list[str]:
    """One `addroi` filter per rectangle whose QP is not the job's.

    Raises UnsupportedError for a map that moves, or whose job has several QPs: the filter is static.
    """
    if len({segment.qp for segment in job.segments}) > 1 or (qp_map.qp != qp_map.qp[:1]).any():
        raise UnsupportedError(
            "QP map: x265 takes rectangles that hold for a whole segment at one QP; use kvazaar for moving maps"
        )
    base = job.segments[0].qp
    scale = qp_scale(job.pix_fmt)
    return [
        f"addroi=x={r.left}:y={r.top}:w={r.width}:h={r.height}:qoffset={r.qp - base}/{scale}"
        for r in rectangles(qp_map)
        if r.qp != base
    ]


def qp_scale(pix_fmt: PixelFormat) -> int:
    """What a `qoffset` of 1 means to libx265 in QPs: the whole range at this bit depth."""
    return 63 if pix_fmt == "yuv420p10le" else 51


def rectangles(qp_map: QPMap) -> list[Rectangle]:
    """The first frame of a map as rectangles that do not overlap, each of one QP; few, not the fewest.

    Greedy in raster order: as wide as possible, then as deep as possible.
    """
    qp: npt.NDArray[np.int16] = qp_map.qp[0]
    rows, cols = qp.shape
    done = np.zeros_like(qp, dtype=bool)
    found = []
    for row, col in np.ndindex(rows, cols):
        if done[row, col]:
            continue
        level = qp[row, col]
        right = col + 1
        while right < cols and qp[row, right] == level and not done[row, right]:
            right += 1
        below = row + 1
        while below < rows and (qp[below, col:right] == level).all() and not done[below, col:right].any():
            below += 1
        done[row:below, col:right] = True
        size = qp_map.block_size
        found.append(Rectangle(col * size, row * size, (right - col) * size, (below - row) * size, int(level)))
    return found


@cache
def _has_library(ffmpeg: str) -> bool:
    try:
        ffmpeg_encoder_help(Path(ffmpeg), "libx265")
    except MissingToolError:
        return False
    return True


@cache
def _asked(ffmpeg: str, program: str) -> tuple[str, int, bool, tuple[str, ...]]:
    """Version, highest QP, whether rectangles act, and names of presets, by trial."""
    return _asked_program(program) if program else _asked_library(ffmpeg)


def _asked_library(ffmpeg: str) -> tuple[str, int, bool, tuple[str, ...]]:
    def ask(params: str, *options: str) -> Trial:
        return ffmpeg_trial(ffmpeg, *options, "-c:v", "libx265", "-x265-params", params, raw_format="hevc")

    refused = ask("qp=30", "-preset", "no-such-preset")
    presets = _PRESETS.search(refused.log)
    plain = ask("crf=30:aq-mode=1:aq-strength=0.01")
    if not plain.accepted:
        raise MissingToolError(f"{ffmpeg}: its libx265 does not run; {plain.log[-200:]}")
    version = _VERSION.search(plain.log)
    qp_max = next((qp for qp in _QP_CANDIDATES if ask(f"qp={qp}").accepted), HEVC_QP_MAX)
    marked = ask("crf=30:aq-mode=1:aq-strength=0.01", "-vf", "addroi=x=0:y=0:w=64:h=64:qoffset=10/51")
    return (
        version.group(1) if version else "of unknown version",
        qp_max,
        marked.accepted and marked.stream != plain.stream,
        tuple(presets.group(1).split()) if presets else (),
    )


def _asked_program(program: str) -> tuple[str, int, bool, tuple[str, ...]]:
    options = ("--input", "-", "--input-res", f"{SIDE}x{SIDE}", "--fps", "25", "--qp", str(HEVC_QP_MAX))
    plain = trial(program, *options, "--output", "/dev/stdout")
    version = _VERSION.search(plain.log)
    if not plain.accepted or version is None:
        raise MissingToolError(f"{program}: does not run as x265; {plain.log[-200:]}")
    # No trial of what lies above: x265 3.5 hangs or crashes on `--qp 52` instead of refusing it.
    return version.group(1), HEVC_QP_MAX, False, _PROGRAM_PRESETS
