"""vcm-encode: a picture or a clip at the target Satisfied Machine Ratio."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vcm_ratecontrol.cli.common import CommandRun, vcm_command
from vcm_ratecontrol.cli.machine_options import MachineOptions, machine_options

if TYPE_CHECKING:
    from rich.table import Table

    from vcm_ratecontrol.report import EncodeReport


@vcm_command("vcm-encode")
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help=".mp4, .mkv, .266, .265 or .obu")
@click.option("--target-smr", type=float, metavar="0..1", help="Least share of machines to satisfy, e.g. 0.9.")
@click.option("--qp", type=int, help="Code at this QP instead: a flat anchor.")
@click.option("--qp-map", type=click.Path(path_type=Path), metavar="FILE",
              help="QPs per block (.npz, .png, or .txt, .bin offsets to --qp); kvazaar, x265, uvg266.")  # fmt: skip
@machine_options(required=False)
@click.option("--codec", default="vvc", show_default=True, help="vvc, hevc, hevc-kvazaar, av1, or an encoder's name.")
@click.option("--encoder-path", type=click.Path(path_type=Path), help="A program to use in place of the bundled one.")
@click.option("--preset", help="The encoder's preset.  [default: the encoder's, for VVenC faster]")
@click.option("--segment-seconds", type=click.FloatRange(min=0.1), default=2.0, show_default=True,
              help="Longest segment of a clip; each has a QP of its own.")  # fmt: skip
@click.option("--frames", type=click.IntRange(min=1), default=2, show_default=True,
              help="Frames measured in each segment.")  # fmt: skip
@click.option("--max-probes", type=click.IntRange(min=1), default=7, show_default=True,
              help="Most encodes tried for each segment.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Parallel encoders.  [default: one per core]")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of measured probes.  [default: user cache]")
@click.option("--no-cache", is_flag=True, help="Measure everything anew and store nothing.")
@click.option("--no-anchor", is_flag=True, help="Do not code the QP-22 anchor to compare with.")
@click.option("--strict", is_flag=True, help="Write nothing and exit 3 when the target cannot be reached.")
@click.option("--dry-run", is_flag=True, help="Find the QPs, print the exact command lines, write nothing.")
@click.option("-y", "--overwrite", is_flag=True, help="Replace an existing output.")
def main(run: CommandRun, /, source: Path, output: Path, machines: MachineOptions, **options: Any) -> None:
    """Encode INPUT (a picture or a clip) so that machines still see in it what they saw before.

    \b
    Examples:
      vcm-encode --target-smr 0.9 --machines library/ street.jpg -o street.mp4
      vcm-encode --target-smr 0.8 --machines library/ --codec hevc clip.mp4 -o clip.hevc.mp4
      vcm-encode --qp 37 clip.mp4 -o anchor.mp4
    """
    run.progress.phase("analysis")  # before the imports, so that something is seen at once
    from vcm_ratecontrol.encoding import EncodeRequest, encode_file
    from vcm_ratecontrol.ratecontrol.measured import Target
    from vcm_ratecontrol.ratecontrol.probe_cache import default_cache_folder

    target, qp = options.pop("target_smr"), options.pop("qp")
    cache = options.pop("cache") or default_cache_folder()
    no_cache, no_anchor = options.pop("no_cache"), options.pop("no_anchor")
    request = EncodeRequest(
        input=source,
        output=output,
        target=None if target is None else Target(target, machines.task),
        qp=qp,
        machines=machines.reference() if machines.directory is not None else None,
        thresholds=machines.thresholds(),
        executable=options.pop("encoder_path"),
        frames_per_segment=options.pop("frames"),
        cache=None if no_cache else cache,
        anchor=not no_anchor,
        **options,
    )
    report = encode_file(request, run.progress, run.emit)
    run.summarise(**report_fields(report))
    if request.dry_run:
        run.show(*(shlex.join(command) for command in report.commands))
    else:
        run.show(summary_table(report), *(f"note: {note}" for note in report.notes))


def report_fields(report: EncodeReport) -> dict[str, object]:
    """The report as fields of the end event; docs/commands.md says what each means."""
    from dataclasses import asdict

    fields = asdict(report)
    fields["bpp"] = report.bits_per_pixel
    fields["kbps"] = report.kilobits_per_second
    fields["job_seconds"] = fields.pop("seconds")
    return fields


def summary_table(report: EncodeReport) -> Table:
    """The closing summary for a person."""
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    still = report.n_frames == 1
    table.add_row("output", f"{report.output}  ({report.file_bytes:,} bytes)")
    table.add_row("encoder", f"{report.encoder}, preset {report.preset}")
    table.add_row("QP", qp_text(report))
    rate = report.kilobits_per_second
    where = f"{report.bits_per_pixel:.4f} bpp" if rate is None else f"{rate:.1f} kbps"
    table.add_row("bits", f"{report.bits:,}  ({where})")
    if report.anchor is not None:
        on = "" if still else f", on {report.anchor.segments} of {len(report.segments)} segments"
        table.add_row("saving", f"{report.anchor.saving:.1%} against QP {report.anchor.qp}{on}")
    if report.target is not None:
        table.add_row("SMR", smr_text(report))
        table.add_row("probes", f"{report.probes}")
    table.add_row("time", f"{report.seconds:.1f} s")
    return table


def qp_text(report: EncodeReport) -> str:
    """'37' for one QP, '31..40, mean 35.8 (12 segments)' for several; the mean is over frames."""
    qps = [segment.qp for segment in report.segments]
    if len(set(qps)) == 1:
        return f"{qps[0]}" + (f"  ({len(qps)} segments)" if len(qps) > 1 else "")
    mean = sum(s.qp * (s.stop - s.start) for s in report.segments) / report.n_frames
    return f"{min(qps)}..{max(qps)}, mean {mean:.1f}  ({len(qps)} segments)"


def smr_text(report: EncodeReport) -> str:
    """Measured SMR against the target, and whether it is reached."""
    if report.smr is None:
        return "not measured: no machine of the library sees anything"
    state = "reached" if report.reached else "NOT reached: best effort written"
    worst = f", worst frame {report.smr_min:.3f}" if report.n_frames > 1 and report.smr_min is not None else ""
    return f"{report.smr:.3f} measured{worst}; target {report.target:g} {state}"


if __name__ == "__main__":
    main()
