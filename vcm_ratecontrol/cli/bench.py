"""vcm-bench: what is saved, and what is lost, at equal satisfaction of machines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vcm_ratecontrol.cli.common import PATH, CommandRun, VcmGroup, common_options, pass_run
from vcm_ratecontrol.cli.machine_options import MachineOptions, machine_options
from vcm_ratecontrol.cli.streams import quiet_native_stderr

if TYPE_CHECKING:
    from vcm_ratecontrol.annotate.run import Executor
    from vcm_ratecontrol.bench.measuring import Outcome

DEFAULT_LEVELS = "8-62:3"
DEFAULT_TARGETS = "0.8,0.9,0.95"
DEFAULT_CODECS = "vvc"

_SELECTING = ("max_side", "frames_per_segment", "segments", "split", "limit")

# Never typed by anybody: what is not `table` goes there, so a folder may have any other name.
DEFAULT_COMMAND = "bench"
TABLE = "table"


class _BenchGroup(VcmGroup):
    """`vcm-bench PICTURES_OR_CLIPS...` measures, `vcm-bench table RESULTS` prints."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            args = ["--help"]
        elif args[0] not in (TABLE, "--help", "--version"):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "PICTURES_OR_CLIPS... --machines DIR --out RESULTS [OPTIONS]")
        formatter.write_usage(ctx.command_path, f"{TABLE} RESULTS.json")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.commands[DEFAULT_COMMAND].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(name="vcm-bench", cls=_BenchGroup)
def main() -> None:
    """Compare methods of choosing QPs on PICTURES_OR_CLIPS (files, folders): bits at equal satisfaction of machines.

    Everything is coded, decoded and judged here; the anchor is one QP for all. Writes results.json, results.csv and
    report.html into the folder RESULTS. A run that was stopped goes on where it was. See docs/benchmarks.md.
    """


@main.command(DEFAULT_COMMAND, hidden=True)
@common_options
@pass_run
@click.argument("inputs", nargs=-1, required=True, metavar="PICTURES_OR_CLIPS...")
@machine_options()
@click.option("--judge", metavar="DIR|hash", help="Library of the judges, or 'hash': divide --machines in two.")
@click.option("--judge-names", metavar="A,B,...", help="The judges, of --judge or of --machines.")
@click.option("--methods", metavar="M,...", help="Methods and groups, see docs/benchmarks.md; by default most.")
@click.option(
    "--codec", default=DEFAULT_CODECS, show_default=True, metavar="C,...", help="vvc, hevc, hevc-kvazaar, av1."
)
@click.option("--preset", help="Of every encoder; by default its own.")
@click.option("--levels", default=DEFAULT_LEVELS, show_default=True, metavar="LIST", help="QPs to choose among.")
@click.option("--targets", default=DEFAULT_TARGETS, show_default=True, metavar="LIST", help="SMRs to compare at.")
@click.option("--out", required=True, metavar="RESULTS", type=PATH, help="Folder to write to.")
@click.option("--cache", metavar="DIR", type=PATH, help="Of measurements; by default the user's.")
@click.option("--annotations", multiple=True, metavar="FILE", type=PATH,
              help="Human boxes, COCO format; may be given again.")  # fmt: skip
@click.option("--predictor", metavar="NAME|FILE", help="Curve predictor; by default the shipped one.")
@click.option("--probes", default=3, show_default=True, type=click.IntRange(0), help="Of the predicted methods.")
@click.option("--max-side", default=640, show_default=True, type=click.IntRange(0), metavar="SAMPLES",
              help="Scale larger pictures down to this; 0: never.")  # fmt: skip
@click.option("--frames-per-segment", default=2, show_default=True, type=click.IntRange(1), help="Judged, of clips.")
@click.option("--segments", default=0, type=click.IntRange(0), help="Of each clip, spread evenly; 0: all.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), help="Only files of this split of labels.")
@click.option("--limit", default=0, type=click.IntRange(0), help="Only so many files, by content hash; 0: all.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of bootstrap and controls.")
@click.option("--resamples", default=1000, show_default=True, type=click.IntRange(100), help="Of the bootstrap.")
@click.option("--examples", default=4, show_default=True, type=click.IntRange(0), help="Pictures shown in the report.")
@click.option("--workers", default=0, type=click.IntRange(0), help="Worker processes; 0: one per core.")
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="ray: tasks of a Ray cluster.")  # fmt: skip
@click.option("--ray-address", metavar="ADDRESS", help="Of a running cluster, such as auto; none: start Ray here.")
def bench(run: CommandRun, /, inputs: tuple[str, ...], machines: MachineOptions, out: Path, **options: Any) -> None:
    """Benchmark INPUTS into the folder RESULTS."""
    from vcm_ratecontrol.bench.machine_sets import machine_sets
    from vcm_ratecontrol.bench.report import require_plots
    from vcm_ratecontrol.bench.run import run_bench
    from vcm_ratecontrol.bench.writing import prepare_folder, write_results

    settings = _settings(machines, options)
    require_plots()
    prepare_folder(out)
    judge_names = _split(options["judge_names"]) if options["judge_names"] else None
    task = None if machines.task == "both" else machines.task
    assert machines.directory is not None
    sets = machine_sets(machines.directory, machines.names, options["judge"], judge_names, task)

    def told(outcome: Outcome) -> None:
        run.emit("measured", unit=outcome.task.label, error=outcome.error, seconds_spent=outcome.spent.total)

    with quiet_native_stderr():
        executor = _executor(options)
        found = run_bench(inputs, sets, settings, _cache(options["cache"], out), executor, run.progress, told)
        run.progress.phase("writing the report")
        paths, document = write_results(found, out, options["examples"])
    _tell(run, document, paths)


