"""Inputs of the tests of predicted mode; import the fixtures by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.codec_wrappers.joining import ffmpeg
from tests.vcm_ratecontrol.stand_ins import stand_in

TWO = ("mobilenet_v1_0.25_128_quant", "yolo_fastestv2")
PHOTOS = ("coco/000000465822.jpg", "coco/000000098261.jpg", "coco/000000052891.jpg")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of predictors that stand in for trained ones."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("curve_small", "curve_evidence", "smr_small"):
        stand_in(folder, name)
    return folder


@pytest.fixture(scope="module")
def film(clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street, made small: 128x96, 24 frames in 1.92 seconds."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    source = clip("intel_car-detection.mp4")
    ffmpeg("-i", source, "-frames:v", "24", "-vf", "scale=128:96", "-an", "-c:v", "libx264", "-crf", "10", path)
    return path


@pytest.fixture(scope="module")
def photos(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three photographs, made small: 144x112."""
    folder, made = tmp_path_factory.mktemp("photos"), []
    for name in PHOTOS:
        made.append(folder / f"{Path(name).stem}.png")
        with Image.open(picture(name)) as image:
            image.convert("RGB").resize((144, 112)).save(made[-1])
    return made


def shaken(photo: Path, output: Path) -> Path:
    """A clip of two seconds, 48 frames of 112x80: a photograph at rest, and from the middle on turning at random."""
    turning = "rotate=angle='if(lt(n,24),0,random(0)*0.4-0.2)',crop=112:80"
    ffmpeg(
        "-loop", "1", "-r", "24", "-i", photo, "-frames:v", "48", "-vf", turning, "-c:v", "libx264", "-qp", "4", output
    )
    return output
