"""Probes without machines: code a segment as the final file has it and count its bits; a full-reference predictor
looks, too, where it knows such pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError
from codec_wrappers.plan import Segment
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.media.sampling import sample_indices
from vcm_ratecontrol.ratecontrol.pieces import Pieces
from vcm_ratecontrol.ratecontrol.predicted import label_levels, nearest_condition, one_thread, weights_file
from vcm_ratecontrol.ratecontrol.probing import decoded_like
from vcm_ratecontrol.scoring import Tasks

if TYPE_CHECKING:
    from vcm_ratecontrol.predictors.inference import SMRPredictor
    from vcm_ratecontrol.predictors.interface import Condition


@dataclass(frozen=True)
class PredictedProbe:
    """A coded segment. value: predicted SMR, 0..1, mean over its sampled frames, None where no predictor looked;
    bits: of its coded pictures."""

    segment: Segment
    value: float | None
    bits: int

    def smr(self, task: Tasks) -> float | None:
        """The predicted SMR; it is that of the task that the predictor was asked for."""
        return self.value


def count_bits(segment: Segment, pieces: Pieces) -> PredictedProbe:
    """Code a segment at its QP: what it costs is known then, and no frame tells it beforehand where things move.

    Raises EncoderError, InputError.
    """
    return PredictedProbe(segment, None, pieces.get(segment).bits)


class ReferenceScorer:
    """The full-reference predictor with its condition. For use by several threads at once."""

    def __init__(self, predictor: SMRPredictor, condition: Condition) -> None:
        self.name = predictor.name
        self._predictor, self._condition = predictor, condition

    def probe(self, segment: Segment, pieces: Pieces, frames_per_segment: int) -> PredictedProbe:
        """Code a segment at its QP and score sampled frames. Raises EncoderError, InputError."""
        from vcm_ratecontrol.predictors.interface import Sample

        coded = pieces.get(segment)
        indices = sample_indices(range(segment.start, segment.stop), frames_per_segment)
        originals = pieces.clip.read_rgb(indices)
        decoded = decoded_like(pieces.clip, coded.piece, [index - segment.start for index in indices])
        values = []
        for before, after in zip(originals, decoded, strict=True):
            level = float(label_levels(pieces.encoder.codec, segment.qp))
            sample = Sample(before, after, self._condition, level=min(level, N_LEVELS - 1))
            with one_thread():
                values += self._predictor.predict([sample])
        return PredictedProbe(segment, sum(values) / len(values), coded.bits)


def open_reference_scorer(condition: Condition, weights: Path | None = None) -> ReferenceScorer | None:
    """The scorer for a condition, or the nearest of its coding type that `smr_small` knows; None where there is none.

    weights: a folder with smr_small.safetensors to be preferred to that of the package. Raises CacheError.
    """
    from vcm_ratecontrol.predictors.inference import SMRPredictor, load_predictor

    path = weights_file("smr_small", weights)
    if path is None:
        return None
    predictor = load_predictor(path)
    if not isinstance(predictor, SMRPredictor):
        raise InputError(f"{path}: holds '{predictor.name}', which scores no coded pictures; put another file there")
    # Of the other coding type it says less than the curves that it would correct.
    known = [one for one in predictor.known_conditions if one.coding_type == condition.coding_type]
    used = nearest_condition(condition, known)
    return ReferenceScorer(predictor, used) if used is not None else None
