"""vcm-annotate: build the satisfaction table, and say what is in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codec_wrappers.errors import InputError
from vcm_ratecontrol.cli.common import PATH, CommandRun, VcmGroup, common_options, pass_run
from vcm_ratecontrol.cli.streams import quiet_native_stderr

if TYPE_CHECKING:
    from vcm_ratecontrol.annotate.run import Coding, Executor, Report
    from vcm_ratecontrol.annotate.task import Outcome
    from vcm_ratecontrol.labels.stats import Summary

# Dense where the curves fall (QP 25 to 49 for most pictures), thin where little happens.
DEFAULT_QPS = "8,14,18,22,25,27,29,31,33,35,37,39,41,43,45,47,49,52,57,63"
# HEVC ends at 51.
LABEL_SPACE = 63

# Never typed by anybody: what is not `stats` goes there, so a folder may have any other name.
DEFAULT_COMMAND = "annotate"
STATISTICS = "stats"


class _AnnotateGroup(VcmGroup):
    """`vcm-annotate PICTURES...` annotates, `vcm-annotate stats LABELS` tells."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            args = ["--help"]
        elif args[0] not in (STATISTICS, "--help", "--version"):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "PICTURES... --machines DIR --out LABELS [OPTIONS]")
        formatter.write_usage(ctx.command_path, f"{STATISTICS} LABELS [OPTIONS]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.commands[DEFAULT_COMMAND].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(name="vcm-annotate", cls=_AnnotateGroup)
def main() -> None:
    """Annotate PICTURES (files, folders, fsspec URLs) with what machines make of them after coding.

    Each picture is coded at each QP and shown to every machine; the table goes to the folder LABELS. A run that
    was stopped goes on where it was when the same command is given again. See docs/labels.md.
    """


@main.command(DEFAULT_COMMAND, hidden=True)
@common_options
@pass_run
@click.argument("pictures", nargs=-1, required=True)
@click.option("--machines", required=True, metavar="DIR", type=PATH, help="Machine library.")
@click.option("--names", metavar="A,B,...", help="Only these machines of the library.")
@click.option("--out", required=True, metavar="LABELS", help="Label folder: a path or an fsspec URL.")
@click.option("--codec", default="vvc", show_default=True, help="vvc, hevc, hevc-kvazaar, av1 or an encoder's name.")
@click.option("--preset", help="The encoder's preset; its default where not given.")
@click.option(
    "--qps", default=DEFAULT_QPS, show_default=True, metavar="LIST", help="Such as 0-63, 20-50:2 or 16,20,24."
)
@click.option(
    "--coding",
    type=click.Choice(["still", "inter"]),
    default="still",
    show_default=True,
    help="inter: PICTURES are clips, coded as video (random access) in segments.",
)
@click.option(
    "--max-side",
    default=640,
    show_default=True,
    type=click.IntRange(0),
    metavar="SAMPLES",
    help="Scale larger pictures down to this; 0: never.",
)
@click.option(
    "--frames-per-segment",
    default=2,
    show_default=True,
    type=click.IntRange(1),
    help="Frames annotated of each clip segment.",
)
@click.option("--segments", default=0, type=click.IntRange(0), help="Segments of each clip, spread evenly; 0: all.")
@click.option(
    "--limit",
    default=0,
    type=click.IntRange(0),
    help="Only the first so many pictures or segments in the order of content hashes; 0: all.",
)
@click.option("--workers", default=0, type=click.IntRange(0), help="Worker processes; 0: one per core.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: tasks of a Ray cluster.",
)
@click.option("--ray-address", metavar="ADDRESS", help="Of a running cluster, such as auto; none: start Ray here.")
@click.option("--task-cpus", default=1.0, show_default=True, type=click.FloatRange(0), help="Cores of a Ray task.")
@click.option("--task-gpus", default=0.0, show_default=True, type=click.FloatRange(0), help="GPUs of a Ray task.")
def annotate_pictures(
    run: CommandRun,
    pictures: tuple[str, ...],
    machines: Path,
    names: str | None,
    out: str,
    codec: str,
    preset: str | None,
    qps: str,
    coding: Coding,
    max_side: int,
    frames_per_segment: int,
    segments: int,
    limit: int,
    workers: int,
    executor: str,
    ray_address: str | None,
    task_cpus: float,
    task_gpus: float,
) -> None:  # fmt: skip
    """Annotate PICTURES into the folder LABELS."""
    from vcm_ratecontrol.annotate.run import Settings, annotate
    from vcm_ratecontrol.labels.schema import MIN_STORED_CONFIDENCE
    from vcm_ratecontrol.machines.library import LibraryRef

    chosen = tuple(name.strip() for name in names.split(",") if name.strip()) if names else None
    library = LibraryRef(machines, names=chosen, min_confidence=MIN_STORED_CONFIDENCE)
    settings = Settings(codec, parse_qps(qps), preset, coding, max_side, limit, frames_per_segment, segments)
    local = _local(workers or os.cpu_count() or 1)
    engine = _ray(ray_address, task_cpus, task_gpus) if executor == "ray" else local

    def told(outcome: Outcome) -> None:
        spent = outcome.spent
        run.emit(
            "picture", source=outcome.task.label, error=outcome.error, pictures=spent.pictures, coded=spent.coded,
            encode_s=spent.encode, decode_s=spent.decode, machines_s=spent.machines,
        )  # fmt: skip

    with quiet_native_stderr():
        report = annotate(pictures, out, library, settings, engine, run.progress, told)
    _report(run, report, out)


@main.command(STATISTICS)
@common_options
@pass_run
@click.argument("labels", metavar="LABELS")
@click.option(
    "--plots", default="label-plots", show_default=True, metavar="DIR", help="Folder for the charts (PNG); '' for none."
)
@click.option("--t-conf", default=0.3, show_default=True, type=click.FloatRange(0, 1), help="Least confidence.")
@click.option("--t-iou", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Least IoU of a match.")
@click.option("--t-score", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Least F1 score.")
@click.option(
    "--t-label",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Least confidence of a classifier in its label on the original.",
)
def show_statistics(
    run: CommandRun, labels: str, plots: str, t_conf: float, t_iou: float, t_score: float, t_label: float
) -> None:  # fmt: skip
    """Print what the folder LABELS holds, and draw it."""
    from vcm_ratecontrol.labels.stats import summarise
    from vcm_ratecontrol.labels.store import LabelStore
    from vcm_ratecontrol.satisfaction import Thresholds

    run.progress.phase("reading")
    summary = summarise(LabelStore(labels), Thresholds(t_conf, t_iou, t_score, t_label))
    paths: list[Path] = []
    if plots:
        from vcm_ratecontrol.labels.plots import write_plots

        run.progress.phase("drawing")
        paths = write_plots(summary, Path(plots))
    _show_summary(run, summary, paths)


def parse_qps(text: str, option: str = "--qps") -> tuple[int, ...]:
    """QPs of a list such as '16,20,24', '0-63' or '20-50:2', rising. Raises InputError, which names the option."""
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        try:
            found.update(range(int(first), int(last if dash else first) + 1, int(step or 1)))
        except ValueError as error:
            raise InputError(f"{option} {text!r}: cannot read {part!r}; write 0-63, 20-50:2 or 16,20,24") from error
    if not found or min(found) < 0 or max(found) > LABEL_SPACE:
        raise InputError(f"{option} {text!r}: QPs must lie in 0..{LABEL_SPACE}, and there must be one")
    return tuple(sorted(found))


def _local(workers: int) -> Executor:
    from vcm_ratecontrol.annotate.local import annotate_local

    return lambda recipe, tasks, told: annotate_local(recipe, tasks, workers, told)


def _ray(address: str | None, cpus: float, gpus: float) -> Executor:
    from vcm_ratecontrol.annotate.ray_executor import RayOptions, annotate_ray

    options = RayOptions(address, cpus, gpus)
    return lambda recipe, tasks, told: annotate_ray(recipe, tasks, options, told)


def _report(run: CommandRun, report: Report, out: str) -> None:
    spent = report.spent
    rate = spent.coded / report.seconds if report.seconds else 0.0
    share = {
        name: seconds / spent.total if spent.total else 0.0
        for name, seconds in (("encode", spent.encode), ("decode", spent.decode), ("machines", spent.machines))
    }
    failures = {name: number for name, number in sorted(spent.failures.items()) if number}
    run.summarise(
        labels=out,
        annotated=report.annotated,
        known=report.known,
        duplicates=report.duplicates,
        skipped=[{"source": one.source, "reason": one.reason} for one in report.broken],
        coded=spent.coded,
        coded_per_second=rate,
        time_share=share,
        machine_failures=failures,
    )
    lines = [
        f"{out}: {report.annotated} pictures annotated, {report.known} were there already,"
        f" {report.duplicates} of the same content as another, {len(report.broken)} skipped"
    ]
    if spent.coded:
        lines.append(
            f"{spent.coded} coded pictures in {report.seconds:.0f} s, {rate:.2f} per second;"
            f" time: encoding {share['encode']:.0%}, decoding {share['decode']:.0%}, machines {share['machines']:.0%}"
        )
    lines += [f"{name}: failed on {number} pictures, recorded as invalid" for name, number in failures.items()]
    lines += [f"skipped: {one.reason}" for one in report.broken]
    run.show("\n".join(lines))


def _show_summary(run: CommandRun, summary: Summary, paths: list[Path]) -> None:
    from vcm_ratecontrol.cli.label_tables import counts_table, curve_table, jrd_table, summary_fields

    run.summarise(**summary_fields(summary), plots=[str(path) for path in paths])
    drawn = [f"Drawn: {', '.join(str(path) for path in paths)}"] if paths else []
    run.show(counts_table(summary), curve_table(summary), jrd_table(summary), *drawn)


if __name__ == "__main__":
    main()
