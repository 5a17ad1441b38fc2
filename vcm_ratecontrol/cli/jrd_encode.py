"""What vcm-encode does with --target-jrd: its options, the job, its end event and its closing summary."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vcm_ratecontrol.cli.common import CommandRun
from vcm_ratecontrol.cli.jrd_options import JRDOptions, jrd_options
from vcm_ratecontrol.cli.machine_options import MachineOptions

if TYPE_CHECKING:
    from rich.table import Table

    from vcm_ratecontrol.jrd.job import JRDReport, JRDRequest

F = TypeVar("F", bound=Callable[..., Any])

LISTED = 20
"""Lost objects that the summary lists; the events hold all."""


def encode_jrd_options(function: F) -> F:
    """Add --target-jrd, its companions and --verify-jrd; the function gets `jrd: JRDOptions` and `verify_jrd`."""
    verify = click.option("--verify-jrd", is_flag=True, help="List the objects that --machines lost in the result.")
    return jrd_options()(verify(function))


def run_jrd(
    run: CommandRun,
    sources: Sequence[Path],
    output: Path,
    machines: MachineOptions,
    jrd: JRDOptions,
    options: Mapping[str, Any],
) -> None:
    """Encode per object, tell the events, print the summary. options: the others of vcm-encode."""
    from vcm_ratecontrol.jrd.job import encode_jrd

    request = request_of(sources, output, machines, jrd, options)
    report = encode_jrd(request, run.progress, run.emit)
    run.summarise(**report_fields(report))
    if request.dry_run:
        run.show(*(shlex.join(command) for command in report.commands))
        return
    tables = [summary_table(report)] + ([lost_table(report)] if report.lost else [])
    run.show(*tables, *(f"note: {note}" for note in report.notes))


def request_of(
    sources: Sequence[Path], output: Path, machines: MachineOptions, jrd: JRDOptions, options: Mapping[str, Any]
) -> JRDRequest:
    """Raises click.UsageError for options that do not go with --target-jrd, InputError."""
    from dataclasses import replace

    from vcm_ratecontrol.jrd.job import JRDRequest
    from vcm_ratecontrol.jrd.sources import DENSE_WEIGHTS

    for name in ("target_smr", "qp", "qp_map", "strict", "verify_smr", "probes"):
        if options.get(name) not in (None, False):
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with --target-jrd; leave one out")
    if len(sources) > 1 or output.is_dir():
        raise click.UsageError("--target-jrd takes one input and names its output file; call it for each input")
    if options["verify_jrd"] and machines.directory is None:
        raise click.UsageError("--verify-jrd needs machines to look with: give --machines DIR")
    settings = replace(jrd.settings(machines), pooled=options["pool"] != "each")
    if options["weights"] is not None and (own := options["weights"] / f"{DENSE_WEIGHTS}.safetensors").is_file():
        settings = replace(settings, weights=own)
    # A file of boxes says where the objects are: machines are there to verify.
    verify = settings.machines if options["verify_jrd"] else None
    return JRDRequest(
        input=sources[0],
        output=output,
        settings=replace(settings, machines=None) if settings.objects is not None else settings,
        codec=options["codec"],
        executable=options["encoder_path"],
        preset=options["preset"],
        segment_seconds=options["segment_seconds"],
        workers=options["workers"],
        verify=verify,
        thresholds=machines.thresholds(),
        frames_per_segment=options["frames"],
        anchor=options["anchor"] is not False,
        overwrite=options["overwrite"],
        dry_run=options["dry_run"],
    )


def report_fields(report: JRDReport) -> dict[str, Any]:
    """The report as fields of the end event; docs/commands.md says what each means."""
    from dataclasses import asdict

    fields = asdict(report)
    fields["mode"] = "per-object"
    fields["bpp"] = report.bits_per_pixel
    fields["kbps"] = report.kilobits_per_second
    fields["job_seconds"] = fields.pop("seconds")
    return fields


def summary_table(report: JRDReport) -> Table:
    """The closing summary for a person."""
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("output", f"{report.output}  ({report.file_bytes:,} bytes)")
    table.add_row("encoder", f"{report.encoder}, preset {report.preset}, by {report.method}")
    objects = f"{report.objects} boxes on {report.looked} frames, " if report.objects else ""
    table.add_row("objects", f"{objects}{report.object_share:.0%} of the blocks")
    finest = "none" if report.lowest_qp is None else f"QP {report.lowest_qp} and up"
    table.add_row("QP", f"objects {finest}, background QP {report.background_qp}")
    rate = report.kilobits_per_second
    where = f"{report.bits_per_pixel:.4f} bpp" if rate is None else f"{rate:.1f} kbps"
    table.add_row("bits", f"{report.bits:,}  ({where})")
    if report.anchor is not None:
        on = "" if report.n_frames == 1 else f", on {report.anchor.segments} of {report.segments} segments"
        table.add_row("saving", f"{report.anchor.saving:.1%} against QP {report.anchor.qp}{on}")
    if report.lost is not None:
        below = sum(one.kept < report.ratio for one in report.lost)
        table.add_row(
            "lost", f"{below} of {report.checked} objects by more than {1 - report.ratio:.0%} of the machines"
        )
    table.add_row("time", f"{report.seconds:.1f} s")
    return table


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
