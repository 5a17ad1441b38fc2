"""Encode a clip for machines: a QP for each segment, none worse than a floor, and what each segment cost.

python examples/surveillance_clip.py street.mp4 street.coded.mp4
python examples/surveillance_clip.py street.mp4 street.coded.mp4 --codec hevc --task detection
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from vcm_ratecontrol import encode
from vcm_ratecontrol.scoring import Tasks


@click.command()
@click.argument("clip", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--target", default=0.8, show_default=True, type=click.FloatRange(0, 1), help="Mean SMR.")
@click.option("--floor", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="SMR of any segment.")
@click.option("--codec", default="vvc", show_default=True)
@click.option("--task", default="both", type=click.Choice(["classification", "detection", "both"]), show_default=True)
def main(clip: Path, output: Path, target: float, floor: float, codec: str, task: str) -> None:
    report = encode(
        clip, output, target_smr=target, floor=floor, pool="mean", codec=codec, task=cast(Tasks, task), overwrite=True
    )
    for segment in report.segments:
        click.echo(f"frames {segment.start}..{segment.stop - 1}: QP {segment.qp}, {segment.bits:,} bits")
    click.echo(f"{output}: {report.file_bytes:,} bytes, predicted SMR {report.predicted_smr:.3f}")


if __name__ == "__main__":
    main()
