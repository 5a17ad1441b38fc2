"""What vcm-encode does with --target-jrd: its options, the job, its end event and its closing summary."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vcm_ratecontrol.cli.common import CommandRun
from vcm_ratecontrol.cli.encode_batch import batch_fields, close, is_folder, teller
from vcm_ratecontrol.cli.jrd_options import jrd_options

if TYPE_CHECKING:
    from rich.table import Table

    from vcm_ratecontrol.jrd.batch import JRDBatchReport
    from vcm_ratecontrol.jrd.job import JRDReport, JRDRequest
    from vcm_ratecontrol.options import JRDArguments

F = TypeVar("F", bound=Callable[..., Any])

MODE = "per-object"
LISTED = 20
"""Lost objects that the summary lists; the events hold all."""


def encode_jrd_options(function: F) -> F:
    """Add --target-jrd, its companions and --verify-jrd; the function gets `jrd: JRDOptions` and `verify_jrd`."""
    verify = click.option("--verify-jrd", is_flag=True, help="List the objects that --machines lost in the result.")
    return jrd_options()(verify(function))


def run_jrd(run: CommandRun, sources: Sequence[Path], output: Path, arguments: JRDArguments) -> None:
    """Encode per object, tell the events, print the summary. arguments: as the library takes them."""
    from vcm_ratecontrol.jrd.job import encode_jrd
    from vcm_ratecontrol.options import jrd_request_of

    request = jrd_request_of(sources[0], output, arguments)
    if len(sources) > 1 or is_folder(output):
        run_jrd_batch(run, request, sources)
        return
    report = encode_jrd(request, run.progress, run.emit)
    run.summarise(**report_fields(report))
    if request.dry_run:
        run.show(*(shlex.join(command) for command in report.commands))
        return
    tables = [summary_table(report)] + ([lost_table(report)] if report.lost else [])
    run.show(*tables, *(f"note: {note}" for note in report.notes))


def run_jrd_batch(run: CommandRun, request: JRDRequest, sources: Sequence[Path]) -> None:
    """Encode into a folder; raises the first failure when the others are done."""
    from vcm_ratecontrol.jrd.batch import encode_jrd_batch

    batch = encode_jrd_batch(request, sources, run.progress, run.emit, teller(run, report_fields))
    run.summarise(
        mode=MODE,
        ratio=request.settings.ratio,
        files=[{"input": r.input, "output": r.output, "bits": r.bits, "objects": r.objects, "lowest_qp": r.lowest_qp,
                "background_qp": r.background_qp, "lost": None if r.lost is None else len(r.lost)}
               for r in batch.reports],
        **batch_fields(batch),
    )  # fmt: skip
    close(run, batch, batch_table(batch), dry_run=request.dry_run)


def report_fields(report: JRDReport) -> dict[str, Any]:
    """The report as fields of the end event; docs/commands.md says what each means."""
    from dataclasses import asdict

    fields = asdict(report)
    fields["mode"] = MODE
    fields["bpp"] = report.bits_per_pixel
    fields["kbps"] = report.kilobits_per_second
    fields["job_seconds"] = fields.pop("seconds")
    return fields


def summary_table(report: JRDReport) -> Table:
    """The closing summary for a person."""
    from rich.table import Table

    from vcm_ratecontrol.cli.encode_summary import count, rate_text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("output", f"{report.output}  ({count(report.file_bytes)} bytes)")
    table.add_row("encoder", f"{report.encoder}, preset {report.preset}, by {report.method}")
    objects = f"{report.objects} boxes on {report.looked} frames, " if report.objects else ""
    table.add_row("objects", f"{objects}{report.object_share:.0%} of the blocks")
    table.add_row("QP", f"objects {_finest(report)}, background QP {report.background_qp}")
    table.add_row("bits", f"{count(report.bits)}  ({rate_text(report)})")
    if report.anchor is not None:
        on = "" if report.n_frames == 1 else f", on {report.anchor.segments} of {report.segments} segments"
        table.add_row("saving", f"{report.anchor.saving:.1%} against QP {report.anchor.qp}{on}")
    if report.lost is not None:
        table.add_row("lost", f"{_lost(report)} objects by more than {1 - report.ratio:.0%} of the machines")
    table.add_row("time", f"{report.seconds:.1f} s")
    return table


def batch_table(batch: JRDBatchReport) -> Table:
    """The closing summary of several files: one line each, and the whole."""
    from rich.table import Table

    from vcm_ratecontrol.cli.encode_summary import count

    table = Table(box=None, pad_edge=False)
    for name in ("output", "object QP", "background QP", "object blocks", "bits", "saving", "lost"):
        table.add_column(name, justify="left" if name == "output" else "right", overflow="fold")
    for report in batch.reports:
        saving = "" if report.anchor is None else f"{report.anchor.saving:.1%}"
        table.add_row(
            str(report.output), _finest(report).removeprefix("QP "), f"{report.background_qp}",
            f"{report.object_share:.0%}", count(report.bits), saving, _lost(report),
        )  # fmt: skip
    table.add_row(f"all {len(batch.reports)}", "", "", "", count(batch.bits), "", "")
    return table


def _finest(report: JRDReport) -> str:
    return "none" if report.lowest_qp is None else f"QP {report.lowest_qp} and up"


def _lost(report: JRDReport) -> str:
    """'2 of 7': objects that too few machines still recognise; nothing where nobody looked."""
    below = sum(one.kept < report.ratio for one in report.lost or ())
    return "" if report.lost is None else f"{below} of {report.checked}"


def lost_table(report: JRDReport) -> Table:
    """Objects that machines lost, the worst first."""
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name, side in (("frame", "right"), ("class", "left"), ("size", "right"), ("box", "left"), ("lost by", "left")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    assert report.lost is not None
    for one in report.lost[:LISTED]:
        box = ", ".join(f"{value:.0f}" for value in one.box)
        losers = f"{len(one.machines)} of {one.seen_by}: {', '.join(one.machines)}"
        table.add_row(str(one.frame), one.name, f"{one.size:.0f}", box, losers)
    if len(report.lost) > LISTED:
        table.add_row("", f"and {len(report.lost) - LISTED} more", "", "", "")
    return table
