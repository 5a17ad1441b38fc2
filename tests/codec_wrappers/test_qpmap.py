"""QPMap: what it accepts, how it is cut and resampled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.errors import InputError
from codec_wrappers.qpmap import QPMap, grid_shape


@st.composite
def qp_maps(draw: st.DrawFn, qp_max: int = 63, max_frames: int = 3) -> QPMap:
    """Any map on a small picture, in blocks of 16, 32 or 64."""
    width, height = draw(st.integers(1, 300)), draw(st.integers(1, 200))
    block_size = draw(st.sampled_from([16, 32, 64]))
    shape = (draw(st.integers(1, max_frames)), *grid_shape(width, height, block_size))
    seed = draw(st.integers(0, 2**32 - 1))
    levels = draw(st.integers(1, qp_max + 1))
    qp = np.random.default_rng(seed).integers(0, levels, shape)
    return QPMap(qp.astype(np.int16), block_size, width, height)


def per_sample(qp_map: QPMap) -> np.ndarray:
    """The QP of every luma sample, [frames, height, width]."""
    big = qp_map.qp.repeat(qp_map.block_size, axis=1).repeat(qp_map.block_size, axis=2)
    return big[:, : qp_map.height, : qp_map.width]


def test_flat_covers_the_picture() -> None:
    flat = QPMap.flat(37, 1920, 1080, n_frames=2)
    assert flat.qp.shape == (2, 17, 30)
    assert flat.qp.dtype == np.int16
    assert (flat.n_frames, flat.rows, flat.cols) == (2, 17, 30)
    assert flat.is_flat
    assert flat.histogram() == {37: 2 * 17 * 30}


def test_histogram_counts_blocks() -> None:
    qp_map = QPMap(np.array([[[30, 20, 30]]], np.int16), 64, 192, 64)
    assert qp_map.histogram() == {20: 1, 30: 2}
    assert not qp_map.is_flat


@pytest.mark.parametrize(
    ("qp", "block_size", "width", "height", "words"),
    [
        (np.zeros((1, 2, 2), np.int16), 64, 200, 100, r"needs \(frames, 2, 4\)"),
        (np.zeros((2, 2), np.int16), 64, 128, 128, "shape"),
        (np.zeros((0, 2, 2), np.int16), 64, 128, 128, "shape"),
        (np.zeros((1, 2, 2), np.float32), 64, 128, 128, "integers"),
        (np.full((1, 2, 2), -1), 64, 128, 128, "holds QP -1"),
        (np.full((1, 2, 2), 256), 64, 128, 128, "holds QP 256"),
        (np.zeros((1, 1, 1), np.int16), 0, 128, 128, "positive"),
        (np.zeros((1, 1, 1), np.int16), 64, 0, 128, "positive"),
    ],
)
def test_refuses_what_does_not_fit(qp: np.ndarray, block_size: int, width: int, height: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        QPMap(qp, block_size, width, height)


def test_is_a_value() -> None:
    source = np.full((1, 2, 2), 30, np.int16)
    one, other = QPMap(source, 64, 128, 128), QPMap.flat(30, 128, 128)
    assert one == other
    assert hash(one) == hash(other)
    assert one != QPMap.flat(31, 128, 128)
    assert one != QPMap.flat(30, 127, 128)
    assert one != "a map"
    source[:] = 5
    assert one == other
    with pytest.raises(ValueError, match="read-only"):
        one.qp[0, 0, 0] = 5


def test_crop_frames() -> None:
    moving = QPMap(np.arange(4, dtype=np.int16).reshape(4, 1, 1), 64, 64, 64)
    assert moving.crop_frames(1, 3).qp.ravel().tolist() == [1, 2]
    still = QPMap.flat(30, 64, 64)
    assert still.crop_frames(100, 200) is still
    for start, stop in [(0, 5), (3, 3), (-1, 2)]:
        with pytest.raises(InputError, match="asked for"):
            moving.crop_frames(start, stop)


def test_per_frame_repeats_a_single_map() -> None:
    assert QPMap.flat(30, 64, 64).per_frame(5) == QPMap.flat(30, 64, 64, n_frames=5)
    three = QPMap.flat(30, 64, 64, n_frames=3)
    assert three.per_frame(3) is three
    with pytest.raises(InputError, match="give 1 or 4"):
        three.per_frame(4)


@given(qp_maps(), st.sampled_from([8, 16, 24, 32, 64, 128]))
def test_resampled_takes_the_lowest_qp_it_touches(qp_map: QPMap, block_size: int) -> None:
    new = qp_map.resampled(block_size)
    before = per_sample(qp_map)
    for row in range(new.rows):
        for col in range(new.cols):
            rows = slice(row * block_size, (row + 1) * block_size)
            cols = slice(col * block_size, (col + 1) * block_size)
            assert (new.qp[:, row, col] == before[:, rows, cols].min(axis=(1, 2))).all()


@given(qp_maps())
def test_a_finer_grid_loses_nothing(qp_map: QPMap) -> None:
    finer = qp_map.resampled(qp_map.block_size // 2)
    assert (per_sample(finer) == per_sample(qp_map)).all()
    assert finer.resampled(qp_map.block_size) == qp_map
