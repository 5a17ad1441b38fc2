"""From the kind of a network to the objective that trains it."""

from __future__ import annotations

from pathlib import Path

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.config import PredictorConfig
from vcm_ratecontrol.training.curve_objective import CurveObjective
from vcm_ratecontrol.training.data import TrainingData
from vcm_ratecontrol.training.distil_objective import DistilObjective
from vcm_ratecontrol.training.full_reference_objective import FullReferenceObjective
from vcm_ratecontrol.training.map_objective import MapObjective
from vcm_ratecontrol.training.object_objective import ObjectObjective
from vcm_ratecontrol.training.objective import Objective
from vcm_ratecontrol.training.options import TrainingOptions
from vcm_ratecontrol.training.pictures import Sources

NEEDS_TEACHERS = frozenset({"stand_in"})
"""Kinds that learn from teachers' answers and not from a label table."""


def table_objective(config: PredictorConfig, options: TrainingOptions, data: TrainingData, seed: int) -> Objective:
    """The objective of a network that learns from a label table. Raises InputError for data that do not fit."""
    frozen = options.backbone_learning_rate == 0
    values = options.objective
    if config.kind in ("smr_curve", "smr_curve_evidence"):
        return CurveObjective(config, values, data.samples, data.machines, seed, frozen=frozen)
    if config.kind == "smr_full_reference":
        return FullReferenceObjective(config, values, data, seed, frozen=frozen)
    if config.kind in ("owjrd", "dtjrd"):
        return ObjectObjective(config, values, data, seed)
    if config.kind == "jrd_map":
        return MapObjective(config, values, data, seed, frozen=frozen)
    raise InputError(f"configuration '{config.name}': a network of kind '{config.kind}' is not trained from labels")


def teacher_objective(config: PredictorConfig, options: TrainingOptions, cache: Path, sources: Sources) -> Objective:
    """The objective of the stand-in. Raises InputError, CacheError."""
    return DistilObjective(config, options.objective, cache, sources)
