"""Encoders' own programs (`kvazaar`, `uvg266`, `x265`): raw frames in, MP4 piece out, like ffmpeg's libraries.

These programs write raw streams without timestamps. So the command line of such a job starts this very file
as a program. It runs the encoder on its own standard input, decodes the stream once to learn the order in
which its pictures are shown, muxes it, and has ffmpeg print the headers for the read-back of QPs.

    python native.py --ffmpeg F --codec vvc --raw R --output piece.mp4 --rate 30000/1001 -- ENCODER ARGUMENTS...

It starts its two children in its own process group, so that the watchdog that kills the group gets them too.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec_wrappers.encoder import EncodeJob

# Time base of the pieces; only the order of the timestamps matters to the join.
_CLOCK = 90_000


def find_program(name: str) -> Path | None:
    """Path of a program on PATH, None when it is not there."""
    found = shutil.which(name)
    return Path(found) if found else None


def native_command(job: EncodeJob, ffmpeg: Path, program: tuple[str, ...], raw_format: str) -> tuple[str, ...]:
    """Command line of a job that an encoder's own program does.

    program: the encoder and its arguments, in which {raw} stands for the raw stream that it writes, {size}
    for the size of the frames as WxH and {rate} for the frame rate as N/D.
    """
    raw = job.work_dir / f"coded.{raw_format}"
    rate = f"{job.format.frame_rate.numerator}/{job.format.frame_rate.denominator}"
    size = f"{job.format.padded_width}x{job.format.padded_height}"
    words = {"{raw}": str(raw), "{size}": size, "{rate}": rate}
    return (
        # -P: this file's folder must not become a place to import from.
        *(sys.executable, "-P", str(Path(__file__).resolve())),
        *("--ffmpeg", str(ffmpeg), "--codec", raw_format, "--raw", str(raw)),
        *("--output", str(job.output), "--rate", rate, "--"),
        *(words.get(word, word) for word in program),
    )


def shown_order(raw: Path, codec: str) -> list[int]:
    """For each coded picture, in coding order, its place in display order. Decodes the stream.

    Raises ValueError when pictures are missing.
    """
    import av

    shown: list[int] = []
    with av.open(str(raw), format=codec) as container:
        stream = container.streams.video[0]
        coded = 0
        for packet in container.demux(stream):
            if packet.size:
                packet.pts = coded
                coded += 1
            shown += [int(frame.pts) for frame in packet.decode() if frame.pts is not None]
    if sorted(shown) != list(range(coded)):
        raise ValueError(f"{len(shown)} of {coded} pictures decode")
    place = [0] * coded
    for index, picture in enumerate(shown):
        place[picture] = index
    return place


def mux(raw: Path, codec: str, rate: Fraction, output: Path) -> int:
    """Put a raw stream into an MP4 file, each picture at its time; returns the number of pictures."""
    import av

    order = shown_order(raw, codec)
    delay = max((at - place for at, place in enumerate(order)), default=0)
    tick = Fraction(_CLOCK) / rate
    with av.open(str(raw), format=codec) as source, av.open(str(output), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.time_base = Fraction(1, _CLOCK)
        packets = (packet for packet in source.demux(video=0) if packet.size)
        for at, packet in enumerate(packets):
            packet.stream = stream
            packet.time_base = stream.time_base
            packet.pts, packet.dts = round((order[at] + delay) * tick), round(at * tick)
            packet.duration = round(tick)
            sink.mux(packet)
    return len(order)


def main(arguments: list[str]) -> int:
    """Run the encoder, mux, trace. Returns the exit status: the encoder's own where it fails."""
    parser = argparse.ArgumentParser(prog="native.py")
    for option in ("--ffmpeg", "--codec", "--raw", "--output", "--rate"):
        parser.add_argument(option, required=True)
    parser.add_argument("program", nargs="+")
    options = parser.parse_args(arguments)
    raw, output = Path(options.raw), Path(options.output)
    status = subprocess.run(options.program, check=False).returncode
    if status != 0:
        # A signal's negative number becomes what a shell would make of it.
        return status if status > 0 else 128 - status
    if not raw.exists() or raw.stat().st_size == 0:
        print(f"{options.program[0]}: exit 0 but wrote nothing", file=sys.stderr)
        return 1
    trace = ["-hide_banner", "-nostats", "-f", options.codec, "-i", str(raw), "-c", "copy"]
    trace += ["-bsf:v", "trace_headers", "-f", "null", "-"]
    subprocess.run([options.ffmpeg, *trace], check=False, stdin=subprocess.DEVNULL)
    if output.suffix != ".mp4":
        shutil.move(raw, output)
        return 0
    try:
        mux(raw, options.codec, Fraction(options.rate), output)
    except (OSError, ValueError) as error:  # PyAV's errors are ValueErrors and OSErrors
        print(f"{options.program[0]}: its stream does not decode: {error}", file=sys.stderr)
        return 1
    raw.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
