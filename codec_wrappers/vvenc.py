"""VVenC (VVC, QP 0..63) through ffmpeg's libvvenc.

VVenC has no input for QPs per frame or block, so a plan is coded in segments and joined. Defaults of VVenC that
would break 'the plan's QP is the QP of the intra picture' are switched off: perceptual QPA, the intra QP offset of
-3, and block importance mapping, which moves slice QPs by 1 or 2 with the content. The first picture of a segment is
made its only intra picture (`poc0idr`; by default VVenC puts it at the end of the first GOP, at another QP).
"""

import re
from pathlib import Path

from codec_wrappers.capabilities import Capabilities, Codec
from codec_wrappers.encoder import EncodeCommand, EncodeJob, PictureRecord
from codec_wrappers.ffmpeg import ffmpeg_encoder_help, ffmpeg_path, ffmpeg_version, supported_pixel_formats
from codec_wrappers.rawinput import raw_input_arguments

# One line per picture at verbosity 6, for instance
# POC     8 TId: 0 (CRA, I-SLICE, QP 37)            20888 bits [Y 32.5601 dB ...
_PICTURE_LINE = re.compile(r"POC\s+(\d+) .*?,\s*([IPB])-SLICE, QP (-?\d+)[^)]*\)\s+(\d+) bits")

# ffmpeg's encoder help names the accepted range "(from -1 to 63)"; -1 means 'unset'.
_QP_RANGE = re.compile(r"-qp\s+<int>.*\(from (-?\d+) to (\d+)\)")


class VvencEncoder:
    """Encoder plug-in for libvvenc inside ffmpeg."""

    name = "vvenc"
    codec: Codec = "vvc"
    raw_format = "vvc"
    default_preset = "faster"

    def __init__(self, executable: Path | None = None) -> None:
        self.ffmpeg = executable or ffmpeg_path()

    def capabilities(self) -> Capabilities:
        text = ffmpeg_encoder_help(self.ffmpeg, "libvvenc")
        match = _QP_RANGE.search(text)
        presets = re.findall(r"^\s{5}(\w+)\s+\d\s+E\.\.V", text.split("-qpa")[0], re.MULTILINE)
        return Capabilities(
            path=str(self.ffmpeg),
            version=f"ffmpeg {ffmpeg_version(self.ffmpeg)}, libvvenc",
            qp_min=max(0, int(match.group(1))) if match else 0,
            qp_max=int(match.group(2)) if match else 63,
            frame_qp=False,
            block_qp="none",
            block_size=0,
            pixel_formats=supported_pixel_formats(text),
            presets=tuple(presets),
        )

    def map_rules(self) -> None:
        """No maps at all."""

    def command(self, job: EncodeJob) -> EncodeCommand:
        (segment,) = job.segments
        params = "intraqpoffset=0:verbosity=6"
        if job.coding == "inter":
            params += ":bim=0:poc0idr=1:refreshtype=idr:intraperiod=-1"
        return EncodeCommand(
            (
                str(self.ffmpeg),
                *raw_input_arguments(job),
                *("-c:v", "libvvenc", "-preset", job.preset, "-qp", str(segment.qp), "-qpa", "0"),
                *("-threads", "1", "-vvenc-params", params),
                str(job.output),
            )
        )

    def read_back(self, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
        found = (match.groups() for match in _PICTURE_LINE.finditer(log))
        records = [PictureRecord(int(poc), kind, float(qp), int(bits)) for poc, kind, qp, bits in found]
        return tuple(sorted(records, key=lambda record: record.index))

