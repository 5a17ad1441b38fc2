"""VVenC (VVC, QP 0..63) through ffmpeg's libvvenc, or its own program `vvencapp`.

VVenC has no input for QPs per frame or block, so a plan is coded in segments and joined. Defaults of VVenC that
would break 'the plan's QP is the QP of the intra picture' are switched off: perceptual QPA, the intra QP offset of
-3, block importance mapping and QPA by GOP, which move slice QPs by 1 or 2 with the content. The first picture of
a segment is made its only intra picture (`poc0idr`; by default VVenC puts it at the end of the first GOP, at another
QP).
"""

import re
from functools import cache
from pathlib import Path

from codec_wrappers.capabilities import Capabilities, Codec
from codec_wrappers.encoder import EncodeCommand, EncodeJob, PictureRecord
from codec_wrappers.errors import EncoderError, MissingToolError, NoRoomError
from codec_wrappers.ffmpeg import ffmpeg_encoder_help, ffmpeg_path, ffmpeg_version, supported_pixel_formats
from codec_wrappers.native import find_program, native_command
from codec_wrappers.process import run_process
from codec_wrappers.rawinput import raw_input_arguments

# One line per picture at verbosity 6, for instance
# POC     8 TId: 0 (CRA, I-SLICE, QP 37)            20888 bits [Y 32.5601 dB ...
_PICTURE_LINE = re.compile(r"POC\s+(\d+) .*?,\s*([IPB])-SLICE, QP (-?\d+)[^)]*\)\s+(\d+) bits")

# ffmpeg's encoder help names the accepted range "(from -1 to 63)"; -1 means 'unset'.
_QP_RANGE = re.compile(r"-qp\s+<int>.*\(from (-?\d+) to (\d+)\)")


# Of `vvencapp --help`: "quantization parameter, QP (0-63)" and "preset ... (faster, fast, ...)".
_APP_QP_RANGE = re.compile(r"--qp\b[^\n]*?\((\d+)\s*(?:-|\.\.)\s*(\d+)\)")
_APP_PRESETS = re.compile(r"--preset\b[^(]*\(([^)]*)\)")
_APP_VERSION = re.compile(r"version\s+v?(\d[\w.\-]*)", re.IGNORECASE)

PROGRAM_TIMEOUT_S = 20.0
# With its GOPs of 32 VVenC 1.15 has all of so many pictures before it gives the first back. What ffmpeg gets from it
# at their end is then often empty, by chance, and ffmpeg stops with exit 0 and nothing or little coded, whatever the
# number of threads: a segment of 47 pictures in 11 runs of 12. With GOPs of 16 it never did.
_LOST_IN_THE_END = (47, 48)
# Of a picture's parameter sets, which its own line does not count: some 60 bytes.
_HEADER_BITS = 1000


