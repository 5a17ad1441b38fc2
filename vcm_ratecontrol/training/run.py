"""A whole run of `vcm-train`: data, network, training, evaluation, checkpoint, card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.backbone import copy_backbone
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard, load_checkpoint, save_checkpoint
from vcm_ratecontrol.predictors.config import PredictorConfig, build_network
from vcm_ratecontrol.predictors.public_weights import load_public_weights
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.data import DataRequest, TrainingData, join_paths, load_data
from vcm_ratecontrol.training.distributed import World, join_world, leave_world
from vcm_ratecontrol.training.evaluation.evaluate import evaluate
from vcm_ratecontrol.training.evaluation.figures import Report, Resampling
from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings
from vcm_ratecontrol.training.loop import FitResult, RunSettings, Trainer
from vcm_ratecontrol.training.model_card import model_card, write_text
from vcm_ratecontrol.training.objective import Objective
from vcm_ratecontrol.training.options import TrainingOptions, training_options
from vcm_ratecontrol.training.pictures import find_pictures
from vcm_ratecontrol.training.provenance import provenance
from vcm_ratecontrol.training.stages import NEEDS_TEACHERS, table_objective, teacher_objective

LICENCE = "Apache-2.0"
"""Of weights that are trained from the start on the project's own table."""

PUBLIC_LICENCE = "as the public weights they start from"


@dataclass(frozen=True)
class TrainRequest:
    """config: what to train. data: None for the stand-in, which learns from `teachers`, a folder of `vcm-train distil`.
    overrides: of the configuration's `[training]` table. init: checkpoint whose backbone to start from ('' for that of
    the configuration). resamples: of the evaluation's bootstrap, 0 for none. arguments: of the command line, for
    provenance."""

    config: PredictorConfig
    data: DataRequest | None
    out: Path
    pictures: tuple[str, ...] = ()
    teachers: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    init: str = ""
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    max_minutes: float = 0.0
    workers: int = 0
    half: bool = True
    resamples: int = 500
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class TrainReport:
    """checkpoint: the file; fit: how training went; report: the evaluation on validation pictures, None for networks
    that predict nothing; missing: annotated pictures that were not found."""

    checkpoint: Path
    card: CheckpointCard
    fit: FitResult
    report: Report | None
    plots: tuple[Path, ...]
    missing: tuple[str, ...]


def train(request: TrainRequest, progress: Progress = SILENT) -> TrainReport | None:
    """Train to the end and write OUT/NAME.safetensors, NAME.md, evaluation and plots.

    None in processes other than the leader's. Raises InputError, CacheError, MissingToolError, OutputError, VcmError.
    """
    world = join_world(request.device)
    try:
        return _train(request, world, progress if world.leads else SILENT)
    finally:
        leave_world(world)


def _train(request: TrainRequest, world: World, progress: Progress) -> TrainReport | None:
    options = training_options(request.config.training, request.overrides)
    if request.init:
        options = replace(options, init=request.init)
    config = replace(request.config, training={**request.config.training, **request.overrides})
    data, objective = _objective(request, config, options, progress)
    torch.manual_seed(request.seed)
    network = build_network(config)
    started_from = start(network, options)
    settings = RunSettings(
        folder=request.out,
        seed=request.seed,
        identity={
            "configuration": config.to_dict(),
            "start": started_from,
            "seed": request.seed,
            "training data": objective.data_sha256(),
            "number of processes": world.size,
        },
        resume=request.resume,
        max_minutes=request.max_minutes,
        workers=request.workers,
    )
    fit = Trainer(network, objective, options, settings, world, progress).fit()
    if not world.leads:
        return None
    told = {
        "best_epoch": fit.best_epoch, "epochs": fit.epochs, "ending": fit.ending, "seed": request.seed,
        "started_from": started_from,
    }  # fmt: skip
    how = provenance(request.arguments, fit.seconds, world.device, world.size)
    card = CheckpointCard(
        config=config,
        training_data_sha256=objective.data_sha256(),
        metrics={"validation": {name: value if isfinite(value) else None for name, value in fit.figures.items()}},
        licence=PUBLIC_LICENCE if options.public_weights else LICENCE,
        provenance={**how, **told, "data": dict(objective.describe())},
    )
    return _finish(request, network, card, fit, data, world.device, progress)


def _objective(
    request: TrainRequest, config: PredictorConfig, options: TrainingOptions, progress: Progress
) -> tuple[TrainingData | None, Objective]:
    if config.kind in NEEDS_TEACHERS:
        if request.teachers is None:
            raise InputError(
                f"configuration '{config.name}' learns from teachers: give --cache, made by vcm-train distil"
            )
        return None, teacher_objective(config, options, request.teachers, find_pictures(request.pictures, progress))
    if request.data is None:
        raise InputError(f"configuration '{config.name}' learns from labels: give --labels")
    data = load_data(request.data, progress)
    if data.missing:
        progress.note(f"{len(data.missing)} annotated pictures are not among those given: {join_paths(data.missing)}")
    return data, table_objective(config, options, data, request.seed)


def start(network: nn.Module, options: TrainingOptions) -> str:
    """Fill the trunk as the options say; the hash of what it started from, '' for fresh weights.

    Raises InputError, MissingToolError, CacheError.
    """
    if options.init and options.public_weights:
        raise InputError("[training]: init and public_weights both say what to start from; give one")
    if options.public_weights:
        load_public_weights(network, options.public_weights, sha256=options.public_sha256 or None)
        return options.public_sha256 or Path(options.public_weights).name
    if not options.init:
        return ""
    source, card = load_checkpoint(Path(options.init))
    try:
        copy_backbone(source, network)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{options.init}: cannot be what this network starts from ({reason})") from None
    return card.weights_sha256


def _finish(
    request: TrainRequest,
    network: nn.Module,
    card: CheckpointCard,
    fit: FitResult,
    data: TrainingData | None,
    device: torch.device,
    progress: Progress,
) -> TrainReport:
    """Evaluate on the validation pictures and write everything. The test pictures are for `vcm-train evaluate`."""
    name = request.config.name
    path = request.out / f"{name}.safetensors"
    card = save_checkpoint(path, network, card, half=request.half)
    report: Report | None = None
    plots: list[Path] = []
    if data is not None:
        # What is evaluated is what was written, rounded as it may be.
        kept, _ = load_checkpoint(path)
        settings = EvaluationSettings(split="validation", how=Resampling(0, request.resamples))
        report, plots = evaluate(kept.to(device), card, data, settings, request.out / "plots", progress)
        card = save_checkpoint(
            path, network, replace(card, metrics={**card.metrics, **metrics_of(report)}), half=request.half
        )
        write_text(request.out / "evaluation.json", json.dumps(report.to_json(), indent=1) + "\n")
        write_text(request.out / "missing.txt", "".join(f"{one}\n" for one in data.missing))
    write_text(request.out / f"{name}.md", model_card(card, report.markdown() if report else ""))
    return TrainReport(path, card, fit, report, tuple(plots), data.missing if data else ())


def metrics_of(report: Report) -> dict[str, Any]:
    """The report under the name of its split, as it stands in a checkpoint's card."""
    return {f"evaluation on {report.facts.get('split', 'pictures')}": report.to_json()}
