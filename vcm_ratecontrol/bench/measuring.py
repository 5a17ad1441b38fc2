"""The one thing that costs time, done once: code a unit, decode it, let all machines look, and keep what they say.

A record holds one coding of one unit: its bits, the raw results of every machine, seconds, and, where asked,
PSNR, SSIM and VMAF. Records are JSON files named by the hash of all that determines them (`ProbeCache`): written
whole, never changed, shared by all methods and runs, so that a run which was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec_wrappers.encoder import Encoder, get_encoder
from codec_wrappers.errors import OutputError, VcmError
from codec_wrappers.still import EncodedStill, StillSource, decode_still, encode_still
from vcm_ratecontrol.annotate.clips import SegmentTask, coded_segment, read_segment
from vcm_ratecontrol.annotate.picture import Spent, StoppedError, annotate_picture, never
from vcm_ratecontrol.annotate.rows import CodedPicture, Row
from vcm_ratecontrol.bench.items import Unit
from vcm_ratecontrol.bench.machine_sets import MachineSets
from vcm_ratecontrol.bench.quality import measure_quality
from vcm_ratecontrol.labels.schema import ORIGINAL_QP, SCHEMA_VERSION
from vcm_ratecontrol.ratecontrol.probe_cache import ProbeCache

if TYPE_CHECKING:
    from codec_wrappers.qpmap import QPMap
    from vcm_ratecontrol.annotate.sources import RGB

# What is kept of a row of the label schema: the rest is the same for all rows of a record, or derived.
KEPT = ("machine", "task", "status", "score", "satisfied", "labels", "confidences", "boxes")


@dataclass(frozen=True)
class Coding:
    """How a unit is coded: at one QP or, stills only, at the QPs of a map (`qp` is then what it is relative to)."""

    qp: int
    qp_map: QPMap | None = None

    @property
    def key(self) -> list[Any]:
        if self.qp_map is None:
            return [self.qp]
        map_hash = hashlib.sha256(self.qp_map.qp.tobytes()).hexdigest()
        return [self.qp, self.qp_map.block_size, map_hash]


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs. machines: name -> hash, of all machines in order; metrics: of `quality.METRICS`."""

    cache: Path
    encoder: str
    encoder_version: str
    preset: str
    max_side: int
    sets: MachineSets
    machines: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...] = ()

    def open(self) -> Measurer:
        return Measurer(self)

    def original_key(self, unit: Unit) -> dict[str, Any]:
        return {"bench": SCHEMA_VERSION, **unit.key, "max_side": self.max_side, "machines": sorted(self.machines)}

    def coding_key(self, unit: Unit, coding: Coding) -> dict[str, Any]:
        """Of the record of verdicts and bits."""
        return {**self.original_key(unit), **self._coded(unit, coding)}

    def quality_key(self, unit: Unit, coding: Coding, metric: str) -> dict[str, Any]:
        return {"bench": metric, **unit.key, "max_side": self.max_side, **self._coded(unit, coding)}

    def _coded(self, unit: Unit, coding: Coding) -> dict[str, Any]:
        encoder = [self.encoder, self.encoder_version, self.preset, unit.coding]
        return {"encoder": encoder, "coding": coding.key}


@dataclass(frozen=True)
class Measure:
    """Work on one unit. verdicts, quality: the codings whose records are missing, of each kind."""

    unit: Unit
    verdicts: tuple[Coding, ...]
    quality: tuple[Coding, ...]

    @property
    def label(self) -> str:
        return self.unit.work.label


@dataclass(frozen=True)
class Outcome:
    """What became of some work: error is None when its records are stored."""

    task: Measure
    spent: Spent
    error: str | None = None


