"""Readers and writers of maps: exact round trips within the declared loss, one clear line for bad files."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers.errors import InputError, OutputError, VcmError
from codec_wrappers.mapio import kvazaar_roi, png, svtav1_lines, x265_lists
from codec_wrappers.qpmap import QPMap, grid_shape
from codec_wrappers.qpmap_io import SUFFIXES, RoiContext, read_qpmap, write_qpmap
from codec_wrappers.qpmap_legal import MapRules, legalise

WIDTH, HEIGHT = 200, 130  # 4 x 3 blocks of 64


@st.composite
def maps(draw: st.DrawFn, qp_max: int = 63, block_size: int | None = None) -> QPMap:
    width, height = draw(st.integers(1, 300)), draw(st.integers(1, 200))
    side = block_size or draw(st.sampled_from([16, 64]))
    shape = (draw(st.integers(1, 4)), *grid_shape(width, height, side))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return QPMap(rng.integers(0, qp_max + 1, shape), side, width, height)


def round_trip(qp_map: QPMap, suffix: str, base_qp: int | None, roi: RoiContext | None) -> QPMap:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"map{suffix}"
        write_qpmap(qp_map, path, base_qp)
        return read_qpmap(path, roi)


@given(maps(qp_max=255), st.sampled_from([".npz", ".png"]))
def test_whole_map_comes_back(qp_map: QPMap, suffix: str) -> None:
    assert round_trip(qp_map, suffix, None, None) == qp_map


@given(maps(), st.integers(0, 63), st.sampled_from([".txt", ".bin"]))
def test_roi_files_come_back(qp_map: QPMap, base_qp: int, suffix: str) -> None:
    roi = RoiContext(base_qp, qp_map.width, qp_map.height, qp_map.block_size)
    assert round_trip(qp_map, suffix, base_qp, roi) == qp_map


@given(maps(block_size=64))
def test_svtav1_lines_come_back(qp_map: QPMap) -> None:
    legal = legalise(qp_map, MapRules(0, 63, max_levels=8)).map
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.svt"
        path.write_text(svtav1_lines.to_lines(legal))
        base = int(legal.qp.min())
        assert svtav1_lines.read_lines(path, base, legal.width, legal.height, legal.n_frames) == legal


@given(maps())
def test_x265_lists_keep_the_lowest_qp_of_each_frame(qp_map: QPMap) -> None:
    lowest = qp_map.qp.min(axis=(1, 2))
    zones = x265_lists.parse_zones(x265_lists.to_zones(qp_map), qp_map.width, qp_map.height)
    assert (zones.qp.ravel() == lowest).all()
    assert x265_lists.parse_zones(x265_lists.to_zones(zones), qp_map.width, qp_map.height) == zones
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "qpfile"
        path.write_text(x265_lists.to_qpfile(qp_map))
        assert x265_lists.read_qpfile(path, qp_map.width, qp_map.height) == zones


def test_the_bytes_of_a_roi_file_are_kvazaars() -> None:
    qp_map = QPMap(np.array([[[30, 20], [37, 50]]]), 64, 128, 128)
    assert kvazaar_roi.to_binary(qp_map, 37) == bytes([2, 0, 0, 0, 2, 0, 0, 0, 249, 239, 0, 13])
    assert kvazaar_roi.to_text(qp_map, 37) == "2 2\n-7 -17\n0 13\n"


def test_lines_of_svtav1_are_quantiser_indices() -> None:
    frames = np.array([[[20, 30]], [[20, 30]], [[63, 20]]])
    assert svtav1_lines.to_lines(QPMap(frames, 64, 128, 64)) == "0 0 40\n2 175 0\n"
    assert [svtav1_lines.qindex(qp) for qp in (0, 40, 61, 62, 63)] == [0, 160, 244, 249, 255]
    assert [svtav1_lines.qp_of_qindex(svtav1_lines.qindex(qp)) for qp in range(64)] == list(range(64))


def test_zones_of_x265() -> None:
    frames = np.array([30, 30, 45, 20]).reshape(4, 1, 1)
    assert x265_lists.to_zones(QPMap(frames, 64, 64, 64)) == "0,1,q=30/2,2,q=45/3,3,q=20"
    assert x265_lists.to_qpfile(QPMap(frames[:2], 64, 64, 64)) == "0 I 30\n1 P 30\n"


def test_png_shows_low_qps_bright_and_high_qps_dark() -> None:
    light = png.qp_palette().astype(int) @ np.array([299, 587, 114])
    assert (np.diff(light[:64]) < 0).all()
    assert (light[63:] == light[63]).all()


def test_png_of_a_long_clip_stays_small() -> None:
    qp_map = QPMap.flat(30, 1920, 1080, n_frames=300)
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.png"
        write_qpmap(qp_map, path)
        with Image.open(path) as image:
            assert image.size == (30, 300 * 17)
        assert read_qpmap(path) == qp_map


def test_rendered_frame_shows_blocks_and_legend() -> None:
    qp_map = QPMap(np.array([[[10, 50]]]), 64, 128, 64)
    drawn = png.render_frame(qp_map, cell=32)
    palette = png.qp_palette()
    assert (drawn[1, 1] == palette[10]).all()
    assert (drawn[1, 62] == palette[50]).all()
    assert drawn.shape[0] == 32 + 4 + 20
    assert (drawn[38, 1] == palette[10]).all()
    assert (drawn[38, 37] == palette[50]).all()


GOOD_TEXT = "4 3\n" + " ".join(["0"] * 12)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("map.txt", b"", "is empty"),
        ("map.txt", b"\xff\xfe\x00", "is not text"),
        ("map.txt", b"4 3\n0 0 zero", "'zero' in the map is not an integer"),
        ("map.txt", b"4", "truncated in the header of frame 0"),
        ("map.txt", b"4 3\n0 0 0", "truncated in frame 0: 3 of 12 blocks"),
        ("map.txt", b"5 3\n0 0 0", "frame 0 has 5x3 blocks, the picture 4x3"),
        ("map.txt", GOOD_TEXT.encode() + b" 4", "truncated in the header of frame 1"),
        ("map.txt", GOOD_TEXT.replace(" 0 ", " 900 ", 1).encode(), "outside -128..127"),
        ("map.txt", GOOD_TEXT.replace(" 0 ", " -99 ", 1).encode(), "QPs lie in 0..255"),
        ("map.txt", b" \n ", "holds no map"),
        ("map.bin", b"\x04\x00", "truncated in the header of frame 0"),
        ("map.bin", b"\x04\x00\x00\x00\x03\x00\x00\x00\x00", "truncated in frame 0: 1 of 12"),
        ("map.bin", b"\x03\x00\x00\x00\x04\x00\x00\x00" + bytes(12), "frame 0 has 3x4 blocks, the picture 4x3"),
        ("map.npz", b"not an archive", "is not a NumPy archive"),
        ("map.npz", b"PK\x03\x04", "is not a NumPy archive"),
        ("map.png", b"not a png", "is not a readable PNG"),
        ("map.jpg", b"x", "no QP map format of this suffix"),
    ],
)
def test_bad_files_get_one_clear_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_qpmap(path, RoiContext(37, WIDTH, HEIGHT))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(data=st.binary(max_size=60), suffix=st.sampled_from(SUFFIXES))
@settings(max_examples=60)
def test_rubbish_never_raises_anything_else(data: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"map{suffix}"
        path.write_bytes(data)
        with pytest.raises(VcmError):
            read_qpmap(path, RoiContext(37, WIDTH, HEIGHT))


def test_truncated_maps_are_refused(tmp_path: Path) -> None:
    qp_map = QPMap(np.arange(24).reshape(2, 3, 4), 64, WIDTH, HEIGHT)
    for suffix in SUFFIXES:
        whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
        write_qpmap(qp_map, whole, 30)
        data = whole.read_bytes()
        for length in (len(data) // 4, len(data) // 2 + 5, len(data) - len(data) // 8):
            part.write_bytes(data[:length])
            with pytest.raises(InputError, match="part"):
                read_qpmap(part, RoiContext(30, WIDTH, HEIGHT))


def test_other_pictures_are_no_maps(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 30), "red").save(path)
    with pytest.raises(InputError, match="not a QP map"):
        read_qpmap(path)
    write_qpmap(QPMap(np.array([[[10, 50]]]), 64, 128, 64), path)
    with Image.open(path) as image:
        image.load()
        info, painted = image, image.copy()
    painted.putpixel((3, 3), 7)
    from PIL.PngImagePlugin import PngInfo

    notes = PngInfo()
    for key, value in info.text.items():
        notes.add_text(key, value)
    painted.save(path, pnginfo=notes)
    with pytest.raises(InputError, match="painted over"):
        read_qpmap(path)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("1 0 0", "start at 0 and rise"),
        ("0 0 0\n0 4 4", "start at 0 and rise"),
        ("0 0", "line 1 has 1 offsets, the picture 2 blocks"),
        ("0 0 0\n9 4 4", "frame 9 of a clip of 3"),
        ("0 0 200", "leaves the quantiser range"),
        ("\n", "holds no map"),
        ("0 0 x", "'x' in line 1 is not an integer"),
    ],
)
def test_bad_svtav1_lines(tmp_path: Path, lines: str, words: str) -> None:
    path = tmp_path / "map.svt"
    path.write_text(lines)
    with pytest.raises(InputError, match=words):
        svtav1_lines.read_lines(path, 30, 128, 64, 3)


def test_svtav1_refuses_what_it_would_code_wrongly() -> None:
    nine = QPMap(np.arange(9).reshape(1, 1, 9), 64, 64 * 9, 64)
    with pytest.raises(InputError, match="more than 8 levels"):
        svtav1_lines.to_lines(nine)
    with pytest.raises(InputError, match="lies below base QP 30"):
        svtav1_lines.to_lines(QPMap.flat(20, 64, 64), base_qp=30)
    with pytest.raises(InputError, match="above 63"):
        svtav1_lines.to_lines(QPMap.flat(64, 64, 64))
    with pytest.raises(InputError, match="blocks of 32"):
        svtav1_lines.to_lines(QPMap.flat(20, 64, 64, block_size=32))


@pytest.mark.parametrize("zones", ["", "0,1", "0,1,b=2", "1,2,q=30", "0,1,q=30/3,4,q=30", "1,0,q=3", "0,1,q=900"])
def test_bad_zones(zones: str) -> None:
    with pytest.raises(InputError):
        x265_lists.parse_zones(zones, 64, 64)


@pytest.mark.parametrize("lines", ["", "0 I", "0 X 30", "1 I 30", "0 I 30\n0 P 30", "0 I thirty"])
def test_bad_qpfiles(tmp_path: Path, lines: str) -> None:
    path = tmp_path / "qpfile"
    path.write_text(lines)
    with pytest.raises(InputError):
        x265_lists.read_qpfile(path, 64, 64)


def test_roi_files_need_their_context(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="base QP"):
        write_qpmap(QPMap.flat(30, 64, 64), tmp_path / "map.bin")
    write_qpmap(QPMap.flat(30, 64, 64), tmp_path / "map.bin", 30)
    with pytest.raises(InputError, match="base QP and picture size"):
        read_qpmap(tmp_path / "map.bin")
    with pytest.raises(InputError, match="offsets from base QP"):
        write_qpmap(QPMap.flat(255, 64, 64), tmp_path / "map.bin", 0)


def test_places_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_qpmap(tmp_path / "absent.npz")
    with pytest.raises(OutputError, match="cannot be written"):
        write_qpmap(QPMap.flat(30, 64, 64), tmp_path / "no" / "map.npz")
    with pytest.raises(InputError, match="suffix"):
        write_qpmap(QPMap.flat(30, 64, 64), tmp_path / "map.jpg")
