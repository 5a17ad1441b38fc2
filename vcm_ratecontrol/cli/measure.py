"""vcm-measure: what machines make of a coded file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vcm_ratecontrol.cli.common import PATH, CommandRun, vcm_command
from vcm_ratecontrol.cli.machine_options import MachineOptions, machine_options

if TYPE_CHECKING:
    from rich.table import Table

    from vcm_ratecontrol.measure import MachineVerdict, Measurement

DEFAULT_FRAMES = 16


@vcm_command("vcm-measure")
@click.argument("original", type=PATH)
@click.argument("encoded", type=PATH)
@machine_options()
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    default=DEFAULT_FRAMES,
    show_default=True,
    help="Frames of a clip to look at, spread evenly; all where it has fewer.",
)
def main(run: CommandRun, original: Path, encoded: Path, machines: MachineOptions, frames: int) -> None:
    """Compare ENCODED with ORIGINAL as machines see them: SMR, each machine's verdict, bits, PSNR, SSIM.

    A machine is satisfied when its result on ENCODED agrees with its own result on ORIGINAL. PSNR and SSIM are those
    of luma, over the same frames as the verdicts.
    """
    run.progress.phase("reading")
    from vcm_ratecontrol.measure import default_indices, measure
    from vcm_ratecontrol.media import open_clip

    thresholds = machines.thresholds()
    before, after = open_clip(original), open_clip(encoded)
    run.progress.phase("opening machines")
    library = machines.open()
    measured = measure(before, after, library, thresholds, default_indices(before, frames), run.progress)
    for number, frame in enumerate(measured.frames):
        smr, fidelity = frame.smr(), measured.fidelity[number]
        run.emit(
            "frame",
            index=frame.index,
            smr=smr.value,
            satisfied=smr.satisfied,
            valid=smr.valid,
            psnr_db=fidelity.psnr_db,
            ssim=fidelity.ssim,
        )
    run.summarise(original=original, encoded=encoded, **summary(measured))
    run.show(_machine_table(measured), _totals(measured))


def summary(measured: Measurement) -> dict[str, object]:
    """Fields of the end event; docs/commands.md describes each."""
    smr = measured.smr()
    return {
        "smr": smr.mean,
        "smr_min": smr.minimum,
        "smr_frames": smr.frames,
        "smr_classification": measured.smr("classification").mean,
        "smr_detection": measured.smr("detection").mean,
        "bits": measured.bits,
        "file_bytes": measured.file_bytes,
        "bpp": measured.bpp,
        "kbps": measured.kbps,
        "psnr_db": measured.psnr_db,
        "ssim": measured.ssim,
        "width": measured.width,
        "height": measured.height,
        "n_frames": measured.n_frames,
        "frames": [frame.index for frame in measured.frames],
        "thresholds": {
            "confidence": measured.thresholds.confidence,
            "iou": measured.thresholds.iou,
            "score": measured.thresholds.score,
            "label_confidence": measured.thresholds.label_confidence,
        },
        "machines": [
            {
                "machine": machine.machine,
                "task": machine.task,
                "valid": machine.valid,
                "satisfied": machine.satisfied,
                "failed": machine.failed,
                "score": machine.score,
            }
            for machine in measured.machines
        ],
    }


def _machine_table(measured: Measurement) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("machine", overflow="fold")
    table.add_column("task")
    table.add_column("verdict")
    table.add_column("score", justify="right")
    for machine in measured.machines:
        score = "" if machine.score is None else f"{machine.score:.3f}"
        table.add_row(machine.machine, machine.task, verdict_text(machine, len(measured.frames)), score)
    return table


def verdict_text(machine: MachineVerdict, frames: int) -> str:
    """A machine's verdict in words: for a still yes or no, for a clip on how many frames."""
    failed = f", failed on {machine.failed}" if machine.failed else ""
    if not machine.valid:
        silent = "sees nothing in" if machine.task == "detection" else "is unsure of"
        return "[red]failed[/red]" if machine.failed else f"[dim]{silent} the original[/dim]"
    color = "green" if machine.satisfied == machine.valid else "red" if not machine.satisfied else "yellow"
    if frames == 1:
        return f"[{color}]{'satisfied' if machine.satisfied else 'not satisfied'}[/{color}]"
    return f"[{color}]satisfied on {machine.satisfied} of {machine.valid} frames[/{color}]{failed}"


def _totals(measured: Measurement) -> Table:
    from rich.table import Table

    smr, n = measured.smr(), len(measured.frames)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    if smr.mean is None or smr.minimum is None:
        table.add_row("SMR", "none: no machine has an opinion of the original")
    else:
        spread = f" (mean of {smr.frames} frames; minimum {smr.minimum:.3f})" if n > 1 else ""
        tasks = [
            f"{task} {value:.3f}"
            for task in ("classification", "detection")
            if (value := measured.smr(task).mean) is not None
        ]
        table.add_row("SMR", f"{smr.mean:.3f}{spread}; {', '.join(tasks)}")
    rate = f", {measured.kbps:.1f} kbps" if measured.kbps is not None else ""
    table.add_row("bits", f"{measured.bits:,} in {measured.n_frames} frame{'s' * (measured.n_frames > 1)}")
    table.add_row("rate", f"{measured.bpp:.4f} bpp{rate}")
    psnr = "equal" if math.isinf(measured.psnr_db) else f"{measured.psnr_db:.2f} dB"
    table.add_row("PSNR", psnr)
    table.add_row("SSIM", "not defined below 11x11" if measured.ssim is None else f"{measured.ssim:.4f}")
    return table


if __name__ == "__main__":
    main()
