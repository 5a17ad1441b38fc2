"""Time, memory and agreement of the predictors: `python -m benchmarks.predictors [--device cpu|cuda] [--threads N]`.

Per predictor, with the shipped weights where there are such, else with fresh ones (time and memory do not depend on
them; 'weights' says which):

- the time of one call, picture in, answer out (resizing included), beside its goal;
- the peak memory of a process of its own that answers for one 4K picture;
- the largest difference between answers for pictures one by one and in one call (goal 1e-5, against the larger of 1
  and the value);
- whether the ONNX graph gives in ONNX Runtime what the network gives in torch (`--no-onnx` leaves that out: it takes
  up to a minute each).

A computer that does other things meanwhile spoils the times of the clock, hardly those of the processor.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")

PREDICTORS = ("curve_small", "curve_evidence", "jrd_map_small", "smr_small", "dtjrd_small", "owjrd_small")
OF_CROPS = ("dtjrd_small", "owjrd_small")
OF_PAIRS = ("smr_small", "owjrd_small")

# issue: milliseconds on one CPU core, for a 1920x1080 picture (a 200x150 crop for the object predictors).
GOALS_MS = {"curve_small": 60, "jrd_map_small": 150, "smr_small": 120}
GOAL_GPU_MS = 2  # per frame, one-shot curve, in batches
GOAL_MEMORY_MB = 1500
GOAL_BATCH = 1e-5
GOAL_DEVICES = 1e-3

FULL_HD = (1080, 1920)
UHD = (2160, 3840)
CROP = (150, 200)
SMALL = (240, 320)
WARM_UP = 3
RUNS = 20
GPU_BATCH = 64
PICTURES = 4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"calls that are timed (default {RUNS})")
    parser.add_argument("--names", nargs="+", default=PREDICTORS, choices=PREDICTORS, help="default: all")
    parser.add_argument("--no-onnx", action="store_true", help="leave the ONNX graphs out")
    options = parser.parse_args()
    where = (options.device, options.threads)
    print(f"{options.device}, {options.threads} thread(s); goals: 4K {GOAL_MEMORY_MB} MB, batch {GOAL_BATCH:.0e}")
    head = (
        "predictor        weights       input   best ms  median ms    CPU ms  goal ms  4K peak MB  batch/single  ONNX"
    )
    print(head, flush=True)
    for name in options.names:
        size = CROP if name in OF_CROPS else FULL_HD
        best, median, busy = apart(time_one, name, size, *where, options.runs)
        peak = apart(peak_memory_mb, name, *where)
        apart_from_batch = apart(batch_difference, name, *where)
        onnx = "-" if options.no_onnx else apart(onnx_agreement, name)
        goal = GOALS_MS.get(name, "-") if options.device == "cpu" else "-"
        print(
            f"{name:16} {weights_of(name):8} {f'{size[1]}x{size[0]}':>10} {best:9.1f} {median:10.1f} {busy:9.1f}"
            f" {goal!s:>8} {peak:11.0f} {apart_from_batch:13.1e}  {onnx}",
            flush=True,
        )
    if options.device == "cuda":
        per_frame, difference = apart(time_gpu_batch)
        print(f"curve_small, batches of {GPU_BATCH}: {per_frame:.2f} ms per frame (goal {GOAL_GPU_MS})")
        print(f"largest difference of SMR between CPU and CUDA: {difference:.1e} (goal {GOAL_DEVICES:.0e})")


def apart(function: Callable[..., Result], *arguments: object) -> Result:
    """The result of a call in a fresh process, so that memory and threads are its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def time_one(name: str, size: tuple[int, int], device: str, threads: int, runs: int) -> tuple[float, float, float]:
    """Milliseconds of one call for one picture: best and median by the clock, median of the time on the CPU (all
    threads together), which other programs on the machine disturb less."""
    predictor, sample = predictor_and_sample(name, size, device, threads)
    for _ in range(WARM_UP):
        predictor.predict([sample])
    clock, busy = [], []
    for _ in range(runs):
        start, start_busy = time.perf_counter(), time.process_time()
        predictor.predict([sample])
        clock.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.process_time() - start_busy))
    return min(clock), statistics.median(clock), statistics.median(busy)


