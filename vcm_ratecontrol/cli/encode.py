"""vcm-encode: pictures and clips at the target Satisfied Machine Ratio."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from vcm_ratecontrol.cli.common import PATH, CommandRun, vcm_command
from vcm_ratecontrol.cli.encode_batch import batch_fields, close, is_folder, teller
from vcm_ratecontrol.cli.jrd_encode import encode_jrd_options, run_jrd
from vcm_ratecontrol.cli.jrd_options import JRDOptions
from vcm_ratecontrol.cli.machine_options import MachineOptions, machine_options
from vcm_ratecontrol.media.segments import FRAMES_PER_SEGMENT, SEGMENT_SECONDS

if TYPE_CHECKING:
    from vcm_ratecontrol.options import EncodeArguments, JRDArguments
    from vcm_ratecontrol.report import EncodeReport
    from vcm_ratecontrol.request import EncodeRequest


@vcm_command("vcm-encode")
@click.argument("sources", metavar="INPUT...", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", required=True, type=PATH,
              help=".mp4, .mkv, .266, .265 or .obu; of several inputs a folder.")  # fmt: skip
@click.option("--target-smr", type=float, metavar="0..1", help="Least share of machines to satisfy, e.g. 0.9.")
@click.option("--pool", type=click.Choice(("each", "mean")),
              help="Who meets the target: each picture and segment, or all in the mean, at the fewest bits."
              "  [default: mean; each for a single picture]")  # fmt: skip
@click.option("--floor", type=float, default=0.0, metavar="0..1", help="Least SMR of a segment or picture under mean.")
@click.option("--probes", type=click.IntRange(min=0), metavar="N",
              help="Most encodes tried for each segment; 0 trusts the prediction."
              "  [default: 2, with --machines 3]")  # fmt: skip
@click.option("--verify-smr", is_flag=True, help="Measure the final file with --machines.")
@click.option("--qp", type=int, help="Code at this QP instead: a flat anchor.")
@click.option("--qp-map", type=PATH, metavar="FILE",
              help="QPs per block (.npz, .png, or .txt, .bin offsets to --qp); kvazaar, x265, uvg266.")  # fmt: skip
@encode_jrd_options
@machine_options(required=False)
@click.option("--weights", type=PATH, metavar="DIR", help="Predictors of your own.")
@click.option("--codec", default="vvc", show_default=True, help="vvc, hevc, hevc-kvazaar, av1, or an encoder's name.")
@click.option("--encoder-path", type=PATH, help="A program to use in place of the bundled one.")
@click.option("--preset", help="The encoder's preset.  [default: the encoder's, for VVenC faster]")
@click.option("--segment-seconds", type=click.FloatRange(min=0.1), default=SEGMENT_SECONDS, show_default=True,
              help="Longest segment of a clip, give or take 10 %; each has a QP of its own.")  # fmt: skip
@click.option("--frames", type=click.IntRange(min=1), default=FRAMES_PER_SEGMENT, show_default=True,
              help="Frames looked at in each segment.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Parallel encoders.  [default: one per core]")
@click.option("--cache", type=PATH, help="Folder of measured probes.  [default: user cache]")
@click.option("--no-cache", is_flag=True, help="Measure everything anew and store nothing.")
@click.option("--anchor/--no-anchor", default=None,
              help="Code the QP-22 anchor to compare with."
              "  [default: predict its bits where nothing is measured]")  # fmt: skip
@click.option("--strict", is_flag=True, help="Write nothing and exit 3 when the target cannot be reached.")
@click.option("--dry-run", is_flag=True, help="Find the QPs, print the exact command lines, write nothing.")
@click.option("-y", "--overwrite", is_flag=True, help="Replace an existing output.")
def main(
    run: CommandRun,
    /,
    sources: tuple[Path, ...],
    output: Path,
    machines: MachineOptions,
    jrd: JRDOptions,
    **options: Any,
) -> None:
    """Encode INPUT (a picture or a clip) so that machines still see in it what they saw before.

    The QPs are predicted, or with --machines found with the machines that will watch. Several inputs go into the folder
    OUTPUT. They meet a target SMR in the mean unless --pool each; per object each is coded on its own.

    \b
    Examples:
      vcm-encode --target-smr 0.9 clip.mp4 -o out.mp4
      vcm-encode --target-smr 0.9 --machines library/ street.jpg -o street.mp4
      vcm-encode --target-smr 0.9 --floor 0.6 photos/*.jpg -o coded/
      vcm-encode --target-jrd 0.75 --machines library/ --detector yolox_nano clip.mp4 -o out.mp4
      vcm-encode --qp 37 clip.mp4 -o anchor.mp4
    """
    run.progress.phase("analysis")  # before the imports, so that something is seen at once
    arguments = arguments_of(machines, jrd, options)
    if jrd.ratio is not None:
        run_jrd(run, sources, output, cast("JRDArguments", arguments))
        return
    from vcm_ratecontrol.encoding import encode_file
    from vcm_ratecontrol.options import request_of

    request = request_of(sources[0], output, cast("EncodeArguments", arguments))
    if len(sources) > 1 or is_folder(output):
        encode_all(run, request, sources)
        return
    report = encode_file(request, run.progress, run.emit)
    run.summarise(**report_fields(report))
    if request.dry_run:
        run.show(*(shlex.join(command) for command in report.commands))
    else:
        from vcm_ratecontrol.cli.encode_summary import summary_table

        run.show(summary_table(report), *(f"note: {note}" for note in report.notes))


def arguments_of(machines: MachineOptions, jrd: JRDOptions, options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given as the keyword arguments of the library, which has the same defaults."""
    source_of = click.get_current_context().get_parameter_source
    no_cache = options.pop("no_cache")
    every = {**jrd.arguments(machines), **options}
    given = {name: value for name, value in every.items() if source_of(name) is not ParameterSource.DEFAULT}
    return {**given, "cache": None} if no_cache else given


def encode_all(run: CommandRun, request: EncodeRequest, sources: tuple[Path, ...]) -> None:
    """Encode into a folder; raises the first failure when the others are done."""
    from vcm_ratecontrol.batch import encode_batch
    from vcm_ratecontrol.cli.encode_summary import batch_table

    batch = encode_batch(request, sources, run.progress, run.emit, teller(run, report_fields))
    run.summarise(
        mode=request.mode,
        target=request.target.smr if request.target else None,
        files=[{"input": r.input, "output": r.output, "bits": r.bits, "predicted_bits": r.predicted_bits,
                "smr": r.smr, "predicted_smr": r.predicted_smr, "reached": r.reached} for r in batch.reports],
        reached=batch.reached and not batch.failed,
        **{name: batch.mean(name) for name in ("smr", "predicted_smr", "predicted_low", "predicted_high")},
        predicted_bits=batch.predicted_bits,
        **batch_fields(batch),
    )  # fmt: skip
    close(run, batch, batch_table(batch), dry_run=request.dry_run)


def report_fields(report: EncodeReport) -> dict[str, object]:
    """The report as fields of the end event; docs/commands.md says what each means."""
    from dataclasses import asdict

    fields = asdict(report)
    fields["bpp"] = report.bits_per_pixel
    fields["kbps"] = report.kilobits_per_second
    fields["job_seconds"] = fields.pop("seconds")
    return fields


if __name__ == "__main__":
    main()
