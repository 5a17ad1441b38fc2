"""kvazaar (HEVC, QP 0..51): the encoder that takes a QP per block, through ffmpeg's libkvazaar or its own program.

What was measured on kvazaar 2.3.2 and shapes this file:

- Options take effect in their order: `preset` comes first. A wrong preset is ignored in silence, so the names
  are checked before.
- Intra pictures are coded at QP-3 unless `intra-qp-offset=0`; then the slice QP of the intra picture is the
  plan's QP, and pictures of the hierarchy lie 4 to 9 above it.
- ROI maps are read in **coding** order, one per picture, not in display order.
- A block without residual codes no QP, and the next one is predicted from the last that did: a jump may arise
  between blocks that are no neighbours. The legaliser knows (`MapRules`).
- With wavefronts (`wpp`) each row of blocks starts from the slice QP. The base QP is chosen so that this is
  never a jump.
- libkvazaar inside ffmpeg takes sizes in multiples of 8 only: pictures are padded, and the stream is told to
  crop again (`hevc_metadata`).
- The output does not depend on the number of threads.
"""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from codec_wrappers.capabilities import Capabilities, Codec
from codec_wrappers.coding_order import dyadic_order
from codec_wrappers.encoder import EncodeCommand, EncodeJob, Encoder, PictureRecord
from codec_wrappers.errors import EncoderError, MissingToolError
from codec_wrappers.ffmpeg import ffmpeg_encoder_help, ffmpeg_path, ffmpeg_version, supported_pixel_formats
from codec_wrappers.mapio import kvazaar_roi
from codec_wrappers.native import find_program, native_command
from codec_wrappers.params import param_string
from codec_wrappers.qpmap import CTU_SIZE, QPMap
from codec_wrappers.qpmap_legal import HEVC_MAX_FALL, HEVC_MAX_RISE, MapRules, require_legal
from codec_wrappers.rawinput import raw_input_arguments
from codec_wrappers.traceheaders import TRACE_FILTER, read_trace
from codec_wrappers.trial import SIDE, Trial, ffmpeg_trial, native_trial

# From kvazaar's manual, fastest first; there is no way to ask a binary for them.
PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
# The longest hierarchy that kvazaar has: 3 to 8 % fewer bits than 8 in every preset (40 frames of a street).
GOP = 16
# libkvazaar refuses sizes that are no multiple of its smallest coding unit.
SIZE_MULTIPLE = 8
ROI_FILE = "roi.bin"
_QP_CANDIDATES = (63, 51)
# ffmpeg warns of an option that libkvazaar refuses, and goes on without it.
_IGNORED = re.compile(r"\[libkvazaar @ [^\]]*\] Invalid option: (\S+?)\.?$", re.MULTILINE)
_VERSION = re.compile(rb"Kvazaar HEVC Encoder v\. (\S+)")


