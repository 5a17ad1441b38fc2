"""What an evaluation is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from vcm_ratecontrol.labels.splits import Split
from vcm_ratecontrol.training.curve_exam import COUNTS
from vcm_ratecontrol.training.evaluation.figures import Resampling


@dataclass(frozen=True)
class EvaluationSettings:
    """split: pictures that are judged. counts: numbers of machines at hand; repeats: draws of them.
    asked_as: 'codec/coding type' by which labels of another one are asked (leave-codec-out), '' for the first that
    the network knows. most: pictures, pairs or objects of slow predictors, 0 for all."""

    split: Split = "test"
    counts: tuple[int, ...] = COUNTS
    repeats: int = 5
    asked_as: str = ""
    most: int = 0
    how: Resampling = field(default_factory=Resampling)