class VvencEncoder:
    """Encoder plug-in for libvvenc inside ffmpeg, or for a `vvencapp` program."""

    name = "vvenc"
    codec: Codec = "vvc"
    raw_format = "vvc"
    default_preset = "faster"

    def __init__(self, executable: Path | None = None) -> None:
        """executable: a `vvencapp` program; None: the library in ffmpeg, or else the program on PATH."""
        self.ffmpeg = ffmpeg_path()
        self.program = executable
        if executable is None and not _has_library(str(self.ffmpeg)):
            self.program = find_program("vvencapp")
            if self.program is None:
                raise MissingToolError(
                    f"vvenc: {self.ffmpeg} has no libvvenc and no vvencapp is on PATH; unset VCM_FFMPEG"
                )

    def capabilities(self) -> Capabilities:
        return _app_capabilities(str(self.program)) if self.program else _library_capabilities(self.ffmpeg)

    def map_rules(self) -> None:
        """No maps at all."""

    def command(self, job: EncodeJob) -> EncodeCommand:
        (segment,) = job.segments
        params = "intraqpoffset=0:verbosity=6"
        if job.coding == "inter":
            params += ":bim=0:gopqpa=0:poc0idr=1:refreshtype=idr:intraperiod=-1"
        if job.format.color.range == "pc":
            # ffmpeg hands the other colour tags on, but not this one.
            params += ":range=full"
        if self.program is not None:
            words = (
                *(str(self.program), "-i", "-", "-s", "{size}", "--fps", "{rate}", "-c", "yuv420_10"),
                *("-f", str(job.n_frames), "--preset", job.preset, "-q", str(segment.qp), "--qpa", "0"),
                *("-t", str(job.threads), "--additional", params, "-o", "{raw}"),
            )
            return EncodeCommand(native_command(job, self.ffmpeg, words, self.raw_format))
        if job.coding == "inter" and job.n_frames in _LOST_IN_THE_END:
            params += ":gopsize=16"
        return EncodeCommand(
            (
                str(self.ffmpeg),
                *raw_input_arguments(job),
                *("-c:v", "libvvenc", "-preset", job.preset, "-qp", str(segment.qp), "-qpa", "0"),
                *("-threads", str(job.threads), "-vvenc-params", params),
                str(job.output),
            ),
            explain=lambda log: _without_room(job, self.read_back(job, log)),
        )

    def read_back(self, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
        found = (match.groups() for match in _PICTURE_LINE.finditer(log))
        records = [PictureRecord(int(poc), kind, float(qp), int(bits)) for poc, kind, qp, bits in found]
        return tuple(sorted(records, key=lambda record: record.index))


def _without_room(job: EncodeJob, pictures: tuple[PictureRecord, ...]) -> NoRoomError | None:
    """Why ffmpeg gave up, where a picture was too large for it; None where none was.

    For a picture with its headers it has as many bytes as luma samples (`vvenc_accessUnit_alloc_payload` in its
    libvvenc.c), which noise and dithered pictures exceed at the lowest QPs.
    """
    room = 8 * job.format.padded_width * job.format.padded_height
    largest = max((picture.bits for picture in pictures), default=0)
    if largest + _HEADER_BITS <= room:
        return None
    return NoRoomError(
        f"a picture takes {largest:,} bits, more than the 8 per pixel that ffmpeg's libvvenc has room for;"
        " take a higher QP, or another encoder"
    )


def _has_library(ffmpeg: str) -> bool:
    try:
        ffmpeg_encoder_help(Path(ffmpeg), "libvvenc")
    except MissingToolError:
        return False
    return True


def _library_capabilities(ffmpeg: Path) -> Capabilities:
    text = ffmpeg_encoder_help(ffmpeg, "libvvenc")
    match = _QP_RANGE.search(text)
    presets = re.findall(r"^\s{5}(\w+)\s+\d\s+E\.\.V", text.split("-qpa")[0], re.MULTILINE)
    return Capabilities(
        path=str(ffmpeg),
        version=f"ffmpeg {ffmpeg_version(ffmpeg)}, libvvenc",
        qp_min=max(0, int(match.group(1))) if match else 0,
        qp_max=int(match.group(2)) if match else 63,
        frame_qp=False,
        block_qp="none",
        block_size=0,
        pixel_formats=supported_pixel_formats(text),
        presets=tuple(presets),
    )


@cache
def _app_capabilities(program: str) -> Capabilities:
    try:
        text = run_process([program, "--help"], timeout_s=PROGRAM_TIMEOUT_S).log
        told = run_process([program, "--version"], timeout_s=PROGRAM_TIMEOUT_S).log
    except EncoderError as error:
        raise MissingToolError(f"{program}: does not run as vvencapp ({error})") from error
    presets, version = _APP_PRESETS.search(text), _APP_VERSION.search(told)
    if presets is None:
        raise MissingToolError(f"{program}: its help names no presets; is it vvencapp?")
    qp_range = _APP_QP_RANGE.search(text)
    return Capabilities(
        path=program,
        version=f"vvencapp {version.group(1) if version else 'of unknown version'}",
        qp_min=int(qp_range.group(1)) if qp_range else 0,
        qp_max=int(qp_range.group(2)) if qp_range else 63,
        frame_qp=False,
        block_qp="none",
        block_size=0,
        pixel_formats=("yuv420p10le",),
        presets=tuple(name.strip() for name in presets.group(1).split(",")),
    )