def peak_memory_mb(name: str, device: str, threads: int) -> float:
    """Peak resident memory of this process, in MB, after one 4K picture."""
    predictor, sample = predictor_and_sample(name, UHD, device, threads)
    predictor.predict([sample])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def batch_difference(name: str, device: str, threads: int) -> float:
    """Largest difference between the answers for pictures one by one and in one call, against the larger of 1 and
    the value."""
    predictor, sample = predictor_and_sample(name, SMALL, device, threads, batch_size=PICTURES)
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, sample.picture.shape, dtype=np.uint8) for _ in range(PICTURES)]
    coded = [None if sample.coded is None else picture // 16 * 16 for picture in noise]
    samples = [replace(sample, picture=p, coded=c) for p, c in zip(noise, coded, strict=True)]
    together = predictor.predict(samples)
    alone = [predictor.predict([one])[0] for one in samples]
    pairs = zip(numbers(alone), numbers(together), strict=True)
    return max(float((np.abs(a - b) / np.maximum(1, np.abs(a))).max()) for a, b in pairs)


def numbers(value: Any) -> Iterable[np.ndarray[Any, np.dtype[np.float64]]]:
    """All numbers of an answer."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from numbers(one)
    elif is_dataclass(value):
        yield from numbers([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, int | float | np.ndarray | np.generic):
        yield np.asarray(value, np.float64)


def onnx_agreement(name: str) -> str:
    """'equal' when ONNX Runtime gives what torch gives, else what is wrong."""
    from codec_wrappers.errors import VcmError
    from vcm_ratecontrol.predictors.onnx_export import TOLERANCE, export_onnx

    network, card = network_of(name)
    try:
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(network, card.config, Path(folder) / f"{name}.onnx")
    except VcmError as error:
        return str(error)
    return f"equal within {TOLERANCE:.0e}"


def time_gpu_batch() -> tuple[float, float]:
    """Milliseconds per frame of the curve network on prepared batches, and the largest CPU-CUDA difference of SMR."""
    import torch

    from vcm_ratecontrol.predictors.device import exact_arithmetic
    from vcm_ratecontrol.predictors.layers import for_inference
    from vcm_ratecontrol.predictors.preprocess import collate, prepare

    network, card = network_of("curve_small")
    prepared = prepare(sample_for("curve_small", FULL_HD), card.config.input, network.curves.conditions)
    batch = collate([prepared] * GPU_BATCH)
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


def weights_of(name: str) -> str:
    """'shipped' or 'fresh'."""
    from vcm_ratecontrol.predictors.inference import WEIGHTS_DIR

    return "shipped" if (WEIGHTS_DIR / f"{name}.safetensors").is_file() else "fresh"


def predictor_and_sample(
    name: str, size: tuple[int, int], device: str, threads: int, batch_size: int | None = None
) -> tuple[Any, Any]:
    """The predictor, and a question about a picture of noise with all that it reads."""
    import torch

    from vcm_ratecontrol.predictors.inference import predictor_of

    torch.set_num_threads(threads)
    return predictor_of(*network_of(name), device=device, batch_size=batch_size), sample_for(name, size)


def sample_for(name: str, size: tuple[int, int]) -> Any:
    """A picture of noise of that height and width; a coded one for pairs; two machines at hand."""
    from vcm_ratecontrol.predictors.evidence import MachineEvidence, classification_statistics, detection_statistics
    from vcm_ratecontrol.predictors.interface import Condition, Sample

    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    coded = picture // 16 * 16 if name in OF_PAIRS else None
    seen = detection_statistics([0.8, 0.4], [[0, 0, 60, 60], [20, 20, 90, 70]], size[1], size[0])
    evidence = (
        MachineEvidence("classification", classification_statistics([0.6, 0.2])),
        MachineEvidence("detection", seen),
    )
    return Sample(picture, coded=coded, condition=Condition("vvc"), level=32, evidence=evidence)


def network_of(name: str) -> tuple[Any, Any]:
    """Network and card: the shipped weights, else fresh ones."""
    import torch

    from vcm_ratecontrol.predictors.checkpoint import CheckpointCard, load_checkpoint
    from vcm_ratecontrol.predictors.config import build_network, load_config
    from vcm_ratecontrol.predictors.inference import WEIGHTS_DIR
    from vcm_ratecontrol.predictors.mean_curve import MeanCurves

    if weights_of(name) == "shipped":
        return load_checkpoint(WEIGHTS_DIR / f"{name}.safetensors")
    torch.manual_seed(0)
    config = load_config(name)
    network = build_network(config).eval()
    for parameter in network.parameters():
        if not parameter.any():  # else last layers of zeros would hide every difference
            torch.nn.init.normal_(parameter, std=0.1)
    for module in network.modules():
        if isinstance(module, MeanCurves):
            module.fitted.fill_(True)
    return network, CheckpointCard(config, "", {}, "")


if __name__ == "__main__":
    main()
