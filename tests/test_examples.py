"""Every script of examples/ runs as its first lines say (`own_detector.py`: in test_machines)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codec_wrappers.qpmap_io import RoiContext, read_qpmap
from vcm_ratecontrol.media import open_clip

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PICTURES = ("coco/000000098261.jpg", "coco/000000334371.jpg")


def run(*words: object, **environment: str) -> str:
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Half a second of a street."""
    from codec_wrappers.ffmpeg import ffmpeg_path

    path = tmp_path_factory.mktemp("clip") / "street.mp4"
    source = shared_data / "videos" / "mmaction_demo.mp4"
    command = [ffmpeg_path(), "-v", "error", "-i", source, "-t", "0.5", "-an", "-vf", "scale=160:-2", path]
    subprocess.run([str(word) for word in command], check=True, timeout=60)
    return path


def test_a_folder_of_pictures(tmp_path: Path, picture: Callable[[str], Path]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in PICTURES:
        shutil.copy(picture(name), folder)
    told = run(EXAMPLES / "folder_of_pictures.py", folder, tmp_path / "coded")
    assert len(told.splitlines()) == 2 and "QP" in told
    assert len(list((tmp_path / "coded").iterdir())) == 2


def test_a_surveillance_clip(tmp_path: Path, clip: Path) -> None:
    output = tmp_path / "coded.mp4"
    told = run(EXAMPLES / "surveillance_clip.py", clip, output, "--codec", "hevc")
    assert "predicted SMR" in told
    assert open_clip(output).n_frames == open_clip(clip).n_frames


@pytest.mark.parametrize("suffix", [".npz", ".txt"])
def test_a_qp_map_for_another_encoder(tmp_path: Path, picture: Callable[[str], Path], suffix: str) -> None:
    source, output = picture(PICTURES[0]), tmp_path / f"map{suffix}"
    told = run(EXAMPLES / "qp_map_for_another_encoder.py", source, output, "--base-qp", 37)
    assert "blocks of 64 pixels" in told
    original = open_clip(source)
    found = read_qpmap(output, RoiContext(37, original.width, original.height))
    assert found.qp.shape[1:] == (-(-original.height // 64), -(-original.width // 64))
    assert np.ptp(found.qp) > 0 or (found.qp >= 0).all()


def test_an_encoder_of_ones_own(tmp_path: Path, clip: Path) -> None:
    installed = tmp_path / "site"
    plugin = shutil.copytree(EXAMPLES / "encoder_plugin", tmp_path / "encoder_plugin")
    run("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", installed, plugin)
    output = tmp_path / "coded.mp4"
    encode = "from vcm_ratecontrol.cli.encode import main; main()"
    words = ("--codec", "x265-lowdelay", "--qp", "37", "--no-anchor", "--json", clip, "-o", output)
    told = run("-c", encode, *words, PYTHONPATH=str(installed))
    assert '"encoder":"x265-lowdelay"' in told.replace(" ", "")
    assert open_clip(output).n_frames == open_clip(clip).n_frames