class Measurer:
    """Does work in one process with one opened library."""

    def __init__(self, recipe: Recipe) -> None:
        """Raises InputError, MissingToolError (machines, encoder)."""
        self.recipe = recipe
        self.encoder = get_encoder(recipe.encoder)
        self.library = recipe.sets.open()
        self.cache = ProbeCache(recipe.cache)

    def run(self, task: Measure, stop: Callable[[], bool] = never) -> Outcome:
        """Measure and store; an error that concerns this unit only becomes part of the outcome.

        Raises OutputError when nothing can be stored, StoppedError when stop() was true.
        """
        spent = Spent()
        try:
            if isinstance(task.unit.work, SegmentTask):
                self._segment(task, task.unit.work, spent, stop)
            else:
                self._still(task, spent, stop)
        except OutputError:
            raise
        except VcmError as error:
            return Outcome(task, spent, str(error))
        return Outcome(task, spent)

    def _still(self, task: Measure, spent: Spent, stop: Callable[[], bool]) -> None:
        (rgb,) = task.unit.originals(self.recipe.max_side)
        bits: dict[int, int] = {}

        def versions() -> Iterator[tuple[CodedPicture, RGB]]:
            source = StillSource(rgb)
            for number, coding in enumerate(_all(task)):
                if stop():
                    raise StoppedError
                started = time.monotonic()
                still = self._coded(source, rgb, coding)
                spent.encode += time.monotonic() - started
                started = time.monotonic()
                decoded = decode_still(still)
                spent.decode += time.monotonic() - started
                if coding in task.quality:
                    self._keep_quality(task.unit, coding, [rgb], [decoded])
                bits[number] = still.bits
                if coding in task.verdicts:
                    yield CodedPicture(number, coding.qp, still.bits), decoded

        if task.verdicts:
            rows = annotate_picture({}, rgb, versions(), self.library, spent)
            self._keep(task, [rows], bits, spent)
        else:
            for _ in versions():
                pass

    def _coded(self, source: StillSource, rgb: RGB, coding: Coding) -> EncodedStill:
        if coding.qp_map is not None and self.encoder.capabilities().block_qp == "none":
            return coded_in_layers(rgb, coding.qp_map, self.encoder, self.recipe.preset)
        return encode_still(source, coding.qp, self.encoder, self.recipe.preset, coding.qp_map)

    def _segment(self, task: Measure, work: SegmentTask, spent: Spent, stop: Callable[[], bool]) -> None:
        frames, rate = read_segment(work, self.recipe.max_side)
        picks = task.unit.picks
        bits: dict[int, int] = {}
        versions: list[list[tuple[CodedPicture, RGB]]] = [[] for _ in picks]
        for number, coding in enumerate(_all(task)):
            coded = coded_segment(frames, rate, picks, self.encoder, self.recipe.preset, [coding.qp], spent, stop)
            decoded = [one[0][1] for one in coded]
            if coding in task.quality:
                self._keep_quality(task.unit, coding, [frames[at] for at in picks], decoded)
            # Bits come as the mean over the segment's frames.
            bits[number] = coded[0][0][0].bits * len(frames)
            if coding in task.verdicts:
                for version, rgb in zip(versions, decoded, strict=True):
                    version.append((CodedPicture(number, coding.qp, bits[number]), rgb))
        if task.verdicts:
            rows = [
                annotate_picture({}, frames[at], version, self.library, spent)
                for at, version in zip(picks, versions, strict=True)
            ]
            self._keep(task, rows, bits, spent)

    def _keep_quality(self, unit: Unit, coding: Coding, originals: Sequence[RGB], decoded: Sequence[RGB]) -> None:
        for metric in self.recipe.metrics:
            started = time.monotonic()
            values = [measure_quality(a, b, [metric])[metric] for a, b in zip(originals, decoded, strict=True)]
            seconds = time.monotonic() - started
            record = {"value": sum(values) / len(values), "seconds": seconds}
            self._put(self.recipe.quality_key(unit, coding, metric), record)

    def _keep(self, task: Measure, rows: Sequence[Sequence[Row]], bits: dict[int, int], spent: Spent) -> None:
        """rows: per sampled frame. Seconds are means over the codings of this unit."""
        coded, looked = len(_all(task)), len(rows) * (1 + len(task.verdicts))
        seconds = {
            "encode": spent.encode / coded,
            "decode": spent.decode / coded,
            "machines": {name: spent.by_machine[name] * len(rows) / looked for name in spent.by_machine},
        }
        by_number: dict[int, list[list[Row]]] = {}
        for frame in rows:
            for number, kept in _by_number(frame).items():
                by_number.setdefault(number, []).append(kept)
        original = {"frames": by_number.pop(ORIGINAL_QP), "seconds": seconds}
        self._put(self.recipe.original_key(task.unit), original)
        codings = _all(task)
        for number, frames in by_number.items():
            record = {"frames": frames, "bits": bits[number], "seconds": seconds}
            self._put(self.recipe.coding_key(task.unit, codings[number]), record)

    def _put(self, key: dict[str, Any], record: dict[str, Any]) -> None:
        self.cache.put(key, record)
        if self.cache.get(key) is None:
            raise OutputError(f"{self.recipe.cache}: cannot be written (full, or not yours); use another --cache")


def coded_in_layers(rgb: RGB, qp_map: QPMap, encoder: Encoder, preset: str) -> EncodedStill:
    """A still per object by an encoder without block QPs: what is coarse is pre-coded (see `jrd.layers`).

    rgb: uint8 [H, W, 3]; qp_map: one frame. The layers meet in RGB here, in the encoder's planes in vcm-encode.
    """
    import numpy as np

    from vcm_ratecontrol.jrd.layers import Unfiltered, segment_layers

    layers = segment_layers(range(1), qp_map.qp)
    height, width = rgb.shape[:2]
    choice = layers.choice[0].repeat(qp_map.block_size, axis=0).repeat(qp_map.block_size, axis=1)[:height, :width]
    source, mixed = StillSource(rgb), rgb.copy()
    unfiltered: Any = Unfiltered(encoder)
    for number, qp in enumerate(layers.qps[1:], 1):
        coarse = decode_still(encode_still(source, qp, unfiltered, preset))
        mixed = np.where((choice == number)[..., None], coarse, mixed)
    return encode_still(StillSource(mixed), layers.qps[0], encoder, preset)


def _all(task: Measure) -> tuple[Coding, ...]:
    return tuple(dict.fromkeys((*task.verdicts, *task.quality)))


def _by_number(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """The whole-picture rows of one frame by number of the coding."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        if row["object"] < 0:
            found.setdefault(row["qp"], []).append({name: row[name] for name in KEPT})
    return found
