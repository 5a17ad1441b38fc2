"""SVT-AV1 (AV1, QP 0..63) through ffmpeg's libsvtav1.

What was measured on SVT-AV1 4.2 and shapes this file:

- `-qp 40` codes the key picture at quantiser index 67, which is QP 17. With `use-fixed-qindex-offsets=1` and
  an offset of 0 for key pictures it is exactly the plan's QP (index 4 x QP; 62 and 63 are 249 and 255).
- Then the hierarchy's offsets are ours to give. They have the proportions of the steps that SVT-AV1 itself takes
  between its key picture and its layers, within the 63 that it allows.
- ffmpeg takes its own option `-qp 0` for 'unset' and codes at 35; as a parameter of the library it is obeyed,
  and means lossless.
- One QP per process: a plan is coded in segments and joined.
- QPs per block go only into SVT-AV1's own application (`--roi-map-file`), not through ffmpeg. A plan with a map is
  refused; `codec_wrappers.mapio.svtav1_lines` writes the file for those who run that application.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from codec_wrappers.capabilities import Capabilities, Codec
from codec_wrappers.encoder import EncodeCommand, EncodeJob, PictureRecord
from codec_wrappers.errors import MissingToolError, UnsupportedError
from codec_wrappers.ffmpeg import ffmpeg_encoder_help, ffmpeg_path, ffmpeg_version, supported_pixel_formats
from codec_wrappers.params import param_string
from codec_wrappers.rawinput import raw_input_arguments
from codec_wrappers.traceheaders import TRACE_FILTER, read_trace
from codec_wrappers.trial import ffmpeg_trial

# Quantiser index of each temporal layer above the key picture's. SVT-AV1's own at QP 40 are 38, 73, 84, 89, 93
# (key picture 67, then 105, 140, 151, 156, 160), here times 0.68.
LAYER_OFFSETS = (26, 49, 57, 60, 63, 63)

_QP_RANGE = re.compile(r"-qp\s+<int>.*\(from (-?\d+) to (\d+)\)")
_PRESET_RANGE = re.compile(r"-preset\s+<int>.*\(from (-?\d+) to (\d+)\)")
_VERSION = re.compile(r"SVT-AV1 Encoder Lib (\S+)")


class SvtAv1Encoder:
    """Encoder plug-in for libsvtav1 inside ffmpeg."""

    name = "svtav1"
    codec: Codec = "av1"
    raw_format = "obu"
    default_preset = "8"

    def __init__(self, executable: Path | None = None) -> None:
        """executable: another ffmpeg than the bundled one."""
        self.ffmpeg = executable or ffmpeg_path()

    def capabilities(self) -> Capabilities:
        text = ffmpeg_encoder_help(self.ffmpeg, "libsvtav1")
        qp = _QP_RANGE.search(text)
        preset = _PRESET_RANGE.search(text)
        # Negative presets are for SVT-AV1's own debugging.
        presets = [str(n) for n in range(int(preset.group(2)), -1, -1)] if preset else []
        return Capabilities(
            path=str(self.ffmpeg),
            version=f"ffmpeg {ffmpeg_version(self.ffmpeg)}, libsvtav1 {_version(str(self.ffmpeg))}",
            qp_min=max(0, int(qp.group(1))) if qp else 0,
            qp_max=int(qp.group(2)) if qp else 63,
            frame_qp=False,
            block_qp="none",
            block_size=0,
            pixel_formats=supported_pixel_formats(text),
            presets=tuple(presets),
        )

    def map_rules(self) -> None:
        """No maps through ffmpeg."""

    def command(self, job: EncodeJob) -> EncodeCommand:
        (segment,) = job.segments
        if job.qp_map is not None:
            raise UnsupportedError(
                f"QP map: {self.capabilities().where} ignores maps; use --codec hevc-kvazaar, or SVT-AV1's own "
                "application with --roi-map-file"
            )
        params: dict[str, str | int | float] = {
            "rc": 0,
            "qp": segment.qp,
            "aq-mode": 0,
            "use-fixed-qindex-offsets": 1,
            "key-frame-qindex-offset": 0,
            "qindex-offsets": f"[{','.join(map(str, LAYER_OFFSETS))}]",
            "lp": 1,
        }
        return EncodeCommand(
            (
                str(self.ffmpeg),
                *raw_input_arguments(job),
                *("-c:v", "libsvtav1", "-preset", job.preset),
                # Beyond the segment: exactly one key picture, the first.
                *("-g", str(job.n_frames + 1), "-pix_fmt", job.pix_fmt),
                *("-svtav1-params", param_string(params, ":")),
                *("-bsf:v", TRACE_FILTER, str(job.output)),
            )
        )

    def read_back(self, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
        """QPs from the stream, on the scale 0..63."""
        return read_trace(self.codec, log)


@cache
def _version(ffmpeg: str) -> str:
    answer = ffmpeg_trial(ffmpeg, "-c:v", "libsvtav1", "-preset", "10", "-qp", "60", raw_format="obu")
    if not answer.accepted:
        raise MissingToolError(f"{ffmpeg}: its libsvtav1 does not run; {answer.log[-200:]}")
    version = _VERSION.search(answer.log)
    return version.group(1) if version else "of unknown version"
