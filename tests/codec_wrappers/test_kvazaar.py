"""kvazaar: exact slice QPs, maps that act where and when they should, legal whatever the map."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from benchmarks import random_maps
from codec_wrappers.coding_order import dyadic_order
from codec_wrappers.encoder import EncodeJob, get_encoder
from codec_wrappers.errors import EncoderError, InputError, UnsupportedError
from codec_wrappers.kvazaar import GOP, PRESETS, KvazaarEncoder, base_qp_for, coding_order
from codec_wrappers.pipeline import EncodeOptions, encode, flat_timing
from codec_wrappers.plan import EncodePlan, Segment
from codec_wrappers.qpmap import QPMap
from codec_wrappers.still import StillSource, decode_still, encode_still
from codec_wrappers.trial import ffmpeg_trial
from tests.codec_wrappers.coding import Frames, code, error_per_ctu, scene

# Deblocking changes 3 samples on each side of a CTU's edge and SAO, which looks one further, 1 more.
FILTER_REACH = 4


@pytest.fixture(scope="module")
def kvazaar() -> KvazaarEncoder:
    encoder = get_encoder("hevc-kvazaar")
    assert isinstance(encoder, KvazaarEncoder)
    return encoder


def test_capabilities_come_from_the_binary(kvazaar: KvazaarEncoder) -> None:
    found = kvazaar.capabilities()
    assert (found.qp_min, found.qp_max) == (0, 51)
    assert (found.block_qp, found.block_size) == ("map", 64)
    assert found.pixel_formats == ("yuv420p",)
    assert "libkvazaar 2." in found.version
    assert Path(found.path).is_file()


def test_every_preset_is_known_to_the_binary(kvazaar: KvazaarEncoder) -> None:
    """libkvazaar takes a wrong name in silence at exit code 0, and says so only in its log."""

    def log(preset: str) -> str:
        params = f"preset={preset},qp=40,gop=0,period=1"
        return ffmpeg_trial(str(kvazaar.ffmpeg), "-c:v", "libkvazaar", "-kvazaar-params", params, raw_format="hevc").log

    assert "unknown preset" in log("no-such-preset")
    assert not [preset for preset in PRESETS if "unknown preset" in log(preset)]
    with pytest.raises(UnsupportedError, match="no-such-preset"):
        kvazaar.capabilities().require_preset("no-such-preset")


@pytest.mark.parametrize("qp", [0, 1, 22, 37, 50, 51])
def test_a_still_is_coded_at_exactly_its_qp(kvazaar: KvazaarEncoder, qp: int) -> None:
    rgb = scene(90, 70, 1)[0][:, :, None].repeat(3, axis=2)
    still = encode_still(StillSource(rgb), qp, kvazaar, "ultrafast")
    assert still.qp_read_back == qp
    assert decode_still(still).shape == rgb.shape


def test_the_intra_picture_has_the_plans_qp_and_all_bits_are_read_back(kvazaar: KvazaarEncoder, tmp_path: Path) -> None:
    frames = Frames(scene(128, 64, 21))
    luma, records = code(kvazaar, frames, tmp_path, qp=30)
    assert len(luma) == 21
    assert [record.index for record in records] == list(range(21))
    assert [record.index for record in records if record.kind == "I"] == [0]
    assert records[0].qp == 30
    assert all(record.qp is not None and 30 < record.qp <= 40 for record in records[1:])
    coded = 8 * (tmp_path / "piece.mp4").stat().st_size
    assert 0.6 * coded < sum(record.bits for record in records) < coded


@pytest.mark.parametrize("n_frames", [1, 2, 3, 8, 16, 17, 20, 33, 40])
def test_pictures_are_coded_in_the_order_that_maps_are_written_in(
    kvazaar: KvazaarEncoder, tmp_path: Path, n_frames: int
) -> None:
    """`read_back` raises when the stream's order is another."""
    frames = Frames(scene(64, 64, n_frames))
    rng = np.random.default_rng(n_frames)
    qp_map = QPMap(rng.integers(27, 52, (n_frames, 1, 1)), 64, 64, 64)
    luma, records = code(kvazaar, frames, tmp_path, qp_map=qp_map, preset="ultrafast")
    assert len(luma) == len(records) == n_frames


