"""Pictures of a label folder: SMR fan chart, JRD histogram, satisfaction per machine, agreement of machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codec_wrappers.errors import MissingToolError, OutputError
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.stats import RULES, Distribution, Summary, agreement, machine_satisfaction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
# Shares of the pictures between the edges of the fan's bands, outermost first.
BANDS = ((5, 95), (25, 75))
TASK_COLORS = {"both": "tab:blue", "detection": "tab:green", "classification": "tab:orange"}


def write_plots(summary: Summary, folder: Path) -> list[Path]:
    """Draw all charts into a folder (made if needed) as PNG; returns their paths.

    Raises MissingToolError without matplotlib, OutputError when the folder cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingToolError(
            "matplotlib: not installed; install vcm-ratecontrol[bench] or leave out --plots"
        ) from error

    charts: dict[str, Callable[[Summary, Figure], None]] = {
        "smr-fan": draw_smr_fan,
        "jrd-histogram": draw_jrd_histogram,
        "machine-satisfaction": draw_machine_satisfaction,
        "machine-agreement": draw_machine_agreement,
    }
    paths = []
    for name, draw in charts.items():
        figure = Figure(layout="constrained", dpi=DPI)
        draw(summary, figure)
        path = folder / f"{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Without the version of matplotlib in it, the same figures give the same file.
            figure.savefig(path, metadata={"Software": None})
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
        paths.append(path)
    return paths


def draw_smr_fan(summary: Summary, figure: Figure) -> None:
    """Spread of the pictures' SMR curves, one panel per task."""
    figure.set_size_inches(12, 4)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (task, curves) in zip(panels, summary.curves.items(), strict=True):
        smr = curves.smr
        known = smr[~np.isnan(smr).any(axis=1)]
        color = TASK_COLORS[task]
        for low, high in BANDS if len(known) else ():
            edges = np.percentile(known, (low, high), axis=0)
            axes.fill_between(curves.qps, *edges, color=color, alpha=0.18, lw=0, label=f"{low} to {high} % of pictures")
        axes.plot(curves.qps, summary.mean_curve(task), color=color, lw=2, marker=".", label="mean")
        axes.set(title=f"{task}, {len(known)} pictures", xlabel="QP", xlim=(curves.qps[0], curves.qps[-1]))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left", fontsize=8)
    panels[0].set(ylabel="SMR", ylim=(0, 1.02))
    figure.suptitle(f"Satisfied Machine Ratio, {_what(summary)}")


def draw_jrd_histogram(summary: Summary, figure: Figure) -> None:
    """Distribution of JRD: per object and machine by both rules, per physical object at ratios of machines."""
    figure.set_size_inches(12, 4)
    left, right = figure.subplots(1, 2)
    names = [f"object, {rule}" for rule in RULES]
    _histogram(left, summary, names, "per object and machine")
    _histogram(right, summary, [n for n in summary.jrd if n not in names], "per physical object, window rule")
    figure.suptitle(f"Just Recognizable Distortion, {_what(summary)}")


def _histogram(axes: Axes, summary: Summary, names: list[str], title: str) -> None:
    levels = (0, *summary.objects.qps)
    places = np.arange(len(levels))
    width = 0.8 / max(1, len(names))
    for at, name in enumerate(names):
        values = summary.jrd[name]
        share = np.array([(values == level).mean() if len(values) else 0.0 for level in levels])
        d = Distribution.of(values)
        label = f"{name.split(', ', 1)[1]}: mean {d.mean:.1f}, median {d.median:.0f}, SD {d.deviation:.1f} (n={d.n})"
        axes.bar(places + (at - (len(names) - 1) / 2) * width, share, width, label=label)
    axes.set_xticks(places, [str(level) for level in levels], fontsize=8)
    axes.set(title=title, xlabel="JRD (QP; 0: not even at the lowest)", ylabel="share")
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.3, axis="y")


def draw_machine_satisfaction(summary: Summary, figure: Figure) -> None:
    """Share of satisfied pictures of each machine at each QP, most robust machine first within its task."""
    verdicts = summary.verdicts
    share = machine_satisfaction(verdicts)
    columns = [at for at, qp in enumerate(verdicts.qps) if qp != ORIGINAL_QP]
    order = sorted(range(len(verdicts.machines)), key=lambda m: (verdicts.tasks[m], -np.nansum(share[m])))
    figure.set_size_inches(10, 1.5 + 0.27 * len(order))
    axes = figure.subplots()
    image = axes.imshow(share[order][:, columns], aspect="auto", vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(columns)), [str(verdicts.qps[at]) for at in columns])
    valid = verdicts.valid[:, :, 0].sum(axis=0)
    axes.set_yticks(range(len(order)), [f"{verdicts.machines[m]} ({valid[m]})" for m in order], fontsize=8)
    first = sum(verdicts.tasks[m] == "classification" for m in order)
    axes.axhline(first - 0.5, color="white", lw=2)
    axes.set(xlabel="QP", title=f"Satisfied pictures per machine (valid pictures), {_what(summary)}")
    figure.colorbar(image, label="share satisfied")


def draw_machine_agreement(summary: Summary, figure: Figure) -> None:
    """Correlation of verdicts at equal QP between machines."""
    verdicts = summary.verdicts
    order = sorted(range(len(verdicts.machines)), key=lambda m: verdicts.tasks[m])
    correlation = agreement(verdicts)[1][np.ix_(order, order)]
    size = 3 + 0.27 * len(order)
    figure.set_size_inches(size + 1, size)
    axes = figure.subplots()
    image = axes.imshow(correlation, vmin=-1, vmax=1, cmap="RdBu_r")
    names = [verdicts.machines[m] for m in order]
    axes.set_xticks(range(len(order)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(order)), names, fontsize=7)
    axes.set(title=f"Correlation of verdicts at equal QP, {_what(summary)}")
    figure.colorbar(image, shrink=0.8)


def _what(summary: Summary) -> str:
    config = summary.config
    return f"{config.encoder} {config.preset} {config.coding}, {sum(summary.pictures.values())} pictures"
