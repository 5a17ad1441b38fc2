"""What cutting a clip into segments costs in bits, against one unsegmented encode at the same QP.

    python -m benchmarks.segment_cost clip.mp4 ... [--qp 37] [--seconds 10] [--segment-seconds 2 4]

Three unsegmented encodes with VVenC are compared with: as it codes by itself (an intra picture about every second, to
be able to seek), with an intra picture every two seconds and open GOPs, and with a single one at the beginning, as no
player would want it. Segments begin at scene cuts, too, where an encoder needs an intra picture anyway.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from benchmarks.encode_time import repeated
from codec_wrappers.encoder import get_encoder
from codec_wrappers.join import coded_bits
from codec_wrappers.pipeline import EncodeOptions, segment_command
from codec_wrappers.plan import Segment
from vcm_ratecontrol import encode
from vcm_ratecontrol.media import Clip, open_clip

OURS = ":poc0idr=1:refreshtype=idr:intraperiod=-1"


def unsegmented(clip: Clip, argv: tuple[str, ...], params: str, output: Path) -> int:
    """Bits of one encode of the whole clip. argv: of one segment, whose way of refreshing gives way to `params`."""
    words = [word.replace(OURS, params) for word in argv]
    assert words != list(argv) or params == OURS, "the wrapper's parameters have changed"
    layout = words[words.index("-pix_fmt") + 1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*words[:-1], "-y", str(output)], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet)
    assert process.stdin is not None
    for frame in clip.read(0, clip.n_frames, layout):  # type: ignore[arg-type]
        process.stdin.write(frame)
    process.stdin.close()
    if process.wait() != 0:
        raise RuntimeError(f"{clip.path}: the unsegmented encode failed")
    return coded_bits(output)


def main() -> None:
    parser = argparse.ArgumentParser(description="What segments cost in bits.")
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--qp", type=int, default=37)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--segment-seconds", type=float, nargs="+", default=[2.0, 4.0])
    given = parser.parse_args()
    print(f"QP {given.qp}, bits of segments against unsegmented\n")
    print("| clip | longest segment, s | segments | bits | by itself | intra every 2 s | one intra |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for path in given.clips:
        with tempfile.TemporaryDirectory() as folder:
            clip = open_clip(repeated(path.resolve(), given.seconds, Path(folder) / "clip.mp4"))
            output = Path(folder) / "out.mp4"
            whole = Segment(0, clip.n_frames, given.qp)
            command = segment_command(whole, clip, get_encoder("vvc"), Path(folder), EncodeOptions())
            period = max(1, round(2 * float(clip.frame_rate)))
            ways = ("", f":refreshtype=cra:intraperiod={-(-period // 32) * 32}", OURS)
            others = [unsegmented(clip, command, way, Path(folder) / "one.mp4") for way in ways]
            for longest in given.segment_seconds:
                ours = encode(clip.path, output, qp=given.qp, segment_seconds=longest, anchor=False, overwrite=True)
                shares = " | ".join(f"{ours.bits / bits - 1:+.1%}" for bits in others)
                print(f"| {path.name} | {longest:g} | {len(ours.segments)} | {ours.bits:,} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