def test_dyadic_order() -> None:
    assert dyadic_order(9, 8) == [0, 8, 4, 2, 1, 3, 6, 5, 7]
    assert dyadic_order(12, 8) == [0, 8, 4, 2, 1, 3, 6, 5, 7, 10, 9, 11]
    for n_frames in range(1, 70):
        assert sorted(dyadic_order(n_frames, GOP)) == list(range(n_frames))


def test_another_order_is_an_error(kvazaar: KvazaarEncoder, tmp_path: Path) -> None:
    frames = Frames(scene(64, 64, 5))
    moving = QPMap.flat(30, 64, 64, n_frames=5)
    job = EncodeJob(
        frames.format, "yuv420p", (Segment(0, 5, 30),), "ultrafast", "inter", tmp_path / "x", tmp_path, moving
    )
    names = ("nal_unit_type", "slice_pic_order_cnt_lsb", "slice_qp_delta")

    def log(order: list[int]) -> str:
        lines = []
        for poc in order:
            lines.append(f"[trace_headers @ 0x1] Packet: {9 + poc} bytes, pts 0.")
            values = (19 if poc == 0 else 1, poc, 4)
            lines += [
                f"[trace_headers @ 0x1] 9  {name}   01 = {value}" for name, value in zip(names, values, strict=True)
            ]
        return "\n".join(lines)

    assert [record.bits for record in kvazaar.read_back(job, log(coding_order(job)))] == [72, 80, 88, 96, 104]
    with pytest.raises(EncoderError, match="another order"):
        kvazaar.read_back(job, log([0, 1, 2, 3, 4]))
    with pytest.raises(EncoderError, match="ignored the option preset=x"):
        kvazaar.read_back(job, "[libkvazaar @ 0x5650aa236fc0] Invalid option: preset=x.\n" + log([0, 4, 2, 1, 3]))


@pytest.mark.parametrize("lowered", [3, 7])
def test_a_moving_map_acts_on_the_frame_it_is_for(kvazaar: KvazaarEncoder, tmp_path: Path, lowered: int) -> None:
    """Pictures that no other refers to: these alone may change."""
    source = scene(128, 128, 20)
    frames = Frames(source)
    flat, _ = code(kvazaar, frames, tmp_path / "flat", qp=40, preset="ultrafast")
    qp = np.full((20, 2, 2), 40)
    qp[lowered] = 20
    qp_map = QPMap(qp, 64, 128, 128)
    mapped, _ = code(kvazaar, frames, tmp_path / "map", qp=40, preset="ultrafast", qp_map=qp_map)
    assert [at for at in range(20) if (flat[at] != mapped[at]).any()] == [lowered]
    ratio = error_per_ctu(flat, source)[lowered] / error_per_ctu(mapped, source)[lowered]
    assert (ratio > 2).all()


def test_one_ctu_changes_only_its_area(kvazaar: KvazaarEncoder, tmp_path: Path) -> None:
    """The last CTU in coding order: no other is predicted from it, so beyond the loop filter all stays."""
    source = scene(256, 192, 1)
    frames = Frames(source)
    flat, _ = code(kvazaar, frames, tmp_path / "flat", qp=40, coding="still")
    qp = np.full((1, 3, 4), 40)
    qp[0, 2, 3] = 20
    mapped, _ = code(kvazaar, frames, tmp_path / "map", qp=40, coding="still", qp_map=QPMap(qp, 64, 256, 192))
    ratio = error_per_ctu(flat, source)[0] / error_per_ctu(mapped, source)[0]
    assert ratio[2, 3] > 4
    outside = np.ones((192, 256), bool)
    outside[128 - FILTER_REACH :, 192 - FILTER_REACH :] = False
    assert (flat[0] == mapped[0])[outside].all()


@pytest.mark.parametrize(("row", "col"), [(0, 0), (0, 3), (1, 1), (1, 2)])
def test_a_ctu_in_the_middle_improves_alone(kvazaar: KvazaarEncoder, tmp_path: Path, row: int, col: int) -> None:
    """CTUs before it keep their samples; those after it are predicted from better ones, at their old QP."""
    source = scene(256, 192, 1)
    frames = Frames(source)
    flat, _ = code(kvazaar, frames, tmp_path / "flat", qp=40, coding="still")
    qp = np.full((1, 3, 4), 40)
    qp[0, row, col] = 20
    mapped, _ = code(kvazaar, frames, tmp_path / "map", qp=40, coding="still", qp_map=QPMap(qp, 64, 256, 192))
    ratio = error_per_ctu(flat, source)[0] / error_per_ctu(mapped, source)[0]
    assert ratio[row, col] > 4
    ratio[row, col] = 1
    assert (np.abs(np.log(ratio)) < np.log(1.15)).all()
    before = max(0, row * 64 - FILTER_REACH)
    assert (flat[0, :before] == mapped[0, :before]).all()
    left = max(0, col * 64 - FILTER_REACH)
    assert (flat[0, : row * 64 + 32, :left] == mapped[0, : row * 64 + 32, :left]).all()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 67), (130, 70), (196, 132)])