@main.command(TABLE)
@common_options
@pass_run
@click.argument("results", type=PATH, metavar="RESULTS.json")
def table(run: CommandRun, results: Path) -> None:
    """Print the tables of savings of RESULTS.json as Markdown, as they stand in README."""
    from vcm_ratecontrol.bench.markdown import markdown_tables
    from vcm_ratecontrol.bench.writing import read_results

    text = markdown_tables(read_results(results))
    run.summarise(markdown=text)
    run.show(text)


def _settings(machines: MachineOptions, options: dict[str, Any]) -> Any:
    from vcm_ratecontrol.bench.catalogue import DEFAULT
    from vcm_ratecontrol.bench.items import Selection
    from vcm_ratecontrol.bench.run import Settings
    from vcm_ratecontrol.cli.annotate import parse_qps

    return Settings(
        codecs=tuple(dict.fromkeys(_split(options["codec"]))),
        methods=tuple(_split(options["methods"])) if options["methods"] else DEFAULT,
        levels=parse_qps(options["levels"], "--levels"),
        targets=_targets(options["targets"]),
        preset=options["preset"],
        thresholds=machines.thresholds(),
        task=machines.task,
        selection=Selection(**{name: options[name] for name in _SELECTING}),
        predictor=options["predictor"],
        probes=options["probes"],
        seed=options["seed"],
        n_resamples=options["resamples"],
        annotations=tuple(options["annotations"]),
    )


def _targets(text: str) -> tuple[float, ...]:
    from codec_wrappers.errors import InputError

    try:
        found = tuple(sorted({float(part) for part in _split(text)}))
    except ValueError as error:
        raise InputError(f"--targets {text!r}: write numbers such as 0.8,0.9") from error
    if not found or not all(0.0 < target <= 1.0 for target in found):
        raise InputError(f"--targets {text!r}: an SMR is above 0 and at most 1")
    return found


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _cache(given: Path | None, out: Path) -> Path:
    from vcm_ratecontrol.ratecontrol.probe_cache import default_cache_folder

    return given or default_cache_folder() or out / "cache"


def _executor(options: dict[str, Any]) -> Executor:
    if options["executor"] == "ray":
        from vcm_ratecontrol.annotate.ray_executor import RayOptions, annotate_ray

        chosen = RayOptions(options["ray_address"])
        return lambda recipe, tasks, told: annotate_ray(recipe, tasks, chosen, told)
    from vcm_ratecontrol.annotate.local import annotate_local

    workers = options["workers"] or os.cpu_count() or 1
    return lambda recipe, tasks, told: annotate_local(recipe, tasks, workers, told)


def _tell(run: CommandRun, document: dict[str, Any], paths: dict[str, Path]) -> None:
    from vcm_ratecontrol.bench.markdown import markdown_tables

    kept = ("warnings", "left_out", "seconds", "machines")
    run.summarise(
        **{("bench_seconds" if name == "seconds" else name): document[name] for name in kept},
        codecs=[
            {
                "codec": codec["codec"],
                "items": len(codec["items"]),
                "left_out": codec["left_out"],
                "unavailable": codec["unavailable"],
                "measured": codec["measured"],
                "savings": {method["name"]: method["near"] for method in codec["methods"]},
            }
            for codec in document["codecs"]
        ],
        **paths,
    )
    lines = [markdown_tables(document)]
    lines += [f"warning: {text}" for text in document["warnings"]]
    for codec in document["codecs"]:
        gone = (*document["left_out"], *codec["left_out"])
        lines += [f"{codec['codec']}: left out {one['name']}: {one['reason']}" for one in gone]
        lines += [f"{codec['codec']}: no {name}: {reason}" for name, reason in codec["unavailable"].items()]
    lines.append(f"{document['seconds']:.0f} s; {', '.join(str(path) for path in paths.values())}")
    run.show("\n".join(lines))


if __name__ == "__main__":
    main()
