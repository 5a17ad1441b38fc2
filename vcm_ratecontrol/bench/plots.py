"""The plots of a benchmark, drawn from what its results.json holds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from codec_wrappers.errors import MissingToolError
from vcm_ratecontrol.bench.results import Document

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart without colour, too: each method has a marker of its own (colours: Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6A3D9A", "#7F7F7F", "#A6761D", "#1B7837")
MARKERS = "os^Dv<>PX*hp8d"
ANCHOR_STYLE = {"color": "black", "marker": ".", "lw": 2.0, "zorder": 3}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches. Raises MissingToolError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingToolError("matplotlib: not installed; install vcm-ratecontrol[bench]") from error
    return Figure(figsize=(width, height), layout="constrained")


def svg_uri(figure: Figure) -> str:
    """A figure as a data URI; the same figure gives the same text."""
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "vcm-bench"}):
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(data.getvalue()).decode()


def rate_curves(codec: Document, value: str, title: str) -> Figure:
    """Bits per pixel against a figure of the operating points (a key of a point), all methods."""
    figure = new_figure(9, 5)
    axes = figure.subplots()
    for at, method in enumerate(codec["methods"]):
        points = sorted((p["bpp"], p[value]) for p in method["points"] if p[value] is not None)
        if not points:
            continue
        style = _style(at, method["name"])
        axes.plot(*zip(*points, strict=True), label=method["name"], **style)
    axes.set(xscale="log", xlabel="bits per pixel (logarithmic)", ylabel=title, title=f"{title}, {codec['encoder']}")
    _plain_ticks(axes)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def savings_overview(codec: Document, targets: Sequence[str]) -> Figure | None:
    """Savings of every method at every target, with their intervals; None where there is no method but the anchor."""
    methods = [method for method in codec["methods"] if method["name"] != "flat"]
    if not methods:
        return None
    figure = new_figure(9, 1.2 + 0.32 * len(methods))
    axes = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    for ax, target in zip(axes, targets, strict=True):
        for at, method in enumerate(methods):
            one = method["near"].get(target)
            if one is None or one["saving"] is None:
                ax.text(0, at, "not reached", fontsize=8, va="center", color="dimgray")
                continue
            color = _style(at + 1, method["name"])["color"]
            ax.barh(at, one["saving"], color=color, alpha=0.75)
            if one["low"] is not None:
                ax.plot([one["low"], one["high"]], [at, at], color="black", lw=1.2, marker="|")
        ax.axvline(0, color="black", lw=0.8)
        ax.set(title=f"judged SMR {target}", xlabel="bits saved, %")
        ax.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(range(len(methods)), [method["name"] for method in methods])
    axes[0].invert_yaxis()
    return figure


def item_savings_plot(codec: Document, target: str) -> Figure | None:
    """Savings item by item, each method's sorted, at one target; None where no method has any."""
    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    drawn = False
    for at, method in enumerate(codec["methods"]):
        one = method["near"].get(target)
        if method["name"] == "flat" or one is None or one["saving"] is None:
            continue
        values = np.sort(np.array(one["per_item"], float))[::-1]
        axes.plot(
            np.arange(1, len(values) + 1), values, label=method["name"], **{**_style(at, method["name"]), "ms": 3}
        )
        drawn = True
    if not drawn:
        return None
    axes.axhline(0, color="black", lw=0.8)
    # A picture that pays for the others may need several times its bits: the scale beyond is of little use.
    axes.set_ylim(bottom=max(-200.0, axes.get_ylim()[0]))
    axes.set(xlabel="items, each method's sorted by its saving", ylabel="bits saved on the item, %")
    axes.set_title(f"Savings per item at judged SMR {target}, {codec['encoder']}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def level_histogram(codec: Document, target: str) -> Figure | None:
    """How often each method chooses each QP at one target; None where no method but the anchor has any."""
    chosen = {}
    for method in codec["methods"]:
        one = method["near"].get(target)
        if one is not None and None not in method["points"][one["point"]]["levels"]:
            chosen[method["name"]] = method["points"][one["point"]]["levels"]
    if not chosen.keys() - {"flat"}:
        return None
    levels = codec["levels"]
    counts = np.array([[column.count(level) for level in levels] for column in chosen.values()])
    figure = new_figure(9, 1.4 + 0.34 * len(chosen))
    axes = figure.subplots()
    image = axes.imshow(counts, aspect="auto", cmap="Blues", vmin=0)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8,
                      color="white" if count > 0.6 * counts.max() else "black")  # fmt: skip
    axes.set_xticks(range(len(levels)), [str(level) for level in levels])
    axes.set_yticks(range(len(chosen)), list(chosen))
    axes.set(xlabel="QP", title=f"Pictures or segments per chosen QP at judged SMR {target}, {codec['encoder']}")
    figure.colorbar(image, label="number")
    return figure


def effort_plot(codec: Document, target: str) -> Figure | None:
    """What each method saves against the encodes that it needs; None where no method has a saving."""
    figure = new_figure(9, 4.2)
    axes = figure.subplots()
    drawn = False
    for at, method in enumerate(codec["methods"]):
        one = method["near"].get(target)
        if method["name"] == "flat" or one is None or one["saving"] is None:
            continue
        style = {**_style(at, method["name"]), "ls": "", "ms": 9}
        axes.plot(one["encodes"], one["saving"], label=method["name"], **style)
        drawn = True
    if not drawn:
        return None
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xscale="log", xlabel="encodes per picture or segment (logarithmic)", ylabel="bits saved, %")
    axes.set_title(f"What it takes: encodes against savings at judged SMR {target}, {codec['encoder']}")
    _plain_ticks(axes)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _style(at: int, name: str) -> dict[str, Any]:
    if name == "flat":
        return ANCHOR_STYLE
    control = name in ("smr-shuffled", "random-levels", "jrd-random")
    return {
        "color": COLORS[at % len(COLORS)],
        "marker": MARKERS[at % len(MARKERS)],
        "lw": 1.3,
        "ms": 5,
        "ls": ":" if control else "-",
        "alpha": 0.9,
    }


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
