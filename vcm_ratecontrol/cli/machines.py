"""vcm-machines: the machines of a library - what they are, whether they work here, what they see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from codec_wrappers.errors import InputError, MissingToolError
from vcm_ratecontrol.cli.common import PATH, CommandRun, VcmGroup, common_options, pass_run

if TYPE_CHECKING:
    from rich.table import Table

    from vcm_ratecontrol.machines.accuracy import Accuracy
    from vcm_ratecontrol.machines.check import Check
    from vcm_ratecontrol.machines.machine import Result, Task
    from vcm_ratecontrol.machines.manifest import MachineSpec

_directory = click.argument("directory", metavar="DIR", type=PATH)
_names = click.option("--names", metavar="A,B,...", help="Only these; NAME@onnx and NAME@ncnn are the twins.")
_runtime = click.option(
    "--runtime", type=click.Choice(["onnxruntime", "litert", "ncnn"]), help="Only what runs there, with twins."
)
_task = click.option("--task", type=click.Choice(["classification", "detection"]), help="Only these.")


@click.group(name="vcm-machines", cls=VcmGroup)
def main() -> None:
    """Look at a machine library: a folder with a manifest.json in it or beside it (docs/machines.md)."""


@main.command("list")
@common_options
@pass_run
@_directory
@_names
@_task
@_runtime
def list_machines(run: CommandRun, directory: Path, names: str | None, task: Task | None, runtime: str | None) -> None:
    """List the machines of the library in DIR without opening them."""
    specs = _chosen(directory, names, task, runtime)
    table = _table("machine", "task", "runtime", "input", "how the picture gets there", "stated accuracy")
    for spec in specs:
        size = f"{spec.geometry.size[0]}x{spec.geometry.size[1]}"
        stated = _figures(spec.measured, ("top1", "top5", "ap", "ap50"))
        table.add_row(spec.name, spec.task, spec.runtime, size, _rule(spec), stated)
        run.emit(
            "machine", name=spec.name, task=spec.task, runtime=spec.runtime, size=list(spec.geometry.size),
            rule=spec.geometry.rule, decode=spec.decode, measured=dict(spec.measured),
            files=[str(file.path) for file in spec.files],
        )  # fmt: skip
    run.summarise(machines=len(specs))
    run.show(table, f"{len(specs)} machines")


@main.command("check")
@common_options
@pass_run
@_directory
@_names
@_task
@_runtime
@click.option("--accuracy", is_flag=True, help="Measure accuracy too, and compare it with the manifest's.")
@click.option(
    "--pictures", metavar="DIR", type=PATH,
    help="Folder whose manifest.json lists labelled images.  [default: where the library's manifest lies]",
)  # fmt: skip
def check_machines(
    run: CommandRun,
    directory: Path,
    names: str | None,
    task: Task | None,
    runtime: str | None,
    accuracy: bool,
    pictures: Path | None,
) -> None:
    """Open every machine of DIR, check its files against the manifest and run it.

    Exit code 0 when all is well; 7 when a machine does not work here or, with --accuracy, is more than 1.5 points
    off what the manifest states.
    """
    from vcm_ratecontrol.machines.check import check_machine

    specs = _chosen(directory, names, task, runtime)
    run.progress.phase("opening", len(specs))
    checks = []
    for spec in specs:
        checks.append(check_machine(spec))
        run.progress.advance()
    failed = [check.error for check in checks if check.error is not None]
    figures = []
    if accuracy and not failed:
        figures = _measured(run, directory, [spec.name for spec in specs], pictures)
    off = [figure for figure in figures if not figure.within()]
    run.summarise(machines=len(checks), failed=len(failed), off=len(off), ms=sum(c.milliseconds for c in checks))
    run.show(_check_table(run, checks), f"{len(checks) - len(failed)} of {len(checks)} machines work here")
    if failed:
        raise MissingToolError(f"{len(failed)} of {len(checks)} machines do not work here: {failed[0]}")
    if figures:
        run.show(_accuracy_table(run, figures))
    if off:
        raise MissingToolError(_off(off[0], len(off)))


def _check_table(run: CommandRun, checks: list[Check]) -> Table:
    table = _table("machine", "", "opened", "per picture", "identity")
    for check in checks:
        state = "ok" if check.error is None else f"[red]{check.error}[/red]"
        times = (f"{check.open_seconds:.2f} s", f"{check.milliseconds:.1f} ms") if not check.error else ("", "")
        table.add_row(check.name, state, *times, check.sha256[:12])
        run.emit(
            "check",
            name=check.name,
            ok=check.error is None,
            sha256=check.sha256,
            ms=check.milliseconds,
            open_seconds=check.open_seconds,
            error=str(check.error) if check.error else None,
        )
    return table


def _measured(run: CommandRun, directory: Path, names: list[str], pictures: Path | None) -> list[Accuracy]:
    from vcm_ratecontrol.machines.accuracy import MIN_CONFIDENCE, measure_accuracy, read_labelled_pictures
    from vcm_ratecontrol.machines.library import MachineLibrary
    from vcm_ratecontrol.machines.manifest import find_manifest

    labelled = read_labelled_pictures(pictures or find_manifest(directory).parent)
    library = MachineLibrary.load(directory, names, min_confidence=MIN_CONFIDENCE)
    return measure_accuracy(library, labelled, run.progress)


def _accuracy_table(run: CommandRun, figures: list[Accuracy]) -> Table:
    table = _table("machine", "measured", "stated", "pictures", "")
    for figure in figures:
        keys = tuple(figure.measured)
        stated, verdict = _figures(figure.expected, keys), "ok" if figure.within() else "[red]differs[/red]"
        table.add_row(figure.name, _figures(figure.measured, keys), stated, str(figure.n_pictures), verdict)
        run.emit(
            "accuracy",
            name=figure.name,
            measured=dict(figure.measured),
            expected=dict(figure.expected),
            pictures=figure.n_pictures,
            ok=figure.within(),
        )
    return table


def _off(worst: Accuracy, count: int) -> str:
    keys = tuple(worst.measured)
    return (
        f"{count} machine(s) differ from the manifest: '{worst.name}' gives {_figures(worst.measured, keys)}, stated"
        f" is {_figures(worst.expected, keys)}; check its pre-processing fields and its model file"
    )


@main.command("run")
@common_options
@pass_run
@_directory
@click.argument("pictures", metavar="PICTURE...", nargs=-1, required=True, type=PATH)
@_names
@_task
@_runtime
@click.option("--confidence", type=click.FloatRange(0, 1), default=0.3, show_default=True,
              help="Least confidence of a detection that is told.")  # fmt: skip
def run_machines(
    run: CommandRun,
    directory: Path,
    pictures: tuple[Path, ...],
    names: str | None,
    task: Task | None,
    runtime: str | None,
    confidence: float,
) -> None:
    """Tell what each machine of DIR sees on each PICTURE (of a video: on its first frame)."""
    from vcm_ratecontrol.machines.library import MachineLibrary
    from vcm_ratecontrol.media.clip import open_clip

    clips = [open_clip(path) for path in pictures]
    library = MachineLibrary.load(directory, _split(names), task, runtime, min_confidence=confidence)
    run.progress.phase("machines", len(clips))
    for path, clip in zip(pictures, clips, strict=True):
        results, failures = library.try_run(next(iter(clip.read_rgb([0]))))
        run.progress.advance()
        table = _table("machine", "sees", title=str(path))
        for name, result in results.items():
            told = _told(result)
            table.add_row(name, told)
            run.emit("result", picture=str(path), name=name, **_as_json(result))
        for name, error in failures.items():
            table.add_row(name, f"[red]{error}[/red]")
            run.emit("failure", picture=str(path), name=name, error=str(error))
        run.show(table)
        if failures:
            raise next(iter(failures.values()))
    run.summarise(machines=len(library), pictures=len(clips))


def _chosen(directory: Path, names: str | None, task: Task | None, runtime: str | None) -> tuple[MachineSpec, ...]:
    from vcm_ratecontrol.machines.library import select
    from vcm_ratecontrol.machines.manifest import read_manifest

    return select(read_manifest(directory), _split(names), task, runtime)


def _split(names: str | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    parts = tuple(name.strip() for name in names.split(",") if name.strip())
    if not parts:
        raise InputError("--names: no name in it; leave the option out for all machines")
    return parts


def _rule(spec: MachineSpec) -> str:
    geometry = spec.geometry
    value = f" {geometry.value:g}" if geometry.rule in ("fraction", "crop") else ""
    view = f" of {geometry.view[0]}x{geometry.view[1]}" if geometry.view else ""
    return f"{geometry.rule}{value}{view}"


def _figures(values: Mapping[str, float], keys: tuple[str, ...]) -> str:
    return ", ".join(f"{key} {values[key]:.1f}" for key in keys if key in values)


def _told(result: Result) -> str:
    from vcm_ratecontrol.machines.machine import Classification

    if isinstance(result, Classification):
        return f"class {result.label} ({result.confidence:.0%})"
    named = [
        f"{_name(int(label))} ({score:.0%}) at {' '.join(f'{v:.0f}' for v in box)}"
        for box, score, label in zip(result.boxes, result.scores, result.classes, strict=True)
    ]
    return "; ".join(named) or "nothing"


def _name(label: int) -> str:
    from vcm_ratecontrol.machines.coco import COCO_NAMES

    return COCO_NAMES[label] if label < len(COCO_NAMES) else f"class {label}"


def _as_json(result: Result) -> dict[str, object]:
    from vcm_ratecontrol.machines.machine import Classification

    if isinstance(result, Classification):
        return {"task": "classification", "label": result.label, "confidence": result.confidence}
    return {
        "task": "detection",
        "boxes": [[round(float(v), 2) for v in box] for box in result.boxes],
        "scores": [round(float(s), 4) for s in result.scores],
        "classes": [int(c) for c in result.classes],
    }


def _table(*columns: str, title: str | None = None) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    justify: dict[str, Literal["right"]] = {"per picture": "right", "opened": "right", "pictures": "right"}
    for column in columns:
        table.add_column(column, overflow="fold", justify=justify.get(column, "left"))
    return table


if __name__ == "__main__":
    main()