class KvazaarEncoder:
    """Encoder plug-in for libkvazaar inside ffmpeg, or for a `kvazaar` program."""

    name = "kvazaar"
    codec: Codec = "hevc"
    raw_format = "hevc"
    default_preset = "faster"

    def __init__(self, executable: Path | None = None) -> None:
        """executable: a `kvazaar` program; None: the library in ffmpeg, or else the program on PATH."""
        self.ffmpeg = ffmpeg_path()
        self.program = executable
        if executable is None and not _has_library(str(self.ffmpeg)):
            self.program = find_program("kvazaar")
            if self.program is None:
                raise MissingToolError(
                    f"kvazaar: {self.ffmpeg} has no libkvazaar and no kvazaar is on PATH; unset VCM_FFMPEG"
                )

    def capabilities(self) -> Capabilities:
        path = self.program or self.ffmpeg
        version, qp_max, takes_maps = _asked(str(self.ffmpeg), str(self.program or ""))
        formats: tuple[str, ...] = ("yuv420p",)
        where = f"kvazaar {version}"
        if self.program is None:
            formats = supported_pixel_formats(ffmpeg_encoder_help(self.ffmpeg, "libkvazaar"))
            where = f"ffmpeg {ffmpeg_version(self.ffmpeg)}, libkvazaar {version}"
        return Capabilities(
            path=str(path),
            version=where,
            qp_min=0,
            qp_max=qp_max,
            frame_qp=False,
            block_qp="map" if takes_maps else "none",
            block_size=CTU_SIZE,
            pixel_formats=formats,
            presets=PRESETS,
        )

    def map_rules(self) -> MapRules:
        qp_max = _asked(str(self.ffmpeg), str(self.program or ""))[1]
        return MapRules(0, qp_max, max_fall=HEVC_MAX_FALL, max_rise=HEVC_MAX_RISE, rows_restart=True)

    def command(self, job: EncodeJob) -> EncodeCommand:
        (segment,) = job.segments
        base_qp, files = segment.qp, {}
        if job.qp_map is not None:
            require_legal(job.qp_map, self.map_rules(), CTU_SIZE, self.name)
            base_qp = base_qp_for(job.qp_map, segment.qp)
            files = {ROI_FILE: kvazaar_roi.to_binary(in_coding_order(job.qp_map, job), base_qp)}
        params = encoder_params(job, base_qp)
        if files:
            params["roi"] = str(job.work_dir / ROI_FILE)
        if self.program is not None:
            words = program_arguments(self.program, params)
            return EncodeCommand(native_command(job, self.ffmpeg, words, self.raw_format), files)
        return EncodeCommand(self._ffmpeg_arguments(job, params), files)

    def _ffmpeg_arguments(self, job: EncodeJob, params: dict[str, str | int]) -> tuple[str, ...]:
        extra_x = -job.format.padded_width % SIZE_MULTIPLE
        extra_y = -job.format.padded_height % SIZE_MULTIPLE
        pad: tuple[str, ...] = ()
        filters = [TRACE_FILTER]
        if extra_x or extra_y:
            pad = ("-vf", f"pad=w=iw+{extra_x}:h=ih+{extra_y},fillborders=right={extra_x}:bottom={extra_y}:mode=smear")
            filters.insert(0, f"hevc_metadata=crop_right={extra_x}:crop_bottom={extra_y}")
        return (
            str(self.ffmpeg),
            *raw_input_arguments(job),
            *pad,
            *("-c:v", "libkvazaar", "-kvazaar-params", param_string(params, ",")),
            *("-bsf:v", ",".join(filters)),
            str(job.output),
        )

    def read_back(self, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
        """Slice QPs from the stream. Raises EncoderError when an option was ignored, or maps met other pictures."""
        if ignored := _IGNORED.search(log):
            raise EncoderError(f"kvazaar: ignored the option {ignored.group(1)}; this version does not know it")
        return records_in_display_order(self, job, log)


def records_in_display_order(encoder: Encoder, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
    """Slice QPs from the stream. Raises EncoderError when a moving map met the pictures in another order."""
    records = read_trace(encoder.codec, log)
    moving = job.qp_map is not None and job.qp_map.n_frames > 1
    if records and moving and [record.index for record in records] != coding_order(job):
        raise EncoderError(
            f"{encoder.name}: coded the pictures in another order than their maps were written in; "
            "use one map for all frames"
        )
    return tuple(sorted(records, key=lambda record: record.index))


def program_arguments(program: Path, params: dict[str, str | int]) -> tuple[str, ...]:
    """Command line of a `kvazaar` or `uvg266` program, with the places that `native_command` fills in."""
    switches = {"info": "no-info", "wpp": "wpp"}
    words = [str(program), "--input", "-", "--output", "{raw}", "--input-res", "{size}", "--input-fps", "{rate}"]
    for key, value in params.items():
        words += [f"--{switches[key]}"] if key in switches else [f"--{key}", str(value)]
    return tuple(words)


def encoder_params(job: EncodeJob, base_qp: int) -> dict[str, str | int]:
    """kvazaar's options for a job, in the order in which they must be given."""
    intra_only = job.coding == "still"
    return {
        "preset": job.preset,
        "qp": base_qp,
        "intra-qp-offset": 0,
        "gop": 0 if intra_only else GOP,
        # One intra picture, the first: the smallest period that kvazaar allows and the job does not reach.
        "period": 1 if intra_only else -(-job.n_frames // GOP) * GOP,
        "wpp": 1,
        "owf": 0,
        "threads": 0,
        "hash": "none",
        "info": 0,
    }


def base_qp_for(qp_map: QPMap, qp: int) -> int:
    """The QP nearest to `qp` from which every block of the map can be reached (the slice QP of the intra picture)."""
    lowest, highest = int(qp_map.qp.min()), int(qp_map.qp.max())
    return min(max(qp, highest - HEVC_MAX_RISE), lowest + HEVC_MAX_FALL)


def coding_order(job: EncodeJob) -> list[int]:
    """Display indices of the job's frames in the order in which kvazaar codes them."""
    return list(range(job.n_frames)) if job.coding == "still" else dyadic_order(job.n_frames, GOP)


def in_coding_order(qp_map: QPMap, job: EncodeJob) -> QPMap:
    """The job's map with its frames in coding order; a single map stays as it is."""
    if qp_map.n_frames == 1:
        return qp_map
    return qp_map.with_qp(qp_map.per_frame(job.n_frames).qp[np.array(coding_order(job))])


@cache
def _has_library(ffmpeg: str) -> bool:
    try:
        ffmpeg_encoder_help(Path(ffmpeg), "libkvazaar")
    except MissingToolError:
        return False
    return True


@cache
def _asked(ffmpeg: str, program: str) -> tuple[str, int, bool]:
    """Version, highest QP and whether a block map acts, by trial."""

    def ask(**params: str | int) -> Trial:
        if program:
            options = [word for key, value in params.items() for word in (f"--{key}", str(value))]
            return native_trial(program, *options)
        return ffmpeg_trial(
            ffmpeg, "-c:v", "libkvazaar", "-kvazaar-params", param_string(params, ","), raw_format="hevc"
        )

    plain = ask(preset="ultrafast", qp=30, period=1, gop=0)
    if not plain.accepted:
        raise MissingToolError(f"{program or ffmpeg}: kvazaar does not run; {plain.log[-200:]}")
    version = _VERSION.search(plain.stream)
    qp_max = next((qp for qp in _QP_CANDIDATES if ask(preset="ultrafast", qp=qp, period=1, gop=0).accepted), 51)
    with tempfile.TemporaryDirectory(prefix="vcm-trial-") as folder:
        roi = Path(folder) / ROI_FILE
        roi.write_bytes(kvazaar_roi.to_binary(QPMap.flat(40, SIDE, SIDE), 30))
        mapped = ask(preset="ultrafast", qp=30, period=1, gop=0, roi=str(roi))
    acts = mapped.accepted and mapped.stream != plain.stream
    return version.group(1).decode() if version else "of unknown version", qp_max, acts
