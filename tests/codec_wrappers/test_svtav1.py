"""SVT-AV1: exact quantiser indices read back, segments joined, maps refused before anything starts."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import UnsupportedError
from codec_wrappers.pipeline import EncodeOptions, encode, flat_timing
from codec_wrappers.plan import EncodePlan, Segment
from codec_wrappers.qpmap import QPMap
from codec_wrappers.still import StillSource, decode_still, encode_still
from codec_wrappers.svtav1 import SvtAv1Encoder
from tests.codec_wrappers.coding import Frames, code, scene

FAST = "12"


@pytest.fixture(scope="module")
def svtav1() -> SvtAv1Encoder:
    encoder = get_encoder("av1")
    assert isinstance(encoder, SvtAv1Encoder)
    return encoder


def test_capabilities_come_from_the_binary(svtav1: SvtAv1Encoder) -> None:
    found = svtav1.capabilities()
    assert (found.qp_min, found.qp_max) == (0, 63)
    assert (found.frame_qp, found.block_qp) == (False, "none")
    assert found.pixel_formats == ("yuv420p", "yuv420p10le")
    assert found.presets[-1] == "0"
    assert FAST in found.presets
    assert "libsvtav1 v4." in found.version


@pytest.mark.parametrize("qp", [0, 1, 35, 61, 62, 63])
def test_a_still_is_coded_at_exactly_its_qp(svtav1: SvtAv1Encoder, qp: int) -> None:
    rgb = scene(90, 70, 1)[0][:, :, None].repeat(3, axis=2)
    still = encode_still(StillSource(rgb), qp, svtav1, FAST)
    assert still.qp_read_back == qp
    decoded = decode_still(still)
    assert decoded.shape == rgb.shape
    if qp == 0:
        assert np.abs(decoded.astype(int) - rgb).mean() < 1


def test_each_segments_key_picture_has_its_qp(svtav1: SvtAv1Encoder, tmp_path: Path) -> None:
    plan = EncodePlan((Segment(0, 9, 20), Segment(9, 10, 63), Segment(10, 30, 45)))
    frames = Frames(scene(96, 64, 30))
    done = encode(plan, frames, svtav1, tmp_path / "out.mp4", flat_timing(30, Fraction(25)), EncodeOptions(FAST))
    assert [picture.index for picture in done.pictures] == list(range(30))
    assert [(picture.index, picture.qp) for picture in done.pictures if picture.kind == "I"] == [
        (0, 20),
        (9, 63),
        (10, 45),
    ]
    # All layers lie above their key picture, by at most 63 steps of the quantiser index: 16 QPs.
    assert all(20 < (picture.qp or 0) <= 36 for picture in done.pictures[1:9])


def test_lossless_key_picture_among_lossy_ones(svtav1: SvtAv1Encoder, tmp_path: Path) -> None:
    source = scene(96, 64, 9)
    luma, records = code(svtav1, Frames(source), tmp_path, qp=0, preset=FAST)
    assert records[0].qp == 0
    assert (luma[0] == source[0]).all()
    assert np.abs(luma.astype(float) - source).mean() < 3


def test_maps_are_refused_with_path_version_and_a_way_out(svtav1: SvtAv1Encoder, tmp_path: Path) -> None:
    frames = Frames(scene(96, 64, 1))
    with pytest.raises(UnsupportedError, match=r"libsvtav1 v4.*roi-map-file"):
        code(svtav1, frames, tmp_path, qp_map=QPMap.flat(30, 96, 64))
    plan = EncodePlan((Segment(0, 1, 30),), QPMap.flat(30, 96, 64))
    with pytest.raises(UnsupportedError, match="hevc-kvazaar"):
        encode(plan, frames, svtav1, tmp_path / "out.mp4", flat_timing(1, Fraction(25)), EncodeOptions(FAST))
    assert svtav1.map_rules() is None
    assert not list(tmp_path.glob("*.mp4"))
