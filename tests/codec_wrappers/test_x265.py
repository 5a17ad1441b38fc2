"""x265: exact slice QPs, zones of several QPs in one process, rectangles that act to the exact offset."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import InputError, MissingToolError, UnsupportedError
from codec_wrappers.frames import PixelFormat
from codec_wrappers.pipeline import EncodeOptions, encode, flat_timing
from codec_wrappers.plan import EncodePlan, Segment
from codec_wrappers.qpmap import QPMap
from codec_wrappers.still import StillSource, decode_still, encode_still
from codec_wrappers.x265 import X265Encoder, qp_scale, rectangles
from tests.codec_wrappers.coding import Frames, code, error_per_ctu, scene


@pytest.fixture(scope="module")
def x265() -> X265Encoder:
    encoder = get_encoder("hevc")
    assert isinstance(encoder, X265Encoder)
    return encoder


def test_capabilities_come_from_the_binary(x265: X265Encoder) -> None:
    found = x265.capabilities()
    assert (found.qp_min, found.qp_max) == (0, 51)
    assert found.frame_qp
    assert found.block_qp == "rectangles"
    assert {"yuv420p", "yuv420p10le"} <= set(found.pixel_formats)
    assert (found.presets[0], found.presets[-1]) == ("ultrafast", "placebo")
    assert "libx265 4." in found.version


@pytest.mark.parametrize("qp", [0, 1, 22, 37, 50, 51])
def test_a_still_is_coded_at_exactly_its_qp(x265: X265Encoder, qp: int) -> None:
    rgb = scene(90, 70, 1)[0][:, :, None].repeat(3, axis=2)
    still = encode_still(StillSource(rgb), qp, x265, "ultrafast")
    assert still.qp_read_back == qp
    assert decode_still(still).shape == rgb.shape


def test_zones_give_each_segment_its_qp_from_its_intra_picture_on(x265: X265Encoder, tmp_path: Path) -> None:
    """libx265 counts zones from 1 and in coding order; both stay right only because each starts with an IDR."""
    bounds, qps = [0, 16, 21, 22, 40], [20, 40, 51, 10]
    segments = tuple(Segment(a, b, qp) for a, b, qp in zip(bounds, bounds[1:], qps, strict=False))
    luma, records = code(x265, Frames(scene(128, 64, 40)), tmp_path, segments=segments, preset="veryfast")
    assert len(luma) == 40
    assert [record.index for record in records] == list(range(40))
    assert [(record.index, record.qp) for record in records if record.kind == "I"] == list(
        zip(bounds, qps, strict=False)
    )
    for segment in segments:
        found = {record.qp for record in records[segment.start : segment.stop]}
        assert found <= {min(51, segment.qp + above) for above in (0, 1, 2)}


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_a_rectangle_is_coded_as_if_all_had_its_qp(x265: X265Encoder, tmp_path: Path, pix_fmt: PixelFormat) -> None:
    """In bits per CTU nothing can be compared, in error it can: each half must have the error of its own QP."""
    source = scene(256, 128, 1)
    frames = Frames(source)
    half = np.full((1, 2, 4), 40)
    half[0, :, 2:] = 24
    mixed, records = code(
        x265, frames, tmp_path / "map", qp=40, qp_map=QPMap(half, 64, 256, 128), pix_fmt=pix_fmt, coding="still"
    )
    assert records[0].qp == 40
    flat = {qp: code(x265, frames, tmp_path / str(qp), qp=qp, pix_fmt=pix_fmt, coding="still")[0] for qp in (24, 40)}
    error = error_per_ctu(mixed, source)[0]
    assert error[:, :2] == pytest.approx(error_per_ctu(flat[40], source)[0][:, :2], rel=0.15)
    assert error[:, 2:] == pytest.approx(error_per_ctu(flat[24], source)[0][:, 2:], rel=0.15)


def test_rectangles_hold_in_a_clip(x265: X265Encoder, tmp_path: Path) -> None:
    source = scene(192, 128, 10)
    frames = Frames(source)
    flat, _ = code(x265, frames, tmp_path / "flat", qp=40)
    qp = np.full((1, 2, 3), 40)
    qp[0, 0, 1] = 22
    mapped, records = code(x265, frames, tmp_path / "map", qp=40, qp_map=QPMap(qp, 64, 192, 128))
    ratio = error_per_ctu(flat, source).mean(axis=0) / error_per_ctu(mapped, source).mean(axis=0)
    assert ratio[0, 1] > 3
    assert {record.qp for record in records} <= {40, 41, 42}


def test_maps_that_x265_cannot_follow_are_refused(x265: X265Encoder, tmp_path: Path) -> None:
    frames = Frames(scene(128, 64, 4))
    moving = np.full((4, 1, 2), 30)
    moving[2, 0, 0] = 20
    with pytest.raises(UnsupportedError, match="kvazaar for moving maps"):
        code(x265, frames, tmp_path, qp_map=QPMap(moving, 64, 128, 64))
    two = (Segment(0, 2, 30), Segment(2, 4, 40))
    with pytest.raises(UnsupportedError, match="one QP"):
        code(x265, frames, tmp_path, segments=two, qp_map=QPMap.flat(30, 128, 64))
    with pytest.raises(InputError, match=r"0\.\.51"):
        code(x265, frames, tmp_path, qp_map=QPMap.flat(60, 128, 64))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_rectangles_tile_the_picture(rows: int, cols: int, levels: int, seed: int) -> None:
    qp = np.random.default_rng(seed).integers(0, levels, (1, rows, cols))
    painted = np.full((rows, cols), -1)
    found = rectangles(QPMap(qp, 64, cols * 64, rows * 64))
    for r in found:
        area = (slice(r.top // 64, (r.top + r.height) // 64), slice(r.left // 64, (r.left + r.width) // 64))
        assert (painted[area] == -1).all()
        painted[area] = r.qp
    assert (painted == qp[0]).all()
    assert len(found) >= len(np.unique(qp))


def test_many_rectangles(x265: X265Encoder, tmp_path: Path) -> None:
    """A checkerboard of 128 blocks is 128 filters in one chain."""
    at = np.indices((8, 16)).sum(axis=0) % 2
    qp_map = QPMap(np.where(at == 0, 22, 45)[None], 64, 1024, 512)
    source = scene(1024, 512, 1)
    luma, _ = code(x265, Frames(source), tmp_path, qp=33, qp_map=qp_map, preset="ultrafast", coding="still")
    error = error_per_ctu(luma, source)[0]
    assert error[at == 0].max() < error[at == 1].min()


def test_scale_of_offsets() -> None:
    assert (qp_scale("yuv420p"), qp_scale("yuv420p10le")) == (51, 63)


@settings(deadline=None, max_examples=3)
@given(st.integers(1, 4))
def test_output_does_not_depend_on_workers(workers: int) -> None:
    import tempfile

    frames = Frames(scene(128, 64, 12))
    plan = EncodePlan((Segment(0, 5, 30), Segment(5, 12, 40)))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"
        done = encode(
            plan, frames, X265Encoder(), out, flat_timing(12, Fraction(25)), EncodeOptions("veryfast", workers=workers)
        )
        once = encode(
            plan, frames, X265Encoder(), out, flat_timing(12, Fraction(25)), EncodeOptions("veryfast", workers=1)
        )
    assert done.bits == once.bits
    assert done.pictures == once.pictures


PROGRAM = shutil.which("x265")


@pytest.mark.skipif(PROGRAM is None, reason="no x265 program on PATH")
def test_the_program_on_path(tmp_path: Path) -> None:
    encoder = get_encoder("x265", Path(PROGRAM or ""))
    found = encoder.capabilities()
    assert found.path == PROGRAM
    assert not found.frame_qp
    assert found.block_qp == "none"
    frames = Frames(scene(130, 70, 21))
    luma, records = code(encoder, frames, tmp_path / "one", qp=30, preset="veryfast")
    assert luma.shape == (21, 70, 130)
    assert [record.index for record in records] == list(range(21))
    assert records[0].qp == 30
    plan = EncodePlan((Segment(0, 10, 30), Segment(10, 21, 45)))
    done = encode(plan, frames, encoder, tmp_path / "x.mp4", flat_timing(21, Fraction(25)), EncodeOptions("veryfast"))
    assert [(picture.index, picture.qp) for picture in done.pictures if picture.kind == "I"] == [(0, 30), (10, 45)]


def test_a_program_that_is_no_x265_is_refused() -> None:
    true = Path(shutil.which("true") or "/bin/true")
    with pytest.raises(MissingToolError, match="does not run as x265"):
        get_encoder("x265", true).capabilities()
    with pytest.raises(MissingToolError, match="no such program"):
        get_encoder("x265", Path("/nonexistent/x265"))
