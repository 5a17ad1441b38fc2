"""Time and memory of the predictors: `python -m benchmarks.predictors [--device cpu|cuda] [--threads N]`.

Prints per predictor the time of one call, picture in, answer out (resizing included), beside its goal. The answer
does not matter here, so random weights do. Peak memory is that of a process of its own that answers for one 4K
picture.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")

PREDICTORS = ("curve_small", "jrd_map_small", "smr_small", "dtjrd_small", "owjrd_small")

# issue: milliseconds on one CPU core, for a 1920x1080 picture (a 200x150 crop for the object predictors).
GOALS_MS = {"curve_small": 60, "jrd_map_small": 150, "smr_small": 120}
GOAL_GPU_MS = 2  # per frame, one-shot curve, in batches
GOAL_MEMORY_MB = 1500

FULL_HD = (1080, 1920)
UHD = (2160, 3840)
CROP = (200, 150)
WARM_UP = 3
RUNS = 20
GPU_BATCH = 64


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    options = parser.parse_args()
    print(f"{options.device}, {options.threads} thread(s); memory goal {GOAL_MEMORY_MB} MB")
    print("predictor             input   best ms  median ms   CPU ms  goal ms  4K peak MB", flush=True)
    for name in PREDICTORS:
        size = CROP if name in ("dtjrd_small", "owjrd_small") else FULL_HD
        best, median, busy = apart(time_one, name, size, options.device, options.threads)
        peak = apart(peak_memory_mb, name, options.device, options.threads)
        goal = GOALS_MS.get(name, "") if options.device == "cpu" else ""
        shape = f"{size[1]}x{size[0]}"
        print(f"{name:16} {shape:>10} {best:9.1f} {median:10.1f} {busy:8.1f} {goal!s:>8} {peak:11.0f}", flush=True)
    if options.device == "cuda":
        per_frame, difference = apart(time_gpu_batch)
        print(f"curve_small, batches of {GPU_BATCH}: {per_frame:.2f} ms per frame (goal {GOAL_GPU_MS})")
        print(f"largest difference of SMR between CPU and CUDA: {difference:.1e} (goal 1e-3)")


def apart(function: Callable[..., Result], *arguments: object) -> Result:
    """The result of a call in a fresh process, so that memory and threads are its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def time_one(name: str, size: tuple[int, int], device: str, threads: int) -> tuple[float, float, float]:
    """Milliseconds of one call for one picture: best and median by the clock, median of the time on the CPU (all
    threads together), which other programs on the machine disturb less."""
    answer = caller(name, size, device, threads)
    for _ in range(WARM_UP):
        answer()
    clock, busy = [], []
    for _ in range(RUNS):
        start, start_busy = time.perf_counter(), time.process_time()
        answer()
        clock.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.process_time() - start_busy))
    return min(clock), statistics.median(clock), statistics.median(busy)


def peak_memory_mb(name: str, device: str, threads: int) -> float:
    """Peak resident memory of this process, in MB, after one 4K picture."""
    caller(name, UHD, device, threads)()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def time_gpu_batch() -> tuple[float, float]:
    """Milliseconds per frame of the curve network on prepared batches, and the largest CPU-CUDA difference of SMR."""
    import torch

    from vcm_ratecontrol.predictors.device import exact_arithmetic
    from vcm_ratecontrol.predictors.layers import for_inference
    from vcm_ratecontrol.predictors.preprocess import collate, prepare

    network, config, sample = untrained("curve_small", FULL_HD)
    batch = collate([prepare(sample, config.input, network.curves.conditions)] * GPU_BATCH)
    fast = for_inference(network)
    cuda = torch.device("cuda")
    with torch.inference_mode():
        expected = fast(batch).smr
    fast, moved = fast.to(cuda), batch.to(cuda)
    with exact_arithmetic(cuda):
        for _ in range(WARM_UP):
            found = fast(moved).smr
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(RUNS):
            fast(moved)
        torch.cuda.synchronize()
    per_frame = 1000 * (time.perf_counter() - start) / RUNS / GPU_BATCH
    return per_frame, float((found.cpu() - expected).abs().max())


def caller(name: str, size: tuple[int, int], device: str, threads: int) -> Callable[[], object]:
    """A call of the predictor for one picture of noise."""
    import torch

    from vcm_ratecontrol.predictors.checkpoint import CheckpointCard
    from vcm_ratecontrol.predictors.inference import predictor_of

    torch.set_num_threads(threads)
    network, config, sample = untrained(name, size)
    predictor = predictor_of(network, CheckpointCard(config, "", {}, ""), device=device)
    return lambda: predictor.predict([sample])


def untrained(name: str, size: tuple[int, int]):  # type: ignore[no-untyped-def]
    """Network, configuration and a sample with all that the predictor reads."""
    import torch

    from vcm_ratecontrol.predictors.config import build_network, load_config
    from vcm_ratecontrol.predictors.interface import Condition, Sample
    from vcm_ratecontrol.predictors.mean_curve import MeanCurves

    torch.manual_seed(0)
    config = load_config(name)
    network = build_network(config).eval()
    for module in network.modules():
        if isinstance(module, MeanCurves):
            module.fitted.fill_(True)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    coded = picture // 16 * 16 if name in ("smr_small", "owjrd_small") else None
    return network, config, Sample(picture, coded=coded, condition=Condition("vvc"), level=32)


if __name__ == "__main__":
    main()
