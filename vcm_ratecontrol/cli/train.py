"""vcm-train: train the predictors from a label table, let teachers look at crops, evaluate a checkpoint."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codec_wrappers.errors import InputError
from vcm_ratecontrol.cli.common import PATH, CommandRun, VcmGroup, common_options, pass_run
from vcm_ratecontrol.cli.streams import quiet_native_stderr

if TYPE_CHECKING:
    from vcm_ratecontrol.training.data import DataRequest
    from vcm_ratecontrol.training.run import TrainReport

# Never typed by anybody: what is no other command goes there, so a configuration may have any other name.
DEFAULT_COMMAND = "train"
OTHERS = ("distil", "evaluate")
GIGA = 1 << 30


class _TrainGroup(VcmGroup):
    """`vcm-train CONFIG` trains; `vcm-train distil` and `vcm-train evaluate` do what their names say."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            args = ["--help"]
        elif args[0] not in (*OTHERS, "--help", "--version"):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "CONFIG --labels DIR --pictures DIR --out DIR [OPTIONS]")
        formatter.write_usage(ctx.command_path, "distil --machines DIR --pictures DIR --cache DIR [OPTIONS]")
        formatter.write_usage(ctx.command_path, "evaluate CHECKPOINT --labels DIR --pictures DIR [OPTIONS]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.commands[DEFAULT_COMMAND].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


_pictures = click.option(
    "--pictures",
    multiple=True,
    metavar="DIR",
    help="Pictures and clips behind the labels, found by content; repeatable.",
)
_labels = click.option("--labels", multiple=True, metavar="DIR", help="Label folder of vcm-annotate; repeatable.")
_judges = click.option(
    "--judges",
    default="hash",
    show_default=True,
    metavar="WHO",
    help="Machines that judge and never train: 'hash' (30 %), 'same' (all do both), names A,B,... or @FILE.",
)
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
_workers = click.option("--workers", default=-1, type=int, help="Threads that load pictures; default: one per core.")
_cache_gb = click.option(
    "--cache-gb", default=8.0, show_default=True, type=click.FloatRange(0), help="Bound of the cache of coded pictures."
)
_resamples = click.option(
    "--resamples", default=500, show_default=True, type=click.IntRange(0), help="Of the bootstrap; 0: no intervals."
)
_minutes = click.option(
    "--max-minutes",
    default=0.0,
    type=click.FloatRange(0),
    help="End after so many minutes with what there is; 0: never.",
)


@click.group(name="vcm-train", cls=_TrainGroup)
def main() -> None:
    """Train CONFIG, a configuration's name or .toml file, on label folders. See docs/training.md.

    A run that was stopped goes on where it was with --resume. Several GPUs: torchrun --nproc-per-node N -m
    vcm_ratecontrol.cli.train CONFIG ...
    """


@main.command(DEFAULT_COMMAND, hidden=True)
@common_options
@pass_run
@click.argument("config")
@_labels
@_pictures
@click.option("--out", required=True, type=PATH, help="Folder for state, log, weights, card.")
@click.option("--cache", type=PATH, help="Coded pictures (default OUT/cache); teachers' answers.")
@_cache_gb
@_judges
@click.option("--init", default="", metavar="FILE", help="Checkpoint whose backbone to start from.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Of the [training] table; repeatable.")
@click.option("--limit", default=0, type=click.IntRange(0), help="Only so many training pictures per label folder.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@_device
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of all that is random.")
@_minutes
@_workers
@_resamples
@click.option("--full-precision", is_flag=True, help="Store matrices in 32 bit, not 16.")
def train_config(
    run: CommandRun,
    config: str,
    labels: tuple[str, ...],
    pictures: tuple[str, ...],
    out: Path,
    cache: Path | None,
    cache_gb: float,
    judges: str,
    init: str,
    overrides: tuple[str, ...],
    limit: int,
    resume: bool,
    device: str,
    seed: int,
    max_minutes: float,
    workers: int,
    resamples: int,
    full_precision: bool,
) -> None:  # fmt: skip
    """Train CONFIG."""
    from vcm_ratecontrol.predictors.config import load_config
    from vcm_ratecontrol.training.run import TrainRequest, train

    folder = cache or out / "cache"
    request = TrainRequest(
        config=load_config(config),
        data=_data(labels, pictures, judges, folder, cache_gb, limit) if labels else None,
        out=out,
        pictures=pictures,
        teachers=cache,
        overrides=dict(parse_setting(text) for text in overrides),
        init=init,
        seed=seed,
        device=device,
        resume=resume,
        max_minutes=max_minutes,
        workers=_threads(workers),
        half=not full_precision,
        resamples=resamples,
        arguments=["vcm-train", *sys.argv[1:]],
    )
    with quiet_native_stderr():
        report = train(request, run.progress)
    if report is not None:
        _tell(run, report)


@main.command("distil")
@common_options
@pass_run
@click.option("--machines", required=True, metavar="DIR", type=PATH, help="Machine library.")
@_pictures
@click.option("--cache", required=True, type=PATH, help="Folder for the teachers' answers.")
@_judges
@click.option("--crops", default=50_000, show_default=True, type=click.IntRange(1), help="Crops in the end.")
@click.option("--frames-per-clip", default=40, show_default=True, type=click.IntRange(0), help="Frames of each clip.")
@click.option("--max-gb", default=4.0, show_default=True, type=click.FloatRange(0), help="Bound of the answers.")
@_cache_gb
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the crops.")
@_minutes
@_workers
def distil(
    run: CommandRun,
    machines: Path,
    pictures: tuple[str, ...],
    cache: Path,
    judges: str,
    crops: int,
    frames_per_clip: int,
    max_gb: float,
    cache_gb: float,
    seed: int,
    max_minutes: float,
    workers: int,
) -> None:  # fmt: skip
    """Let the machines look at crops, for the stand-in to learn from: vcm-train stand_in --cache DIR."""
    from vcm_ratecontrol.training.teach import TeachRequest, teach

    if not pictures:
        raise InputError("--pictures: give folders of pictures and clips to cut crops from")
    request = TeachRequest(
        machines=machines,
        pictures=pictures,
        cache=cache,
        judges=judges,
        crops=crops,
        seed=seed,
        frames_per_clip=frames_per_clip,
        max_bytes=round(max_gb * GIGA),
        coded_bytes=round(cache_gb * GIGA),
        max_minutes=max_minutes,
        workers=_threads(workers),
    )
    with quiet_native_stderr():
        report = teach(request, run.progress)
    run.summarise(
        cache=str(cache), crops=report.crops, made=report.made, teaching_seconds=report.seconds, sources=report.sources,
        teachers=list(report.teachers),
    )  # fmt: skip
    rate = report.made / report.seconds if report.seconds else 0.0
    run.show(
        f"{cache}: {report.crops} crops of {report.sources} pictures and frames, answered by {len(report.teachers)}"
        f" machines; {report.made} made now, {rate:.1f} per second"
    )


@main.command("evaluate")
@common_options
@pass_run
@click.argument("checkpoint", type=PATH)
@_labels
@_pictures
@click.option("--out", type=PATH, help="Folder for evaluation.json, evaluation.md and plots.")
@click.option("--cache", type=PATH, help="Cache of coded pictures; default OUT/cache.")
@_cache_gb
@click.option("--judges", metavar="WHO", help="As in training; default: those that the checkpoint names.")
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train"]),
    default="test",
    show_default=True,
    help="Pictures that are judged; never tune on test.",
)
@click.option("--asked-as", default="", metavar="CODEC/CODING", help="Ask for other labels as for these.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Draws of the machines at hand.")
@click.option("--most", default=0, type=click.IntRange(0), help="Pictures or objects of slow predictors; 0: all.")
@_resamples
@click.option("--update", is_flag=True, help="Enter the result into the checkpoint's card and model card.")
@_device
def evaluate_checkpoint(
    run: CommandRun,
    checkpoint: Path,
    labels: tuple[str, ...],
    pictures: tuple[str, ...],
    out: Path | None,
    cache: Path | None,
    cache_gb: float,
    judges: str | None,
    split: Any,
    asked_as: str,
    repeats: int,
    most: int,
    resamples: int,
    update: bool,
    device: str,
) -> None:  # fmt: skip
    """Judge CHECKPOINT on pictures that training never saw, by machines that it never saw."""
    from vcm_ratecontrol.training.evaluation.checkpoint import EvaluateRequest, evaluate_file
    from vcm_ratecontrol.training.evaluation.figures import Resampling
    from vcm_ratecontrol.training.evaluation.settings import EvaluationSettings
    from vcm_ratecontrol.training.model_card import write_text

    if not labels:
        raise InputError("--labels: give the label folders to judge with")
    folder = cache or (out or checkpoint.parent) / "cache"
    request = EvaluateRequest(
        checkpoint=checkpoint,
        data=_data(labels, pictures, judges or "", folder, cache_gb, 0),
        settings=EvaluationSettings(split, repeats=repeats, asked_as=asked_as, most=most, how=Resampling(0, resamples)),
        device=device,
        plots=None if out is None else out / "plots",
        update=update,
    )
    with quiet_native_stderr():
        report = evaluate_file(request, run.progress)
    if out is not None:
        write_text(out / "evaluation.json", json.dumps(report.to_json(), indent=1) + "\n")
        write_text(out / "evaluation.md", report.markdown())
    run.summarise(checkpoint=str(checkpoint), **report.to_json())
    run.show(report.markdown())


def parse_setting(text: str) -> tuple[str, Any]:
    """'key=value' with a value as in TOML; a word without quotes is a string. Raises InputError."""
    import tomllib

    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise InputError(f"--set {text!r}: write KEY=VALUE")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _data(
    labels: tuple[str, ...], pictures: tuple[str, ...], judges: str, cache: Path, cache_gb: float, limit: int
) -> DataRequest:
    from vcm_ratecontrol.training.data import DataRequest

    return DataRequest(labels, pictures, judges, cache, round(cache_gb * GIGA), limit)


def _threads(workers: int) -> int:
    return workers if workers >= 0 else os.cpu_count() or 1


def _tell(run: CommandRun, report: TrainReport) -> None:
    fit = report.fit
    run.summarise(
        checkpoint=str(report.checkpoint),
        epochs=fit.epochs,
        best_epoch=fit.best_epoch,
        ending=fit.ending,
        training_seconds=fit.seconds,
        figures=dict(fit.figures),
        missing=len(report.missing),
        plots=[str(path) for path in report.plots],
    )
    figures = ", ".join(f"{name} {value:.4g}" for name, value in fit.figures.items())
    lines = [
        f"{report.checkpoint}: {fit.epochs} epochs in {fit.seconds / 60:.1f} min ({fit.ending}), best {fit.best_epoch}",
        f"validation: {figures}",
    ]
    run.show("\n".join(lines), *([report.report.markdown()] if report.report else []))


if __name__ == "__main__":
    main()
