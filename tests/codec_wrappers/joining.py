"""What the tests of the encode chain share: a clip coded in segments, and what to look at in the file."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from codec_wrappers.encoder import get_encoder
from codec_wrappers.join import Timing
from codec_wrappers.pipeline import EncodeOptions, EncodeResult, encode
from codec_wrappers.plan import EncodePlan, Segment
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.outputs import companions_of

# The fastest preset of each encoder: what is tested is the chain, not the compression.
PRESETS = {"vvc": "faster", "hevc": "ultrafast", "hevc-kvazaar": "ultrafast", "av1": "13"}


def ffmpeg(*arguments: str | Path) -> None:
    """Run the bundled ffmpeg."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=60)


def plan_of(n_frames: int, qps: Sequence[int]) -> EncodePlan:
    """Segments of nearly equal length, one per QP."""
    borders = [n_frames * at // len(qps) for at in range(len(qps) + 1)]
    return EncodePlan(tuple(Segment(*pair, qp) for *pair, qp in zip(borders, borders[1:], qps, strict=False)))


def encode_clip(
    path: Path, output: Path, qps: Sequence[int], codec: str = "vvc", workers: int = 2, segmented: bool = True
) -> EncodeResult:
    """Encode a clip in as many segments as there are QPs, with all that belongs to it."""
    clip = open_clip(path)
    options = EncodeOptions(PRESETS[codec], workers=workers, segmented=segmented)
    timing = Timing(clip.time_base, clip.pts)
    plan = plan_of(clip.n_frames, qps)
    return encode(plan, clip, get_encoder(codec), output, timing, options, companions_of(clip))


def luma_psnr(source: Path, coded: Path) -> npt.NDArray[np.float64]:
    """Luma PSNR of each frame in dB, after decoding both from beginning to end."""
    pairs = zip(_luma(source), _luma(coded), strict=True)
    errors = [np.square(before - after[: before.shape[0], : before.shape[1]]).mean() for before, after in pairs]
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-3))


def _luma(path: Path) -> list[npt.NDArray[np.float64]]:
    """Luma of all frames as coded, on a scale of 8 bits."""
    with av.open(str(path)) as container:
        frames = []
        for frame in container.decode(video=0):
            deep = "10" in frame.format.name
            plane = np.frombuffer(bytes(frame.planes[0]), np.uint16 if deep else np.uint8)
            plane = plane.reshape(frame.height, -1)[:, : frame.width]
            frames.append(plane / (4.0 if deep else 1.0))
        return frames


Packet = tuple[float, bytes]


def packets(path: Path, kind: str) -> list[Packet]:
    """Time in seconds (to 1 ms) and content of each packet of the first 'audio' or 'subtitles' stream."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(round(float(p.pts * p.time_base), 3), bytes(p)) for p in container.demux(stream) if p.size]
