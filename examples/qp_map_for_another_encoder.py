"""A QP map per object, written for an encoder that this library does not start.

    python examples/qp_map_for_another_encoder.py street.jpg street.npz
    python examples/qp_map_for_another_encoder.py street.jpg roi.txt --base-qp 37

`.npz` and `.png` hold QPs; `.txt` and `.bin` are ROI files as kvazaar reads them: offsets to the QP that the encoder
runs at.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from codec_wrappers.qpmap_io import write_qpmap
from vcm_ratecontrol import jrd_map


@click.command()
@click.argument("picture", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--ratio", default=0.75, show_default=True, type=click.FloatRange(0, 1), help="Share of the machines.")
@click.option("--base-qp", type=int, help="QP that the encoder will run at; for .txt and .bin.")
def main(picture: Path, output: Path, ratio: float, base_qp: int | None) -> None:
    qp_map = jrd_map(picture, ratio)
    write_qpmap(qp_map, output, base_qp)
    levels, counts = np.unique(qp_map.qp, return_counts=True)
    told = ", ".join(f"QP {level}: {count}" for level, count in zip(levels, counts, strict=True))
    click.echo(f"{output}: blocks of {qp_map.block_size} pixels; {told}")


if __name__ == "__main__":
    main()
