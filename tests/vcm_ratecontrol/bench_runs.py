"""What the tests of vcm-bench share: small pictures, few machines, and one way to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from vcm_ratecontrol.bench.machine_sets import MachineSets, machine_sets
from vcm_ratecontrol.bench.run import BenchRun, Settings, run_bench

# Two classifiers and a detector, the fastest of the shared library, and as many that judge.
CHOOSING = ("mobilenet_v1_0.25_128_quant", "tinymaix_mbnet128_0.25", "yolo_fastestv2")
JUDGING = ("mobilenet_v1_0.5_128_quant_onnx", "fastestdet")
LEVELS = (24, 32, 40, 48)
PHOTOS = ("coco/000000052891.jpg", "coco/000000075612.jpg", "coco/000000098261.jpg")


def small_pictures(images: Path, folder: Path, names: tuple[str, ...] = PHOTOS, side: int = 192) -> Path:
    """A folder with the middles of some photographs as PNG."""
    folder.mkdir(exist_ok=True)
    for name in names:
        with Image.open(images / name) as photo:
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            photo.convert("RGB").crop((left, top, left + side, top + side)).save(folder / f"{Path(name).stem}.png")
    return folder


def unseen(machines: Path) -> MachineSets:
    """CHOOSING choose, JUDGING judge."""
    return machine_sets(machines, CHOOSING, None, JUDGING)


def run(given: list[Path], sets: MachineSets, cache: Path, **settings: Any) -> BenchRun:
    """A benchmark in this process."""
    defaults = {"codecs": ("hevc",), "methods": ("oracles",), "levels": LEVELS, "n_resamples": 100}
    return run_bench(
        [str(path) for path in given],
        sets,
        Settings(**{**defaults, **settings}),
        cache,
        _here,
    )


def _here(recipe: Any, tasks: Any, told: Any) -> None:
    """An executor without a process of its own: quicker for a handful of small pictures."""
    worker = recipe.open()
    for task in tasks:
        told(worker.run(task))


def without_times(value: Any) -> Any:
    """A results document without what a clock says, and without what the cache spared."""
    if isinstance(value, dict):
        return {key: without_times(entry) for key, entry in value.items() if key not in ("seconds", "measured")}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value
