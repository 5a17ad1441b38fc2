"""Let a detector of your own be one of the machines: ten lines of manifest, then it is used like any other.

    python examples/own_detector.py yolox_nano.onnx street.jpg
    python examples/own_detector.py mine.onnx street.jpg --decode yolov8 --size 640 --library my_machines

It writes the library (a folder with the model and a manifest.json) and prints what the detector sees. After that
every command takes the folder: `vcm-machines check my_machines`, `vcm-encode --machines my_machines ...`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import click

from vcm_ratecontrol.machines import Detections, MachineLibrary
from vcm_ratecontrol.machines.coco import COCO_NAMES
from vcm_ratecontrol.media import open_clip


def write_library(folder: Path, model: Path, decode: str, size: int) -> None:
    """A library of one machine. The fields are explained in docs/machines.md."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, folder / model.name)
    machine = {
        "name": model.stem,
        "file": model.name,
        "decode": decode,
        "size": size,
        "fit": "letterbox-topleft",
        "pre": {"mean": 0, "std": 1, "color": "BGR"},
    }
    (folder / "manifest.json").write_text(json.dumps({"machines": [machine]}, indent=2), encoding="utf-8")


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("picture", type=click.Path(exists=True, path_type=Path))
@click.option("--decode", default="yolox", show_default=True, help="How the outputs are read.")
@click.option("--size", default=416, show_default=True, help="Width and height of the network's input.")
@click.option("--library", type=click.Path(path_type=Path), help="Folder to write; else a temporary one.")
def main(model: Path, picture: Path, decode: str, size: int, library: Path | None) -> None:
    """Make MODEL (ONNX) a machine and show what it sees on PICTURE."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = library or Path(scratch)
        write_library(folder, model, decode, size)
        machine = next(iter(MachineLibrary.load(folder, min_confidence=0.3)))
        rgb = next(iter(open_clip(picture).read_rgb([0])))
        result = machine.run([rgb])[0]
        assert isinstance(result, Detections)
        for box, score, label in zip(result.boxes, result.scores, result.classes, strict=True):
            click.echo(f"{COCO_NAMES[label]:15s} {score:.2f}  {' '.join(f'{v:.0f}' for v in box)}")


if __name__ == "__main__":
    main()
