"""One-shot curves: sampled frames of each segment -> SMR and bits at every QP, without coding anything.

A network looks at the picture (`curve_small`), and is told the confidences of machines at hand, if there are any.
`curve_evidence`, which sees no pixels, takes its place where it alone is installed: with few machines it knows less.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec_wrappers.errors import InputError, MissingToolError
from vcm_ratecontrol import predictors
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.machines.machine import Classification
from vcm_ratecontrol.media.sampling import sample_indices
from vcm_ratecontrol.predictors.evidence import (
    MachineEvidence,
    classification_statistics,
    detection_statistics,
)
from vcm_ratecontrol.ratecontrol.planning import Curves
from vcm_ratecontrol.ratecontrol.shift import SHIFT_SD, pilot_mean_curve, shift_curve

if TYPE_CHECKING:
    from vcm_ratecontrol.media import Clip
    from vcm_ratecontrol.predictors.inference import SMRCurvePredictor
    from vcm_ratecontrol.predictors.interface import CodingType, Condition, SMRCurve, Task
    from vcm_ratecontrol.satisfaction import Thresholds
    from vcm_ratecontrol.scoring import LookResults

    RGB = NDArray[np.uint8]

Floats = NDArray[np.float64]

WEIGHTS_DIR = Path(predictors.__file__).parent / "weights"
"""Where the package keeps its own; `predictors.inference` knows it too, but imports torch."""

# Codecs without labels of their own, and the trained one whose QP scale and tools are nearest.
NEAREST_CODEC = {"av1": "vvc"}
_LEAST_DEVIATION = 1.0  # QP
# The level (VVC QP) at which VVenC's stills have the PSNR of SVT-AV1's: 4 photographs, presets by default; bits agree
# within one level from QP 10 to 52.
_AV1_QPS = (0, 4, 10, 16, 22, 28, 34, 40, 46, 52, 58, 63)
_AV1_LEVELS = (0.0, 7.7, 16.9, 21.7, 24.6, 28.0, 31.4, 35.2, 38.9, 42.6, 47.6, 55.0)
# Below the lowest QP with labels (17 for clips) curves go on at their slope over this many levels above it.
_SLOPE_LEVELS = 6
# No curve comes nearer to 1 than this, so that its distance has a logarithm.
_LEAST_MISSING = 1e-4
# Half the 80 % band of a normal distribution.
_BAND_DEVIATIONS = 1.2816
# How far a frame of a clip is followed in what the network says of it as of a still. Of clips it saw six in training
# and hardly tells one from another, of photographs 587. Over the eleven labelled clips its shift as of a still
# correlates by 0.78 with the true one; so much of it lowers the error of a clip's SMR from 0.079 to 0.067
# (benchmarks/clips_as_stills.py), and as much with machines at hand.
_STILL_TRUST = 0.75
# Bits per pixel of the pilot's stills at QP 32, where no predictor tells; they halve every six QPs.
_PILOT_LOG2_BITS = 2.0 - (np.arange(N_LEVELS) - 8) / 6


@dataclass(frozen=True)
class CurveSource:
    """Where curves come from. name: of the predictor, or 'mean curve'. codec: of the encoder, which may differ from
    that of `condition`. still: for frames of clips, the condition of stills that tells how fragile they are; None where
    the predictor knows none. notes: what the user should know of it."""

    name: str
    codec: str
    predictor: SMRCurvePredictor | None
    condition: Condition
    notes: tuple[str, ...] = ()
    still: Condition | None = None

    @property
    def lowest_level(self) -> int:
        """Below it nothing was measured for these curves: what they say there is extrapolated."""
        return 0 if self.predictor is None else self.predictor.lowest_level(self.condition)

    def curve(self, rgb: RGB, evidence: tuple[MachineEvidence, ...] = ()) -> SMRCurve:
        """The curve of one frame, uint8 RGB [H, W, 3]."""
        if self.predictor is None:
            return _mean_curve(self.condition)
        from vcm_ratecontrol.predictors.interface import Sample

        sample = Sample(rgb, condition=self.condition, evidence=evidence)
        with one_thread():
            if self.still is None:
                return continued(self.predictor.predict([sample])[0])
            told, as_still = self.predictor.predict([sample, replace(sample, condition=self.still)])
        return continued(moved_to(told, _STILL_TRUST * as_still.shift))


def moved_to(curve: SMRCurve, shift: float) -> SMRCurve:
    """The curve at another shift against the mean curve, in QP levels; bits stay."""
    levels = np.arange(N_LEVELS, dtype=np.float64)

    def moved(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return shift_curve(values.astype(np.float64), levels, shift - curve.shift).astype(np.float32)

    return replace(curve, smr=moved(curve.smr), low=moved(curve.low), high=moved(curve.high), shift=shift)


def continued(curve: SMRCurve) -> SMRCurve:
    """A curve that goes on rising below the lowest level with labels, where a network's is flat.

    Flat, it would say that no QP down there buys anything: a target above it would be given up, by a search with
    machines too. So what is missing to 1 falls on, and log2 bits rise on, as over the levels next to it.
    """

    def nearer(values: NDArray[np.float32]) -> NDArray[np.float32]:
        distance = -np.log2(np.maximum(1.0 - values.astype(np.float64), _LEAST_MISSING))
        risen = _risen(distance)
        return np.where(risen > distance, 1.0 - np.exp2(-risen), values).astype(np.float32)

    smr = nearer(curve.smr)
    low, high = np.minimum(nearer(curve.low), smr), np.maximum(nearer(curve.high), smr)
    return replace(curve, smr=smr, low=low, high=high, log2_bits=_risen(curve.log2_bits).astype(np.float32))


def _risen(falling: NDArray[np.floating]) -> Floats:
    """Values that never rise, [64], with the flat beginning replaced by the slope that follows it."""
    values = falling.astype(np.float64)
    knee = int(np.searchsorted(-values, -values[0], side="right")) - 1
    end = min(knee + _SLOPE_LEVELS, len(values) - 1)
    if 0 < knee < end:
        slope = (values[knee] - values[end]) / (end - knee)
        values[:knee] = values[knee] + slope * (knee - np.arange(knee))
    return values


def label_levels(codec: str, qps: ArrayLike) -> Floats:
    """The levels of the label space that QPs of a codec are: float64, as many as `qps`.

    HEVC's QPs are levels as they stand: both codecs double the quantiser step every six QPs.
    """
    given = np.asarray(qps, np.float64)
    levels: Floats = np.interp(given, _AV1_QPS, _AV1_LEVELS) if codec == "av1" else given
    return levels


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in the calling thread alone.

    The networks are small: a frame takes 0.05 s of one core, and ten times that when threads wait for each other beside
    running encoders. And what is computed does not depend on the number of cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def weights_file(name: str, weights: Path | None) -> Path | None:
    """The checkpoint of a predictor: of the user's folder, else of the package; None where neither has it."""
    for folder in (weights, WEIGHTS_DIR):
        if folder is not None and (path := folder / f"{name}.safetensors").is_file():
            return path
    return None


