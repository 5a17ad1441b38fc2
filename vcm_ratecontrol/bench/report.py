"""One self-contained HTML page of a benchmark: what was done, what is saved, at what cost, with plots and examples."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec_wrappers.errors import MissingToolError
from vcm_ratecontrol.bench import plots
from vcm_ratecontrol.bench.examples import Examples, make_examples
from vcm_ratecontrol.bench.object_maps import LABELS
from vcm_ratecontrol.bench.results import Document
from vcm_ratecontrol.bench.run import BenchRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report.html.j2")

# What the report and the accuracy figures need, all of the extra `bench`.
_NEEDED = ("bjontegaard", "faster_coco_eval", "jinja2", "matplotlib")


def require_plots() -> None:
    """Tell before hours of work what is not installed. Raises MissingToolError."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingToolError(f"{', '.join(missing)}: not installed; pip install 'vcm-ratecontrol[bench]'")


def report_html(run: BenchRun, found: Document, n_examples: int) -> str:
    """The page. found: `results.document` of the run. n_examples: pictures that are shown of each encoder."""
    settings = run.settings
    examples = [make_examples(one, settings.targets, settings.selection.max_side, n_examples) for one in run.codecs]
    return page_html(found, examples)


def page_html(found: Document, examples: Sequence[Examples | None]) -> str:
    """The page of a results document. examples: of each of its encoders."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "share": _share, "plain": _plain}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    targets = [f"{target:g}" for target in found["settings"]["targets"]]
    parts = [_part(codec, targets, shown) for codec, shown in zip(found["codecs"], examples, strict=True)]
    text: str = template.render(found=found, parts=parts, targets=targets)
    return text


def _part(codec: Document, targets: Sequence[str], examples: Examples | None) -> dict[str, Any]:
    target = _best_target(codec, targets)
    return {
        "codec": codec,
        "plots": _plots(codec, targets, target),
        "examples": examples,
        "target": target,
        "by_smr": [method for method in _by_smr(codec)["methods"] if method["name"] != "flat"],
        "near": [method for method in codec["methods"] if method["near"][target]],
        "asked": [method for method in codec["methods"] if all(name in method["asked"] for name in targets)],
        "objects": [method for method in codec["methods"] if method["name"] in LABELS],
    }


def _by_smr(codec: Document) -> Document:
    """Without the methods that are given a share of machines per object: they meet no target SMR."""
    return {**codec, "methods": [method for method in codec["methods"] if method["name"] not in LABELS]}


def _plots(codec: Document, targets: Sequence[str], target: str) -> list[dict[str, str]]:
    """Title, text and image of each; those per item at one target."""
    drawn: list[dict[str, str]] = []
    by_smr = _by_smr(codec)

    def draw(title: str, text: str, make: Callable[[], Figure | None]) -> None:
        figure = make()
        if figure is not None:
            drawn.append({"title": title, "text": text, "uri": plots.svg_uri(figure)})

    draw(
        "Bits saved at equal satisfaction",
        "Against the best single QP with the same judged mean SMR. Lines: 95 % intervals over items.",
        lambda: plots.savings_overview(by_smr, targets),
    )
    draw(
        "Rate against SMR",
        "Each point is one operating point of a method, measured. Further up and to the left is better.",
        lambda: plots.rate_curves(codec, "smr", "mean SMR of the judges"),
    )
    if any(point["map50_pseudo"] is not None for method in codec["methods"] for point in method["points"]):
        draw(
            "Rate against mAP",
            "Mean average precision at IoU 0.5 of the judging detectors against what they found on the originals.",
            lambda: plots.rate_curves(codec, "map50_pseudo", "mAP@0.5, pseudo ground truth"),
        )
    if any(point["map50_human"] is not None for method in codec["methods"] for point in method["points"]):
        draw(
            "Rate against mAP, human boxes",
            "The same detectors against human annotation, over the pictures that have it.",
            lambda: plots.rate_curves(codec, "map50_human", "mAP@0.5, human boxes"),
        )
    draw(
        "Savings per item",
        "A picture below zero gets more bits than at the single QP: it pays for the others.",
        lambda: plots.item_savings_plot(by_smr, target),
    )
    draw(
        "Chosen QPs",
        "How many pictures or segments each method coded at which QP.",
        lambda: plots.level_histogram(codec, target),
    )
    draw(
        "Savings against effort",
        "Encodes include the final one. Exhaustive methods code every level.",
        lambda: plots.effort_plot(by_smr, target),
    )
    return drawn


def _best_target(codec: Document, targets: Sequence[str]) -> str:
    """The target at which most methods have an operating point, of equals the highest."""

    def reached(target: str) -> int:
        return sum(method["near"].get(target) is not None for method in codec["methods"])

    return max(reversed(targets), key=reached)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
