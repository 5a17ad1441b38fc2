"""How long vcm-encode takes against one plain encode of the same clip, and how much memory.

    python -m benchmarks.encode_time clip.mp4 [--seconds 30] [--target 0.9] [--codec vvc] [--machines library/]

The clip is repeated to the length asked for. Coded are: by prediction alone (`--probes 0`), as by default, with the
machines of a library if one is given, and plainly: by the same command at one QP, the mean of the first. Every way is
a process of its own, start-up and imports included, without the QP-22 anchor. Peak memory is that of the command's
largest process. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec_wrappers.ffmpeg import ffmpeg_path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Timed:
    """One run of vcm-encode. seconds: wall time of the process; peak_mb: resident, of its largest process;
    end: the end event."""

    name: str
    seconds: float
    peak_mb: float
    end: dict[str, Any]

    @property
    def mean_qp(self) -> float:
        """Over frames."""
        segments = self.end["segments"]
        return float(sum(s["qp"] * (s["stop"] - s["start"]) for s in segments) / self.end["n_frames"])


def repeated(clip: Path, seconds: float, output: Path) -> Path:
    """A clip of the length asked for: another, again and again, all but losslessly."""
    coder = ("-an", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "8", "-pix_fmt", "yuv420p")
    command = (
        ffmpeg_path(),
        "-v",
        "error",
        "-nostdin",
        "-stream_loop",
        "-1",
        "-i",
        clip,
        "-t",
        seconds,
        *coder,
        output,
    )
    subprocess.run([str(word) for word in command], check=True)
    return output


def timed(name: str, clip: Path, output: Path, *options: object) -> Timed:
    """Run vcm-encode to the end. Raises RuntimeError when it fails."""
    words = (
        sys.executable,
        "-m",
        "vcm_ratecontrol.cli.encode",
        clip,
        "-y",
        "-o",
        output,
        "--no-anchor",
        "--json",
        *options,
    )
    with tempfile.TemporaryFile("w+") as out:
        started = time.monotonic()
        process = subprocess.Popen([str(word) for word in words], stdout=out, cwd=REPOSITORY)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        end = json.loads(out.readlines()[-1])
    if process.returncode != 0:
        raise RuntimeError(f"{name}: {end['error']}")
    return Timed(name, seconds, usage.ru_maxrss / 1024, end)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time vcm-encode against a plain encode.")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--codec", default="vvc")
    parser.add_argument("--machines", type=Path)
    parser.add_argument("--names")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = repeated(given.clip.resolve(), given.seconds, Path(folder) / "clip.mp4")
        output = Path(folder) / "coded.mp4"
        common: tuple[object, ...] = ("--codec", given.codec, "--workers", given.workers)
        predicted = (*common, "--target-smr", given.target, *(("--weights", given.weights) if given.weights else ()))
        runs = [
            timed("--probes 0", clip, output, *predicted, "--probes", 0),
            timed("default", clip, output, *predicted),
        ]
        if given.machines is not None:
            names = ("--names", given.names) if given.names else ()
            runs.append(
                timed("--machines", clip, output, *predicted, "--machines", given.machines, *names, "--no-cache")
            )
        plain = timed("plain", clip, output, *common, "--qp", round(runs[0].mean_qp))
        print(table(plain, runs))


def table(plain: Timed, runs: list[Timed]) -> str:
    """The result as a Markdown table."""
    end = plain.end
    lines = [
        f"{end['width']}x{end['height']}, {end['n_frames']} frames, {end['duration']:.1f} s, {end['encoder']} "
        f"{end['preset']}, {len(end['segments'])} segments, {os.cpu_count()} cores",
        "",
        "| way | mean QP | encodes tried | s | x plain | bits | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in (plain, *runs):
        lines.append(
            f"| {run.name} | {run.mean_qp:.1f} | {run.end['probes']} | {run.seconds:.1f} |"
            f" {run.seconds / plain.seconds:.2f} | {run.end['bits']:,} | {run.peak_mb:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