def require_source(*, evidence: bool, weights: Path | None = None) -> None:
    """Raise MissingToolError when `open_curve_source` has nothing to open. Imports no torch."""
    if not evidence and weights_file("curve_small", weights) is None:
        raise MissingToolError(
            "--target-smr: no weights of 'curve_small' come with this package, so nothing can be predicted:"
            " give --machines DIR to measure with, or --weights DIR with curve_small.safetensors"
        )


def open_curve_source(
    codec: str, coding: CodingType, task: Task, *, evidence: bool, weights: Path | None = None
) -> CurveSource:
    """The best source of curves that is installed.

    codec: that of the encoder ('vvc', 'hevc', 'av1'). evidence: machines are at hand. weights: a folder with
    NAME.safetensors to be preferred to those of the package.
    Raises MissingToolError when there is none and no machine either, CacheError for damaged weights.
    """
    from vcm_ratecontrol.predictors.inference import SMRCurvePredictor, load_predictor
    from vcm_ratecontrol.predictors.interface import Condition

    wanted = Condition(codec, coding, task)
    for name in ("curve_small", "curve_evidence") if evidence else ("curve_small",):
        path = weights_file(name, weights)
        if path is None:
            continue
        predictor = load_predictor(path)
        if not isinstance(predictor, SMRCurvePredictor):
            raise InputError(f"{path}: holds '{predictor.name}', which predicts no SMR curves; put another file there")
        source = source_of(name, predictor, wanted)
        if source is not None:
            return source
    require_source(evidence=evidence, weights=None)
    return CurveSource(
        "mean curve", codec, None, wanted, ("no predictor is installed: planning begins at the mean curve",)
    )


def source_of(name: str, predictor: SMRCurvePredictor, wanted: Condition) -> CurveSource | None:
    """Curves of a predictor for a condition, or for the nearest one that it knows; None where it knows none."""
    used = nearest_condition(wanted, predictor.known_conditions)
    if used is None:
        return None
    notes = () if used == wanted else (f"curves: '{name}' knows no {wanted}; those of {used} are used",)
    still = replace(used, coding_type="still")
    known = used.coding_type == "inter" and still in predictor.known_conditions
    return CurveSource(name, wanted.codec, predictor, used, notes, still if known else None)


def nearest_condition(wanted: Condition, known: Sequence[Condition]) -> Condition | None:
    """The known condition that comes nearest: the same task, then the same coding type, then the same codec."""
    codec = NEAREST_CODEC.get(wanted.codec, wanted.codec)

    def likeness(condition: Condition) -> tuple[bool, bool, bool]:
        return condition.task == wanted.task, condition.coding_type == wanted.coding_type, condition.codec == codec

    return max(known, key=likeness, default=None)


