"""What `vcm-annotate stats` prints: a label folder's summary as tables, and as fields of the end event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table

    from vcm_ratecontrol.labels.stats import Summary

SPLITS = ("train", "validation", "test")


def counts_table(summary: Summary) -> Table:
    """Pictures, verdicts, objects, machines."""
    config = summary.config
    table = _table("labels", "")
    splits = ", ".join(f"{summary.pictures.get(split, 0)} {split}" for split in SPLITS)
    tasks = summary.verdicts.tasks
    table.add_row("coded with", f"{config.encoder} ({config.codec}), {config.preset}, {config.coding}")
    table.add_row("encoder version", config.encoder_version)
    table.add_row("longest side", f"{config.max_side} samples" if config.max_side else "as the picture")
    table.add_row("pictures", f"{sum(summary.pictures.values())} ({splits})")
    table.add_row("pictures with a detector's object", str(summary.with_objects))
    table.add_row("QPs", f"{len(config.qps)}: {', '.join(map(str, config.qps))}")
    table.add_row("machines", f"{tasks.count('classification')} classifiers, {tasks.count('detection')} detectors")
    table.add_row("rows", f"{summary.rows:,}")
    judged = summary.verdicts.valid
    table.add_row("verdicts on coded pictures", f"{judged[:, :, 1:].sum():,} valid of {judged[:, :, 1:].size:,}")
    for task in ("detection", "classification"):
        valid = summary.curves[task].valid[:, 0]
        if len(valid) and task in tasks:
            table.add_row(f"valid machines per picture, {task}", _spread(valid))
    found = ", ".join(f"{number:,} {status}" for status, number in sorted(summary.statuses.items()))
    table.add_row("whole-picture rows by status", found)
    table.add_row("objects", f"{len(summary.objects):,} seen by single machines, {summary.physical:,} physical")
    return table


def curve_table(summary: Summary) -> Table:
    """Mean SMR at each QP."""
    table = _table("QP", "bits per pixel", *(f"SMR {task}" for task in summary.curves))
    means = [summary.mean_curve(task) for task in summary.curves]
    for at, qp in enumerate(summary.config.qps):
        rate = summary.bits_per_pixel[at]
        table.add_row(str(qp), f"{rate:.3f}", *(f"{mean[at]:.3f}" for mean in means))
    return table


def jrd_table(summary: Summary) -> Table:
    """Distributions of JRD."""
    table = _table("JRD", "labels", "mean", "median", "SD", "not at the lowest QP")
    for name, found in summary.distributions.items():
        table.add_row(
            name,
            f"{found.n:,}",
            f"{found.mean:.2f}",
            f"{found.median:.0f}",
            f"{found.deviation:.2f}",
            f"{found.zeros:.1%}",
        )
    return table


def summary_fields(summary: Summary) -> dict[str, object]:
    """The same for the end event of `--json`."""
    return {
        "pictures": summary.pictures,
        "rows": summary.rows,
        "with_objects": summary.with_objects,
        "objects": len(summary.objects),
        "physical_objects": summary.physical,
        "statuses": summary.statuses,
        "qps": list(summary.config.qps),
        "bits_per_pixel": summary.bits_per_pixel,
        "mean_smr": {task: summary.mean_curve(task) for task in summary.curves},
        "jrd": {
            name: {
                "labels": d.n,
                "mean": d.mean,
                "median": d.median,
                "deviation": d.deviation,
                "zeros": d.zeros,
            }
            for name, d in summary.distributions.items()
        },
    }


def _spread(values: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> str:
    return f"{values.min()} to {values.max()}, mean {values.mean():.1f}"


def _table(*titles: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for at, title in enumerate(titles):
        table.add_column(title, justify="left" if at == 0 or title == "" else "right", overflow="fold")
    return table
