"""`vcm-train evaluate`: a checkpoint from its file, judged, and the result entered into its card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vcm_ratecontrol.predictors.checkpoint import load_checkpoint, read_card, save_checkpoint
from vcm_ratecontrol.predictors.device import choose_device
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.data import DataRequest, load_data
from vcm_ratecontrol.training.evaluation.evaluate import evaluate
from vcm_ratecontrol.training.evaluation.figures import Report
from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings
from vcm_ratecontrol.training.machine_split import HASH
from vcm_ratecontrol.training.model_card import model_card, write_text


@dataclass(frozen=True)
class EvaluateRequest:
    """data: with judges '' for those that the checkpoint's card names. plots: folder, None for none. update: enter the
    result into the card in the file, and into the model card beside it."""

    checkpoint: Path
    data: DataRequest
    settings: EvaluationSettings
    device: str = "auto"
    plots: Path | None = None
    update: bool = False


def evaluate_file(request: EvaluateRequest, progress: Progress = SILENT) -> Report:
    """Raises MissingToolError, CacheError (checkpoint), InputError (data)."""
    device = choose_device(request.device)
    network, card = load_checkpoint(request.checkpoint)
    named = card.provenance.get("data", {}).get("judging_machines", [])
    trained_with = card.provenance.get("data", {}).get("choosing_machines", [])
    judges = request.data.judges or ("same" if named and named == trained_with else ",".join(named) or HASH)
    data = load_data(replace(request.data, judges=judges), progress)
    report, _ = evaluate(network.to(device), card, data, request.settings, request.plots, progress)
    if request.update:
        metrics = {**card.metrics, f"evaluation on {request.settings.split}": report.to_json()}
        half = any(value.dtype.itemsize == 2 for value in _stored(request.checkpoint))
        card = save_checkpoint(request.checkpoint, network.cpu(), replace(card, metrics=metrics), half=half)
        write_text(request.checkpoint.with_suffix(".md"), model_card(read_card(request.checkpoint), report.markdown()))
    return report


def _stored(path: Path):  # type: ignore[no-untyped-def]
    from safetensors.torch import load_file

    return load_file(path).values()
