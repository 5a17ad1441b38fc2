"""One-shot curves: sampled frames of each segment -> SMR and bits at every QP, without coding anything.

With machines at hand their confidences on the original make the curves (`curve_evidence`); without, a network that
looks at the picture (`curve_small`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from codec_wrappers.errors import MissingToolError
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.machines.machine import Classification
from vcm_ratecontrol.media.sampling import sample_indices
from vcm_ratecontrol.predictors.evidence import (
    MachineEvidence,
    classification_statistics,
    detection_statistics,
)
from vcm_ratecontrol.ratecontrol.planning import Curves
from vcm_ratecontrol.ratecontrol.shift import SHIFT_SD, pilot_mean_curve

if TYPE_CHECKING:
    from vcm_ratecontrol.media import Clip
    from vcm_ratecontrol.predictors.inference import SMRCurvePredictor
    from vcm_ratecontrol.predictors.interface import CodingType, Condition, SMRCurve, Task
    from vcm_ratecontrol.satisfaction import Thresholds
    from vcm_ratecontrol.scoring import LookResults

    RGB = NDArray[np.uint8]

Floats = NDArray[np.float64]

# Codecs without labels of their own, and the trained one whose QP scale and tools are nearest.
NEAREST_CODEC = {"av1": "vvc"}
_LEAST_DEVIATION = 1.0  # QP
# Half the 80 % band of a normal distribution.
_BAND_DEVIATIONS = 1.2816
# Bits per pixel of the pilot's stills at QP 32, where no predictor tells; they halve every six QPs.
_PILOT_LOG2_BITS = 2.0 - (np.arange(N_LEVELS) - 8) / 6


@dataclass(frozen=True)
class CurveSource:
    """Where curves come from. name: of the predictor, or 'mean curve'. notes: what the user should know of it."""

    name: str
    predictor: SMRCurvePredictor | None
    condition: Condition
    notes: tuple[str, ...] = ()

    def curve(self, rgb: RGB, evidence: tuple[MachineEvidence, ...] = ()) -> SMRCurve:
        """The curve of one frame, uint8 RGB [H, W, 3]."""
        if self.predictor is None:
            return _mean_curve(self.condition)
        from vcm_ratecontrol.predictors.interface import Sample

        return self.predictor.predict([Sample(rgb, condition=self.condition, evidence=evidence)])[0]


def weights_file(name: str, weights: Path | None) -> Path | None:
    """The checkpoint of a predictor: of the user's folder, else of the package; None where neither has it."""
    from vcm_ratecontrol.predictors.inference import WEIGHTS_DIR

    for folder in (weights, WEIGHTS_DIR):
        if folder is not None and (path := folder / f"{name}.safetensors").is_file():
            return path
    return None


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
    for name in ("curve_evidence", "curve_small") if evidence else ("curve_small",):
        path = weights_file(name, weights)
        if path is None:
            continue
        predictor = load_predictor(path, expected=name)
        assert isinstance(predictor, SMRCurvePredictor)
        used = nearest_condition(wanted, predictor.known_conditions)
        if used is None:
            continue
        notes = () if used == wanted else (f"curves: '{name}' knows no {wanted}; those of {used} are used",)
        return CurveSource(name, predictor, used, notes)
    if not evidence:
        raise MissingToolError(
            "--target-smr: no weights of 'curve_small' come with this package, so nothing can be predicted:"
            " give --machines DIR to measure with, or --weights DIR with curve_small.safetensors"
        )
    return CurveSource("mean curve", None, wanted, ("no predictor is installed: planning begins at the mean curve",))


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
) -> Curves:
    """The curves of the segments of one clip, from one decode; memory holds a frame at a time.

    qps: int64 [L], those of the encoder. frames_per_segment: how many are looked at; their curves are averaged,
    without those on which no machine of `witness` counts. Raises InputError.
    """
    picked = [sample_indices(segment, frames_per_segment) for segment in segments]
    frames = clip.read_rgb([index for indices in picked for index in indices])
    rows = []
    for segment, indices in zip(segments, picked, strict=True):
        rows.append(_segment_row(source, indices, frames, witness, len(segment)))
        on_segment()
    stacked = {name: np.stack([row[name] for row in rows]) for name in ("smr", "low", "high", "bits")}
    at = qps.astype(np.float64)
    return Curves(
        qps=qps,
        # A level of the label space is a QP of every encoder: see docs/rate-control.md.
        **{name: _at_levels(values, at) for name, values in stacked.items()},
        deviation=np.array([row["deviation"] for row in rows]),
        weights=np.array([float(len(segment)) for segment in segments]),
        seen=np.array([row["seen"] for row in rows], bool),
    )


def _segment_row(
    source: CurveSource, indices: Sequence[int], frames: Iterator[RGB], witness: Witness | None, length: int
) -> dict[str, Any]:
    """The mean curve of one segment's frames, its bits in all, and whether anything is seen there."""
    curves, counts, area = [], [], 0
    for index in indices:
        rgb = next(frames)
        area = rgb.shape[0] * rgb.shape[1]
        look = witness.look(index, rgb) if witness is not None else None
        evidence = evidence_of(look, rgb, witness.thresholds) if witness is not None and look is not None else ()
        curves.append(source.curve(rgb, evidence))
        counts.append(witness is None or look is None or witness.valid(look))
    seen = any(counts)
    kept = [curve for curve, counted in zip(curves, counts, strict=True) if counted or not seen]
    mean = {name: _mean([getattr(curve, name) for curve in kept]).clip(0, 1) for name in ("smr", "low", "high")}
    bits = _mean([np.exp2(curve.log2_bits) for curve in curves]) * area * length
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
