"""A small label folder with its pictures: every picture has a robustness, which machines show by their confidence."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.vcm_ratecontrol.label_rows import classification, detections, machine_rows
from vcm_ratecontrol.annotate.sources import content_hash
from vcm_ratecontrol.annotate.task import picture_line
from vcm_ratecontrol.labels.dataset import DatasetConfig
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.store import LabelStore
from vcm_ratecontrol.machines.machine import Result
from vcm_ratecontrol.predictors.config import PredictorConfig, load_config
from vcm_ratecontrol.training.data import DataRequest
from vcm_ratecontrol.training.run import TrainRequest
from vcm_ratecontrol.training.run_log import RunLog

QPS = (20, 26, 32, 38, 44, 50)
WIDTH, HEIGHT = 96, 64
MACHINES = tuple(f"c{n}" for n in range(6)) + tuple(f"d{n}" for n in range(6))
MEAN_LEVEL, SPREAD = 36.0, 6.0


@dataclass(frozen=True)
class Made:
    """labels, pictures: folders. shifts: picture's hash -> by how much it is more robust than the mean, in QP."""

    labels: Path
    pictures: Path
    shifts: dict[str, float]


def make_table(folder: Path, count: int, *, coding: str = "still", codec: str = "vvc", seed: int = 0) -> Made:
    """Annotate `count` pictures of coloured noise as such machines would."""
    rng = np.random.default_rng(seed)
    pictures, labels = folder / "pictures", folder / f"{codec}-{coding}"
    pictures.mkdir(parents=True, exist_ok=True)
    store = LabelStore(str(labels))
    encoder = {"vvc": "vvenc", "hevc": "x265"}[codec]
    store.open(DatasetConfig(encoder, codec, "faster", coding, QPS, dict.fromkeys(MACHINES, "0"), "made up"))
    shifts: dict[str, float] = {}
    for number in range(count):
        path = pictures / f"{number:03d}.png"
        if not path.exists():
            coarse = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path)
        key = content_hash(str(path))
        shifts[key] = float(np.clip(rng.normal(0, SPREAD), -14, 14))
        rows = [row for machine in MACHINES for row in machine_rows(key, machine, _results(rng, machine, shifts[key]))]
        store.write_part(picture_line(key, path.name, np.zeros((HEIGHT, WIDTH, 3), np.uint8), key), rows)
    store.gather()
    return Made(labels, pictures, shifts)


def _results(rng: np.random.Generator, machine: str, shift: float) -> dict[int, Result | None]:
    """Confidence tells the shift, up to noise; a machine is satisfied up to a level of its own."""
    confidence = float(np.clip(1 / (1 + np.exp(-(shift + rng.normal(0, 2)) / 5)), 0.32, 0.98))
    last = MEAN_LEVEL + shift + (int(machine[1:]) - 2.5) + rng.normal(0, 2)
    results: dict[int, Result | None] = {}
    for qp in (ORIGINAL_QP, *QPS):
        satisfied = qp <= last
        if machine.startswith("c"):
            results[qp] = classification(3 if satisfied else 4, confidence)
        else:
            boxes = [(8.0, 8.0, 40.0, 48.0, confidence, 1)] if satisfied else []
            results[qp] = detections(*boxes, (50.0, 10.0, 90.0, 60.0, 0.25, 2))
    return results


def tiny(name: str) -> PredictorConfig:
    """A configuration of the package whose input is as small as the pictures of the table."""
    config = load_config(name)
    if config.kind == "smr_curve_evidence":
        return config
    return replace(config, input=replace(config.input, width=WIDTH, height=HEIGHT))


def request(
    made: Made, name: str, out: Path, overrides: Mapping[str, object] | None = None, *, judges: str = "hash"
) -> TrainRequest:
    """A short training of `tiny(name)` on a table; coded pictures are kept beside it for all trainings."""
    data = DataRequest((str(made.labels),), (str(made.pictures),), judges, made.labels.parent / "cache")
    return TrainRequest(tiny(name), data, out, overrides=overrides or {}, device="cpu", resamples=0)


def logged(out: Path, column: str) -> list[float]:
    """A column of a run's log."""
    return [float(row[column]) for row in RunLog(out, 1 << 30, tensorboard=False).rows()]


def not_finite(value: object, where: str = "") -> Iterator[str]:
    """Where JSON values hold a number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in items:
        yield from not_finite(one, f"{where}/{name}")
