"""uvg266 (VVC, QP 0..51): block maps for VVC, by its own program only; FFmpeg has no library of it.

It descends from kvazaar and shares its command line and ROI files, so this file follows `codec_wrappers.kvazaar`.
Where the two may differ the map rules are the stricter reading: HEVC's narrower jumps, and no restart of the
prediction at the start of a row. An illegal map makes uvg266 exit 0 with a stream that does not decode.
"""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path

from codec_wrappers.capabilities import Capabilities, Codec
from codec_wrappers.encoder import EncodeCommand, EncodeJob, PictureRecord
from codec_wrappers.errors import EncoderError, MissingToolError
from codec_wrappers.ffmpeg import ffmpeg_path
from codec_wrappers.kvazaar import (
    PRESETS,
    ROI_FILE,
    base_qp_for,
    encoder_params,
    in_coding_order,
    program_arguments,
    records_in_display_order,
)
from codec_wrappers.mapio import kvazaar_roi
from codec_wrappers.native import find_program, native_command
from codec_wrappers.process import run_process
from codec_wrappers.qpmap import CTU_SIZE, QPMap
from codec_wrappers.qpmap_legal import HEVC_MAX_FALL, HEVC_MAX_RISE, MapRules, require_legal
from codec_wrappers.trial import SIDE, TRIAL_TIMEOUT_S, Trial, native_trial

HOW_TO_GET = (
    "build it from https://github.com/ultravideo/uvg266 (cmake, make) and put it on PATH or name it with "
    "--encoder-path; for block QPs without it use --codec hevc-kvazaar"
)
_QP_CANDIDATES = (63, 51)
_VERSION = re.compile(r"uvg266\D{0,20}(\d[\w.\-]*)", re.IGNORECASE)


class Uvg266Encoder:
    """Encoder plug-in for a `uvg266` program, given or on PATH."""

    name = "uvg266"
    codec: Codec = "vvc"
    raw_format = "vvc"
    default_preset = "faster"

    def __init__(self, executable: Path | None = None) -> None:
        """executable: the program; None: the one on PATH, looked for when it is needed."""
        self._executable = executable

    @property
    def program(self) -> Path:
        """Raises MissingToolError, which says how to get it."""
        found = self._executable or find_program("uvg266")
        if found is None or not found.is_file():
            raise MissingToolError(f"{found or 'uvg266'}: no such program; {HOW_TO_GET}")
        return found

    def capabilities(self) -> Capabilities:
        version, qp_max, takes_maps = _asked(str(self.program))
        return Capabilities(
            path=str(self.program),
            version=f"uvg266 {version}",
            qp_min=0,
            qp_max=qp_max,
            frame_qp=False,
            block_qp="map" if takes_maps else "none",
            block_size=CTU_SIZE,
            pixel_formats=("yuv420p",),
            presets=PRESETS,
        )

    def map_rules(self) -> MapRules:
        qp_max = _asked(str(self.program))[1]
        return MapRules(0, qp_max, max_fall=HEVC_MAX_FALL, max_rise=HEVC_MAX_RISE, rows_restart=False)

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
        words = program_arguments(self.program, params)
        return EncodeCommand(native_command(job, ffmpeg_path(), words, self.raw_format), files)

    def read_back(self, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
        return records_in_display_order(self, job, log)


@cache
def _asked(program: str) -> tuple[str, int, bool]:
    """Version, highest QP and whether a block map acts, by trial."""

    def ask(qp: int, *options: str) -> Trial:
        return native_trial(program, "--preset", "ultrafast", "--qp", str(qp), "--period", "1", "--gop", "0", *options)

    plain = ask(30)
    if not plain.accepted:
        raise MissingToolError(f"{program}: does not run as uvg266 ({plain.log[-200:]}); {HOW_TO_GET}")
    qp_max = next((qp for qp in _QP_CANDIDATES if ask(qp).accepted), 51)
    with tempfile.TemporaryDirectory(prefix="vcm-trial-") as folder:
        roi = Path(folder) / ROI_FILE
        roi.write_bytes(kvazaar_roi.to_binary(QPMap.flat(40, SIDE, SIDE), 30))
        mapped = ask(30, "--roi", str(roi))
    return _version(program), qp_max, mapped.accepted and mapped.stream != plain.stream


def _version(program: str) -> str:
    try:
        told = run_process([program, "--version"], timeout_s=TRIAL_TIMEOUT_S).log
    except EncoderError as error:
        told = str(error)
    match = _VERSION.search(told)
    return match.group(1) if match else "of unknown version"
