"""Random QP maps, made legal, coded by kvazaar and decoded: does every one of them give the stream that was meant?

    python -m benchmarks.random_maps --maps 1000 [--control 100] [--encoder kvazaar]

Each map has its own picture size (odd ones too), number of frames, kind (noise, checkerboard, stripes, islands,
slopes), base QP and preset. The pictures mix noise, flat areas and areas that stand still, so that some blocks
have no residual: these are what makes a jump between distant blocks. The encoder writes an MD5 of each picture
that it reconstructed into the stream and the decoder compares: a map that comes out as another map is found, not
only one that breaks the stream. The control codes maps that were only clipped to the QP range.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec_wrappers.encoder import EncodeJob, Encoder, get_encoder
from codec_wrappers.errors import EncoderError, VcmError
from codec_wrappers.ffmpeg import ffmpeg_path
from codec_wrappers.frames import VideoFormat
from codec_wrappers.plan import Segment
from codec_wrappers.process import run_process
from codec_wrappers.qpmap import QPMap, grid_shape
from codec_wrappers.qpmap_legal import MapRules, legalise

KINDS = ("noise", "checkerboard", "stripes", "islands", "slope")
PRESETS = ("ultrafast", "veryfast", "faster", "medium")
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Case:
    """One map with what it is coded on. frames: uint8 [n, H * 3 // 2, W] packed 4:2:0 of the padded size."""

    seed: int
    kind: str
    preset: str
    base_qp: int
    format: VideoFormat
    frames: npt.NDArray[np.uint8]
    qp_map: QPMap


@dataclass(frozen=True)
class Outcome:
    """ok: coded, all frames decoded, all MD5s right. moved, clipped, cells: blocks of the map."""

    ok: bool
    why: str
    moved: int
    clipped: int
    cells: int


def make_case(seed: int, small: bool = False) -> Case:
    """The case of a seed; QPs of the map cover the label space 0..63. small: fewer frames, fast presets."""
    rng = np.random.default_rng(seed)
    width, height = int(rng.integers(64, 385)), int(rng.integers(64, 257))
    n_frames = int(rng.integers(1, 4 if small else 7))
    presets = PRESETS[: 2 if small else len(PRESETS)]
    kind = KINDS[seed % len(KINDS)]
    rows, cols = grid_shape(width, height, 64)
    n_maps = n_frames if rng.random() < 0.7 else 1
    qp_map = QPMap(_map(kind, rng, n_maps, rows, cols), 64, width, height)
    video = VideoFormat(width, height, Fraction(25))
    return Case(
        seed=seed,
        kind=kind,
        preset=presets[seed // len(KINDS) % len(presets)],
        base_qp=int(rng.integers(0, 52)),
        format=video,
        frames=_pictures(rng, n_frames, video),
        qp_map=qp_map,
    )


def _map(kind: str, rng: np.random.Generator, n: int, rows: int, cols: int) -> npt.NDArray[np.int16]:
    low, high = sorted(int(qp) for qp in rng.integers(0, 64, 2))
    at = np.indices((n, rows, cols))
    if kind == "checkerboard":
        qp = np.where(at.sum(axis=0) % 2 == 0, low, high)
    elif kind == "stripes":
        qp = np.where((at[1] if rng.random() < 0.5 else at[2]) % 2 == 0, low, high)
    elif kind == "islands":
        qp = np.where(rng.random((n, rows, cols)) < 0.2, low, high)
    elif kind == "slope":
        qp = low + (high - low) * (at[1] + at[2]) // max(1, rows + cols - 2)
    else:
        qp = rng.integers(0, 64, (n, rows, cols))
    return qp.astype(np.int16)


def _pictures(rng: np.random.Generator, n: int, video: VideoFormat) -> npt.NDArray[np.uint8]:
    """Left third stands still, middle third is flat, right third is noise anew in each frame."""
    width, height = video.padded_width, video.padded_height
    still = rng.integers(0, 256, (height * 3 // 2, width), dtype=np.uint8)
    frames = np.repeat(still[None], n, axis=0)
    frames[:, :, width // 3 : 2 * width // 3] = int(rng.integers(0, 256))
    noise = rng.integers(0, 256, (n, height * 3 // 2, width - 2 * width // 3), dtype=np.uint8)
    frames[:, :, 2 * width // 3 :] = noise
    frames[:, height:] = 128
    return frames


def try_case(case: Case, encoder: Encoder, rules: MapRules, folder: Path) -> Outcome:
    """Make the case's map legal, code it, decode it."""
    legal = legalise(case.qp_map, rules)
    job = EncodeJob(
        format=case.format,
        pix_fmt="yuv420p",
        segments=(Segment(0, len(case.frames), case.base_qp),),
        preset=case.preset,
        coding="inter",
        output=folder / "map.mp4",
        work_dir=folder,
        qp_map=legal.map,
    )
    command = encoder.command(job)
    for name, content in command.files.items():
        (folder / name).write_bytes(content)
    argv = [word.replace("hash=none", "hash=md5") for word in command.argv]
    cells = int(case.qp_map.qp.size)
    try:
        coded = run_process(argv, stdin=case.frames.tobytes(), timeout_s=TIMEOUT_S)
        n_records = len(encoder.read_back(job, coded.log))
        why = decoding_fault(job.output, len(case.frames))
        if not why and n_records != len(case.frames):
            why = f"{n_records} of {len(case.frames)} pictures read back"
    except VcmError as error:
        why = str(error)
    return Outcome(not why, why, legal.moved, legal.clipped, cells)


def decoding_fault(path: Path, n_frames: int) -> str:
    """What a strict decoder says against the file; '' for nothing."""
    check = [str(ffmpeg_path()), "-hide_banner", "-nostats", "-v", "error"]
    check += ["-err_detect", "crccheck+explode", "-i", str(path), "-f", "framecrc", "-"]
    try:
        decoded = run_process(check, timeout_s=TIMEOUT_S)
    except EncoderError as error:
        return f"does not decode: {error}"
    frames = sum(not line.startswith(b"#") for line in decoded.stdout.splitlines())
    if decoded.stderr.strip():
        return f"decoder: {decoded.stderr.strip()[:200]}"
    return "" if frames == n_frames else f"{frames} of {n_frames} frames decode"


def run(seeds: range, encoder: Encoder, rules: MapRules, small: bool = False) -> list[Outcome]:
    """All cases of `seeds`, one after the other."""
    outcomes = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="vcm-map-") as folder:
            outcomes.append(try_case(make_case(seed, small), encoder, rules, Path(folder)))
    return outcomes


class _Unchecked:
    """The encoder without its own check of the map, for the control."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.name, self.codec, self.raw_format = encoder.name, encoder.codec, encoder.raw_format
        self.default_preset = encoder.default_preset
        self.capabilities, self.map_rules, self.read_back = encoder.capabilities, encoder.map_rules, encoder.read_back

    def command(self, job: EncodeJob):  # type: ignore[no-untyped-def]
        from codec_wrappers.kvazaar import ROI_FILE, base_qp_for, in_coding_order
        from codec_wrappers.mapio import kvazaar_roi

        assert job.qp_map is not None
        base = base_qp_for(job.qp_map, job.segments[0].qp)
        flat = replace(job, qp_map=QPMap.flat(base, job.format.width, job.format.height))
        command = self._encoder.command(replace(flat, segments=(replace(job.segments[0], qp=base),)))
        roi = kvazaar_roi.to_binary(in_coding_order(job.qp_map, job), base)
        return replace(command, files={ROI_FILE: roi})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--control", type=int, default=100, help="maps coded without the legaliser")
    parser.add_argument("--encoder", default="kvazaar")
    options = parser.parse_args()
    encoder = get_encoder(options.encoder)
    capabilities = encoder.capabilities()
    rules = encoder.map_rules()
    if rules is None:
        parser.error(f"{options.encoder} takes no maps")
    started = time.monotonic()
    outcomes = run(range(options.maps), encoder, rules)
    seconds = time.monotonic() - started
    control = run(range(options.control), _Unchecked(encoder), MapRules(rules.qp_min, rules.qp_max))
    print(report(outcomes, control, capabilities.version, seconds))
    if not all(outcome.ok for outcome in outcomes):
        raise SystemExit(1)


def report(outcomes: list[Outcome], control: list[Outcome], version: str, seconds: float) -> str:
    """The result as Markdown."""
    cells, moved = sum(o.cells for o in outcomes), sum(o.moved for o in outcomes)
    touched = sum(o.moved > 0 for o in outcomes)
    failures = Counter(o.why[:160] for o in outcomes if not o.ok)
    lines = [
        f"- Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        f"- Encoder: {version}",
        f"- Maps: {len(outcomes)} ({', '.join(KINDS)}; presets {', '.join(PRESETS)}), {cells} blocks",
        f"- Made legal: {touched} maps had blocks to lower, {moved} blocks in all ({100 * moved / cells:.1f} %); "
        f"{sum(o.clipped for o in outcomes)} blocks clipped to the QP range",
        f"- **Coded, decoded to all frames, all MD5s right: {sum(o.ok for o in outcomes)} of {len(outcomes)}**",
        f"- Control, clipped to the range only: {sum(not o.ok for o in control)} of {len(control)} maps failed",
        f"- Time: {seconds:.0f} s",
    ]
    return "\n".join([*lines, *(f"- Failure: {count} x {why}" for why, count in failures.items())])


if __name__ == "__main__":
    main()
