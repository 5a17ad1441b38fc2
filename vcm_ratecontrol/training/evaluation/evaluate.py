"""One way to evaluate a checkpoint, whatever it predicts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.data import TrainingData
from vcm_ratecontrol.training.evaluation.curves import evaluate_curves
from vcm_ratecontrol.training.evaluation.figures import Report
from vcm_ratecontrol.training.evaluation.full_reference import evaluate_full_reference
from vcm_ratecontrol.training.evaluation.maps import evaluate_maps
from vcm_ratecontrol.training.evaluation.objects import evaluate_objects
from vcm_ratecontrol.training.evaluation.plots import Draw, curve_charts, write_charts
from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings


def evaluate(
    network: nn.Module,
    card: CheckpointCard,
    data: TrainingData,
    settings: EvaluationSettings,
    plots: Path | None,
    progress: Progress = SILENT,
) -> tuple[Report, list[Path]]:
    """The report of a network in evaluation mode, judged by `data.machines.judging`, and its charts (plots: folder).

    Raises InputError for a network that predicts nothing, or when there is nothing to judge.
    """
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        report, charts = _evaluate(network, card, data, settings, device, progress)
    return report, write_charts(charts, plots) if plots is not None else []


def _evaluate(
    network: nn.Module,
    card: CheckpointCard,
    data: TrainingData,
    settings: EvaluationSettings,
    device: torch.device,
    progress: Progress,
) -> tuple[Report, dict[str, Draw]]:
    kind = card.config.kind
    if kind in ("smr_curve", "smr_curve_evidence"):
        report, cases = evaluate_curves(network, card, data.samples, data.machines, settings, device, progress)
        return report, curve_charts(cases)
    if kind == "smr_full_reference":
        return evaluate_full_reference(network, card, data, settings, device, progress)
    if kind in ("owjrd", "dtjrd"):
        return evaluate_objects(network, card, data, settings, device, progress)
    if kind == "jrd_map":
        return evaluate_maps(network, card, data, settings, progress)
    raise InputError(f"'{card.config.name}' predicts nothing by itself; evaluate a predictor that starts from it")
