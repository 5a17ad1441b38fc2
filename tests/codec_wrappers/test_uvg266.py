"""uvg266: a clear word where it is missing; maps that act where it is there. It is on few machines."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import random_maps
from codec_wrappers.encoder import EncodeJob, get_encoder
from codec_wrappers.errors import MissingToolError
from codec_wrappers.plan import Segment
from codec_wrappers.qpmap import QPMap
from codec_wrappers.uvg266 import Uvg266Encoder
from tests.codec_wrappers.coding import Frames, code, error_per_ctu, scene

PROGRAM = shutil.which("uvg266")
needs_uvg266 = pytest.mark.skipif(
    PROGRAM is None, reason="no uvg266 program on PATH; see https://github.com/ultravideo/uvg266"
)


def test_missing_program_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    encoder = get_encoder("uvg266")
    frames = Frames(scene(64, 64, 1))
    job = EncodeJob(frames.format, "yuv420p", (Segment(0, 1, 30),), "faster", "still", tmp_path / "x.266", tmp_path)
    for ask in (encoder.capabilities, encoder.map_rules, lambda: encoder.command(job)):
        with pytest.raises(MissingToolError, match=r"uvg266: no such program.*github\.com/ultravideo/uvg266") as caught:
            ask()
        assert caught.value.exit_code == 7
    with pytest.raises(MissingToolError, match="no such program"):
        get_encoder("uvg266", tmp_path / "uvg266")


def test_a_program_that_is_no_uvg266_is_refused() -> None:
    true = Path(shutil.which("true") or "/bin/true")
    with pytest.raises(MissingToolError, match="does not run as uvg266"):
        get_encoder("uvg266", true).capabilities()


@needs_uvg266
def test_one_ctu_improves(tmp_path: Path) -> None:
    encoder = Uvg266Encoder()
    found = encoder.capabilities()
    assert (found.qp_min, found.qp_max, found.block_qp) == (0, 51, "map")
    source = scene(256, 192, 9)
    frames = Frames(source)
    flat, records = code(encoder, frames, tmp_path / "flat", qp=40)
    assert records[0].qp == 40
    qp = np.full((9, 3, 4), 40)
    qp[:, 1, 2] = 24
    mapped, _ = code(encoder, frames, tmp_path / "map", qp=40, qp_map=QPMap(qp, 64, 256, 192))
    ratio = error_per_ctu(flat, source).mean(axis=0) / error_per_ctu(mapped, source).mean(axis=0)
    assert ratio[1, 2] > 3
    assert ratio.argmax() == 6


@needs_uvg266
def test_random_maps_are_coded_and_decoded() -> None:
    encoder = Uvg266Encoder()
    outcomes = random_maps.run(range(20), encoder, encoder.map_rules(), small=True)
    assert [outcome.why for outcome in outcomes if not outcome.ok] == []
