"""vcm-qpmap: the QP map of a picture or clip, as a file for an encoder and as a picture for the eye."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vcm_ratecontrol.cli.common import PATH, CommandRun, vcm_command
from vcm_ratecontrol.cli.jrd_options import JRDOptions, jrd_options
from vcm_ratecontrol.cli.machine_options import MachineOptions, machine_options

if TYPE_CHECKING:
    from rich.table import Table

    from vcm_ratecontrol.jrd.map_file import MapReport


@vcm_command("vcm-qpmap")
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("-o", "--output", type=PATH, help=".npz, .png, or .txt, .bin (ROI of kvazaar)")
@click.option("--overlay", type=PATH, metavar="FILE.png",
              help="Draw objects, levels, blocks and a legend on the picture.")  # fmt: skip
@click.option("--overlay-frame", type=click.IntRange(min=0), help="Frame of a clip to draw.  [default: the fullest]")
@jrd_options(ratio=0.75)
@machine_options(required=False)
@click.option("--codec", default="hevc-kvazaar", show_default=True, help="The encoder that the map is made for.")
@click.option("--encoder-path", type=PATH, help="A program to use in place of the bundled one.")
@click.option("--block-size", type=click.Choice(["8", "16", "32", "64", "128"]),
              help="Side of a block.  [default: the encoder's]")  # fmt: skip
@click.option("-y", "--overwrite", is_flag=True, help="Replace existing outputs.")
def main(
    run: CommandRun,
    source: Path,
    output: Path | None,
    overlay: Path | None,
    overlay_frame: int | None,
    jrd: JRDOptions,
    machines: MachineOptions,
    codec: str,
    encoder_path: Path | None,
    block_size: str | None,
    overwrite: bool,
) -> None:
    """Write the QP that each block of INPUT (a picture or a clip) may be coded at.

    Objects come from the dense predictor, from the detectors of a library (--machines, --detector), or from a file
    (--objects). Clips get one map per frame.

    \b
    Examples:
      vcm-qpmap --machines library/ --detector yolox_nano street.jpg -o street.npz --overlay street.map.png
      vcm-qpmap --objects boxes.json clip.mp4 -o clip.bin
    """
    run.progress.phase("analysis")
    from vcm_ratecontrol.jrd.map_file import MapRequest, write_map

    if output is None and overlay is None:
        raise click.UsageError("give -o FILE, --overlay FILE.png, or both")
    request = MapRequest(
        source, jrd.settings(machines), output, overlay, overlay_frame, codec, encoder_path,
        int(block_size) if block_size else None, overwrite,
    )  # fmt: skip
    report = write_map(request, run.progress)
    run.summarise(**report.fields())
    run.show(summary_table(report), *(f"note: {note}" for note in report.notes))


def summary_table(report: MapReport) -> Table:
    """The closing summary for a person."""
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, path in (("map", report.output), ("overlay", report.overlay)):
        if path is not None:
            table.add_row(name, str(path))
    frames = f"{report.n_frames} frames, " if report.n_frames > 1 else ""
    table.add_row("blocks", f"{frames}{report.cols} x {report.rows} of {report.block_size} samples")
    table.add_row("objects", f"{report.objects} boxes on {report.looked} frames" if report.n_frames > 1
                  else f"{report.objects} boxes")  # fmt: skip
    table.add_row("object blocks", f"{report.object_share:.1%}, QP {report.lowest_qp}..{report.highest_object_qp}"
                  if report.lowest_qp is not None else "none")  # fmt: skip
    table.add_row("background", f"QP {report.background_qp}")
    if report.base_qp is not None:
        table.add_row("base QP", f"{report.base_qp}  (the offsets in the file are relative to it)")
    return table


if __name__ == "__main__":
    main()
