"""Pre-coding: which layers, what is pasted where, and the proof that it acts; with the real VVenC."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec_wrappers.color import split_planes
from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import MapHadNoEffectError
from codec_wrappers.pipeline import EncodeOptions, encode_segment, guarded_group
from codec_wrappers.qpmap import QPMap
from vcm_ratecontrol.jrd.layer_proof import prove_layers
from vcm_ratecontrol.jrd.layers import (
    BLOCK_SIZE,
    LOOP_FILTERS_OFF,
    LayeredSource,
    SegmentLayers,
    Unfiltered,
    composite,
    evened,
    segment_layers,
)
from vcm_ratecontrol.media import Clip, open_clip

STILL = EncodeOptions(coding="still", workers=1)


@pytest.fixture(scope="module")
def still(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A photograph of 175x131: odd sides, 6x5 blocks."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    with Image.open(picture("coco/000000465822.jpg")) as image:
        image.convert("RGB").crop((50, 50, 400, 312)).resize((175, 131)).save(path)
    return open_clip(path)


def one_object(fine: int = 32, coarse: int = 47) -> SegmentLayers:
    """Blocks 1..2 x 2..3 are an object."""
    qp = np.full((1, 5, 6), coarse, np.int16)
    qp[0, 1:3, 2:4] = fine
    return segment_layers(range(1), qp)


def test_a_segment_has_few_layers_and_no_block_is_coarser_than_asked() -> None:
    rng = np.random.default_rng(3)
    qp = rng.integers(20, 52, (4, 3, 5)).astype(np.int16)
    layers = segment_layers(range(10, 14), qp)
    assert len(layers.qps) == 4
    assert (layers.segment.start, layers.segment.stop, layers.segment.qp) == (10, 14, layers.qps[0])
    given = np.array(layers.qps)[layers.choice]
    assert (given <= qp).all()
    assert layers.qps[0] == qp.min()


def test_few_qps_are_kept_as_they_are() -> None:
    layers = one_object()
    assert layers.qps == (32, 47)
    assert layers.choice[0].sum() == 30 - 4


def test_objects_of_a_segment_share_the_mean_of_their_qps() -> None:
    qp = np.full((4, 5, 6), 51, np.int16)
    qp[:2, 0, :4] = [20, 40, 40, 41]  # mean 35.25
    qp[2:, 0, 0] = 20
    even = evened(QPMap(qp, 32, 175, 131), [range(2), range(2, 4)], 51)
    assert even.qp[0, 0].tolist() == [35, 35, 35, 35, 51, 51]
    assert even.qp[2, 0].tolist() == [20, 51, 51, 51, 51, 51]
    assert (even.qp[:, 1:] == 51).all()
    assert (qp[0, 0, :4] == [20, 40, 40, 41]).all()


def test_a_background_that_is_hardly_coarser_is_coded_with_the_objects() -> None:
    qp = np.full((2, 5, 6), 45, np.int16)
    qp[:, 0, :4] = [38, 42, 40, 40]
    even = evened(QPMap(qp, 32, 175, 131), [range(1), range(1, 2)], 45)
    assert (even.qp == 40).all()


def test_blocks_come_from_their_layers_to_the_sample(still: Clip) -> None:
    pix_fmt, video = "yuv420p10le", still.format
    (original,) = still.read(0, 1, "yuv420p10le")
    grey = np.full(len(original) // 2, 512, "<u2").tobytes()
    made = composite(original, [grey], one_object().choice[0], video, "yuv420p10le")
    size = video.padded_width, video.padded_height
    for plane, (before, after) in enumerate(
        zip(split_planes(original, *size, pix_fmt), split_planes(made, *size, pix_fmt), strict=True)
    ):
        side = BLOCK_SIZE if plane == 0 else BLOCK_SIZE // 2
        inside = np.zeros(before.shape, bool)
        inside[side : 3 * side, 2 * side : 4 * side] = True
        assert (after[inside] == before[inside]).all()
        assert (after[~inside] == 512).all()


def test_loop_filters_are_off_in_the_first_coding_only(still: Clip, tmp_path: Path) -> None:
    from codec_wrappers.pipeline import segment_command

    vvenc = get_encoder("vvc")
    segment = one_object().segment
    plain = segment_command(segment, still, vvenc, tmp_path, STILL)
    bare = segment_command(segment, still, Unfiltered(vvenc), tmp_path, STILL)
    changed = [(a, b) for a, b in zip(plain, bare, strict=True) if a != b]
    assert [b.removeprefix(a) for a, b in changed] == [f":{LOOP_FILTERS_OFF}"]


def test_the_object_is_untouched_and_the_background_costs_little(still: Clip, tmp_path: Path) -> None:
    vvenc, layers = get_encoder("vvc"), one_object()
    with guarded_group() as group:
        source = LayeredSource(still, [layers], vvenc, STILL, tmp_path / "layers", group)
        (original,), (made,) = (list(s.read(0, 1, "yuv420p10le")) for s in (still, source))
        size = still.format.padded_width, still.format.padded_height
        before, after = (split_planes(frame, *size, "yuv420p10le")[0] for frame in (original, made))
        np.testing.assert_array_equal(after[32:96, 64:128], before[32:96, 64:128])
        assert (after[:, :64] != before[:, :64]).mean() > 0.5
        layered = encode_segment(layers.segment, source, vvenc, tmp_path / "a", STILL, group)
        flat = encode_segment(layers.segment, still, vvenc, tmp_path / "b", STILL, group)
        prove_layers([layers], source, vvenc, STILL, tmp_path, group)
    assert layered.bits < 0.6 * flat.bits


def test_layers_that_do_nothing_are_found_out(still: Clip, tmp_path: Path) -> None:
    """A background that is finer than the objects: pre-coding it cannot make it coarser."""
    layers = one_object()
    wrong = SegmentLayers(layers.segment, (32, 1), layers.choice)
    with guarded_group() as group:
        source = LayeredSource(still, [wrong], get_encoder("vvc"), STILL, tmp_path / "layers", group)
        with pytest.raises(MapHadNoEffectError, match="pre-coding changed nothing on frame 0"):
            prove_layers([wrong], source, get_encoder("vvc"), STILL, tmp_path, group)


def test_nothing_to_prove_without_a_coarse_layer(still: Clip, tmp_path: Path) -> None:
    flat = segment_layers(range(1), np.full((1, 5, 6), 40, np.int16))
    with guarded_group() as group:
        source = LayeredSource(still, [flat], get_encoder("vvc"), STILL, tmp_path / "layers", group)
        prove_layers([flat], source, get_encoder("vvc"), STILL, tmp_path, group)
        assert list(source.read(0, 1, "yuv420p")) == list(still.read(0, 1, "yuv420p"))
    assert list((tmp_path / "layers").iterdir()) == []
