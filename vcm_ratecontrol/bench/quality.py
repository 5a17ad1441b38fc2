"""What a viewer would lose: PSNR, SSIM and VMAF of decoded frames, as users of target-quality encoders measure them."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError, VerificationError
from codec_wrappers.ffmpeg import ffmpeg_path
from codec_wrappers.process import run_process
from codec_wrappers.still import StillSource, memory_folder
from vcm_ratecontrol.fidelity import compare

if TYPE_CHECKING:
    from vcm_ratecontrol.annotate.sources import RGB

METRICS = ("vmaf", "psnr", "ssim")

# Of equal pictures, whose PSNR is infinite: above that of any coded one.
LOSSLESS_DB = 100.0


def measure_quality(original: RGB, decoded: RGB, metrics: Collection[str]) -> dict[str, float]:
    """Some of METRICS of one decoded frame: VMAF 0..100, PSNR of luma in dB (at most LOSSLESS_DB), SSIM of luma 0..1.

    Raises InputError for a frame too small for SSIM, VerificationError when VMAF gives no figure.
    """
    found: dict[str, float] = {}
    if {"psnr", "ssim"} & set(metrics):
        fidelity = compare(original, decoded)
        if fidelity.ssim is None and "ssim" in metrics:
            raise InputError("SSIM is not defined below 11x11 samples; leave out the method ssim")
        found["psnr"] = min(LOSSLESS_DB, fidelity.psnr_db)
        if fidelity.ssim is not None:
            found["ssim"] = fidelity.ssim
    if "vmaf" in metrics:
        found["vmaf"] = vmaf(original, decoded)
    return {name: value for name, value in found.items() if name in metrics}


def vmaf(original: RGB, decoded: RGB) -> float:
    """VMAF (model vmaf_v0.6.1) of one frame, both uint8 [H, W, 3], by libvmaf in ffmpeg: 0..100."""
    reference, distorted = StillSource(original), StillSource(decoded)
    size = f"{reference.format.padded_width}x{reference.format.padded_height}"
    with tempfile.TemporaryDirectory(prefix="vcm-vmaf-", dir=memory_folder()) as folder:
        paths = [Path(folder) / name for name in ("distorted.yuv", "reference.yuv")]
        for path, source in zip(paths, (distorted, reference), strict=True):
            path.write_bytes(source.raw("yuv420p"))
        raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-i"]
        log = Path(folder) / "vmaf.json"
        inputs = [word for path in paths for word in (*raw, str(path))]
        measuring = ["-lavfi", f"libvmaf=log_fmt=json:log_path={log}:n_threads=1", "-f", "null", "-"]
        run_process([str(ffmpeg_path()), "-v", "error", "-nostdin", *inputs, *measuring])
        try:
            value = float(json.loads(log.read_text())["pooled_metrics"]["vmaf"]["mean"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VerificationError(f"VMAF: libvmaf gave no figure ({error!r}); leave out the method vmaf") from error
    if not math.isfinite(value):
        raise VerificationError(f"VMAF: libvmaf gave {value}; leave out the method vmaf")
    return value
