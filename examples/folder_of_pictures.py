"""Encode all pictures of a folder as one job: the mean Satisfied Machine Ratio meets the target in the fewest bits.

    python examples/folder_of_pictures.py photos/ coded/
    python examples/folder_of_pictures.py photos/ coded/ --target 0.8 --machines my_machines/

Pictures that survive much pay for those that survive little. With machines the choice is measured; without, predicted.
"""

from __future__ import annotations

from pathlib import Path

import click

from vcm_ratecontrol import encode

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--target", default=0.8, show_default=True, type=click.FloatRange(0, 1), help="Mean SMR.")
@click.option("--machines", type=click.Path(path_type=Path), help="Library of machines that judge.")
def main(folder: Path, output: Path, target: float, machines: Path | None) -> None:
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    report = encode(pictures, output, target_smr=target, machines=machines, overwrite=True)
    for one in report.reports:
        (segment,) = one.segments
        click.echo(f"{one.input.name}: QP {segment.qp}, {one.file_bytes:,} bytes")


if __name__ == "__main__":
    main()
