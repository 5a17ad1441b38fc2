"""The model card: what a checkpoint is, what it was trained with, what it can do and what not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codec_wrappers.errors import OutputError
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard

PURPOSES = {
    "stand_in": "Backbone of the small predictors. It stands in for machines that are not at hand: from a picture it"
    " tells how sure they would be, and where.",
    "smr_curve": "One picture, not coded -> SMR and bits at every level for a codec, with an uncertainty band.",
    "smr_curve_evidence": "What any machines at hand say of a picture, not coded -> SMR and bits at every level for a"
    " codec, with an uncertainty band. No pixels but plain statistics of the picture.",
    "smr_full_reference": "A picture and its coded version -> SMR of the coded one.",
    "owjrd": "An object's crop and its coded version -> whether it is still recognised.",
    "dtjrd": "An object's crop, not coded -> its Just Recognizable Distortion, one of 64 levels.",
    "jrd_map": "One picture, not coded -> per block of 16 x 16 the highest level at which what is there is recognised.",
}

LIMITS = (
    "Trained on the satisfaction of a library of small networks; larger machines are more robust than these.",
    "Machines agree with themselves: no claim is made about whether their results are right.",
    "Photographs of everyday scenes; other kinds of pictures (drawings, screens, medical) are untried.",
)


def model_card(card: CheckpointCard, report: str) -> str:
    """The card as Markdown. report: tables of the evaluation, Markdown."""
    config, how = card.config, card.provenance
    rows = [
        ("Configuration", f"`{config.name}` ({config.kind})"),
        ("Licence", card.licence),
        ("Weights, SHA-256", f"`{card.weights_sha256}`"),
        ("Training data, SHA-256", f"`{card.training_data_sha256}`"),
        ("Command", f"`{how.get('command', '')}`"),
        ("Time", f"{how.get('training_minutes', '?')} minutes on {how.get('hardware', '?')}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in how.get("versions", {}).items())),
    ]
    lines = [f"# {config.name}", "", PURPOSES.get(config.kind, ""), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += ["", "## Training data", "", *_listed(how.get("data", {}))]
    lines += ["", "## Network and training", "", "```json", json.dumps(config.to_dict(), indent=1), "```"]
    lines += ["", "## Evaluation", "", report.strip() or "None yet: run `vcm-train evaluate`."]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in LIMITS), ""]
    return "\n".join(lines)


def write_text(path: Path, text: str) -> None:
    """Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error


def _listed(values: Mapping[str, Any]) -> list[str]:
    def plain(value: Any) -> str:
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return [f"- {name.replace('_', ' ')}: {plain(value)}" for name, value in values.items()]