def evidence_of(look: LookResults, rgb: RGB, thresholds: Thresholds) -> tuple[MachineEvidence, ...]:
    """What machines that looked at the original say of it."""
    found = []
    for result in look.results.values():
        if isinstance(result, Classification):
            best = np.sort(np.partition(result.probabilities, -2)[-2:])[::-1].clip(0, 1)
            found.append(MachineEvidence("classification", classification_statistics(best)))
        else:
            height, width = rgb.shape[:2]
            statistics = detection_statistics(result.scores, result.boxes, width, height, t_conf=thresholds.confidence)
            found.append(MachineEvidence("detection", statistics))
    return tuple(found)


@dataclass(frozen=True)
class Witness:
    """Machines at hand. look: what they say of frame `index`, uint8 RGB; valid: whether any of them counts there."""

    look: Callable[[int, RGB], LookResults]
    valid: Callable[[LookResults], bool]
    thresholds: Thresholds


def predict_segments(
    source: CurveSource,
    clip: Clip,
    segments: Sequence[range],
    frames_per_segment: int,
    qps: NDArray[np.int64],
    witness: Witness | None = None,
    on_segment: Callable[[], None] = lambda: None,
    workers: int = 1,
) -> Curves:
    """The curves of the segments of one clip, from one decode; memory holds the frames of a few segments at a time.

    qps: int64 [L], those of the encoder. frames_per_segment: how many are looked at; their curves are averaged,
    without those on which no machine of `witness` counts. Raises InputError.
    """
    picked = [sample_indices(segment, frames_per_segment) for segment in segments]
    frames = clip.read_rgb([index for indices in picked for index in indices])
    rows: list[dict[str, Any]] = []
    waiting: deque[tuple[range, list[_Looked]]] = deque()

    def take() -> None:
        rows.append(_segment_row(*waiting.popleft()))
        on_segment()

    with ThreadPoolExecutor(workers) as pool:
        for segment, indices in zip(segments, picked, strict=True):
            waiting.append((segment, [_look(source, index, next(frames), witness, pool) for index in indices]))
            if len(waiting) > workers:
                take()
        while waiting:
            take()
    stacked = {name: np.stack([row[name] for row in rows]) for name in ("smr", "low", "high", "bits")}
    at = label_levels(source.codec, qps)
    return Curves(
        qps=qps,
        **{name: _at_levels(values, at) for name, values in stacked.items()},
        deviation=np.array([row["deviation"] for row in rows]),
        margin=np.zeros(len(rows)),
        known=np.full(len(rows), qps[np.flatnonzero(at >= source.lowest_level)[0]]),
        weights=np.array([float(len(segment)) for segment in segments]),
        seen=np.array([row["seen"] for row in rows], bool),
    )


@dataclass(frozen=True)
class _Looked:
    """A frame in the making. counts: whether any machine counts on it."""

    curve: Future[SMRCurve]
    counts: bool
    area: int


def _look(source: CurveSource, index: int, rgb: RGB, witness: Witness | None, pool: ThreadPoolExecutor) -> _Looked:
    area = rgb.shape[0] * rgb.shape[1]
    if witness is None:
        return _Looked(pool.submit(source.curve, rgb), True, area)
    look = witness.look(index, rgb)
    evidence = evidence_of(look, rgb, witness.thresholds)
    return _Looked(pool.submit(source.curve, rgb, evidence), witness.valid(look), area)


def _segment_row(segment: range, looked: Sequence[_Looked]) -> dict[str, Any]:
    """The mean curve of one segment's frames, its bits in all, and whether anything is seen there."""
    curves, counts = [frame.curve.result() for frame in looked], [frame.counts for frame in looked]
    seen = any(counts)
    kept = [curve for curve, counted in zip(curves, counts, strict=True) if counted or not seen]
    mean = {name: _mean([getattr(curve, name) for curve in kept]).clip(0, 1) for name in ("smr", "low", "high")}
    bits = _mean([np.exp2(curve.log2_bits) for curve in curves]) * looked[0].area * len(segment)
    # A predictor that is too sure of itself must not keep probes from moving its curve.
    deviation = max(float(np.mean([curve.shift_deviation for curve in kept])), _LEAST_DEVIATION)
    return {**mean, "bits": bits, "deviation": deviation, "seen": seen}


def _mean(rows: Sequence[NDArray[np.float32]]) -> Floats:
    mean: Floats = np.mean(rows, axis=0, dtype=np.float64)
    return mean


def _at_levels(values: Floats, at: Floats) -> Floats:
    levels = np.arange(N_LEVELS, dtype=np.float64)
    return np.stack([np.interp(at, levels, row) for row in values])


def _mean_curve(condition: Condition) -> SMRCurve:
    """The pilot's mean curve, for where there is no predictor."""
    from vcm_ratecontrol.predictors.interface import SMRCurve

    task: Literal["detection", "both"] = "detection" if condition.task == "detection" else "both"
    reach = _BAND_DEVIATIONS * SHIFT_SD
    smr, low, high = (
        pilot_mean_curve(np.arange(N_LEVELS) + off, task).astype(np.float32) for off in (0.0, reach, -reach)
    )
    return SMRCurve(smr, low, high, _PILOT_LOG2_BITS.astype(np.float32), condition, 0.0, SHIFT_SD)