def test_sizes_that_kvazaar_refuses_come_back_cropped(
    kvazaar: KvazaarEncoder, tmp_path: Path, width: int, height: int
) -> None:
    source = scene(width, height, 2)
    qp_map = QPMap.flat(24, width, height)
    luma, _ = code(kvazaar, Frames(source), tmp_path, qp=30, qp_map=qp_map)
    assert luma.shape[1:] == (height + height % 2, width + width % 2)
    assert np.abs(luma[:, :height, :width].astype(float) - source).mean() < 6


def test_base_qp_reaches_every_block() -> None:
    for low in range(52):
        for high in range(low, 52):
            qp_map = QPMap(np.array([[[low, high]]]), 64, 128, 64)
            for qp in (0, 26, 51):
                base = base_qp_for(qp_map, qp)
                assert 0 <= base <= 51
                assert low - base >= -26
                assert high - base <= 25
    assert base_qp_for(QPMap.flat(30, 64, 64), 32) == 32


def test_an_illegal_map_never_reaches_the_encoder(kvazaar: KvazaarEncoder, tmp_path: Path) -> None:
    frames = Frames(scene(128, 64, 1))
    for qp, block_size, words in [
        ([[[0, 51]]], 64, "legalise"),
        ([[[63, 63]]], 64, "0..51"),
        ([[[30]]], 128, "blocks of 128"),
    ]:
        with pytest.raises(InputError, match=words):
            code(kvazaar, frames, tmp_path, qp_map=QPMap(np.array(qp), block_size, 128, 64))


def test_a_plan_with_a_wild_map_through_the_pipeline(kvazaar: KvazaarEncoder, tmp_path: Path) -> None:
    frames = Frames(scene(200, 130, 6))
    wild = QPMap(np.random.default_rng(0).integers(0, 64, (6, 5, 7)), 32, 200, 130)
    plan = EncodePlan((Segment(0, 2, 30), Segment(2, 6, 40)), wild)
    options = EncodeOptions(preset="ultrafast")
    done = encode(plan, frames, kvazaar, tmp_path / "out.mp4", flat_timing(6, Fraction(25)), options)
    assert done.n_frames == len(done.pictures) == 6
    assert done.clipped_cells > 0
    assert [picture.index for picture in done.pictures if picture.kind == "I"] == [0, 2]
    flat = replace(plan, qp_map=None)
    plain = encode(flat, frames, kvazaar, tmp_path / "flat.mp4", flat_timing(6, Fraction(25)), options)
    assert [picture.qp for picture in plain.pictures if picture.kind == "I"] == [30, 40]
    assert plain.bits != done.bits


def test_fifty_random_maps_are_coded_and_decoded(kvazaar: KvazaarEncoder) -> None:
    """A thousand: `python -m benchmarks.random_maps`, result in docs/random-maps.md."""
    outcomes = random_maps.run(range(5000, 5050), kvazaar, kvazaar.map_rules(), small=True)
    assert [outcome.why for outcome in outcomes if not outcome.ok] == []
    assert sum(outcome.moved for outcome in outcomes) > 0


@pytest.mark.slow
def test_a_thousand_random_maps(kvazaar: KvazaarEncoder) -> None:
    """Some two minutes on two cores."""
    outcomes = random_maps.run(range(1000), kvazaar, kvazaar.map_rules())
    assert [outcome.why for outcome in outcomes if not outcome.ok] == []


def test_the_check_of_random_maps_finds_one_changed_byte(kvazaar: KvazaarEncoder, tmp_path: Path) -> None:
    case = random_maps.make_case(7)
    assert random_maps.try_case(case, kvazaar, kvazaar.map_rules(), tmp_path).ok
    path = tmp_path / "map.mp4"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    assert "mismatching checksum" in random_maps.decoding_fault(path, len(case.frames))
