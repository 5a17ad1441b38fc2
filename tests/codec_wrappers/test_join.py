"""Segments of different QP in one file: every frame, every timestamp, and all that stood beside the pictures."""

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import EncoderError, InputError
from codec_wrappers.join import Timing, check_companions, check_suffix, coded_bits, decode_times
from codec_wrappers.pipeline import EncodeOptions, encode
from codec_wrappers.plan import flat_plan
from codec_wrappers.verify import decoded_frames
from tests.codec_wrappers.joining import PRESETS, encode_clip, ffmpeg, luma_psnr, packets
from vcm_ratecontrol.media import open_clip

SyntheticClip = Callable[[str], Path]

THREE_QPS = (24, 45, 30)
SUBTITLES = "1\n00:00:00,100 --> 00:00:00,800\nmind the <i>gap</i> & the step\n"


@pytest.fixture(scope="module")
def subtitled(tmp_path_factory: pytest.TempPathFactory, synthetic_clip: SyntheticClip) -> Callable[..., Path]:
    """The plain clip with a subtitle, by options for ffmpeg and name of the file."""
    folder = tmp_path_factory.mktemp("subtitled")

    def make(name: str, *options: str) -> Path:
        (folder / "text.srt").write_text(SUBTITLES)
        inputs = ("-i", synthetic_clip("plain.mp4"), "-i", folder / "text.srt")
        ffmpeg(*inputs, "-map", "0", "-map", "1", "-c", "copy", *options, folder / name)
        return folder / name

    return make


CHAINS = [
    *(("vvc", suffix) for suffix in (".mp4", ".mkv", ".mov", ".m4v", ".266")),
    *(("hevc", suffix) for suffix in (".mp4", ".mkv", ".265")),
    ("hevc-kvazaar", ".mp4"),
    *(("av1", suffix) for suffix in (".mp4", ".mkv", ".obu")),
]


@pytest.mark.parametrize(("codec", "suffix"), CHAINS)
def test_three_segments_of_three_qps_play_as_one_file(
    codec: str, suffix: str, synthetic_clip: SyntheticClip, tmp_path: Path
) -> None:
    source, output = synthetic_clip("plain.mp4"), tmp_path / f"out{suffix}"
    result = encode_clip(source, output, THREE_QPS, codec)
    assert decoded_frames(output) == result.n_frames == 25
    assert [picture.index for picture in result.pictures] == list(range(25))
    intra = {picture.index: picture.qp for picture in result.pictures if picture.kind == "I"}
    assert intra == {0: 24, 8: 45, 16: 30}
    assert result.bits == coded_bits(output)
    # Encoders leave parameter sets or padding out of what they tell.
    assert result.bits == pytest.approx(sum(picture.bits for picture in result.pictures), rel=0.1)
    quality = luma_psnr(source, output)
    # A step at each join, in the very frame: not one picture of a segment decodes with its neighbour's parameters.
    for fine in (quality[:8], quality[16:]):
        assert np.median(fine) > np.median(quality[8:16]) + 4
    assert quality[7] > quality[8] + 3 or codec == "av1"  # whose intra picture is far better than its others
    assert quality[16] > quality[15] + 3
    if suffix not in (".266", ".265", ".obu"):
        assert packets(output, "audio") == packets(source, "audio")
        assert open_clip(output).timestamps == open_clip(source).timestamps


@pytest.mark.parametrize("codec", ["vvc", "hevc", "av1"])
def test_one_segment_per_frame_and_a_clip_of_one_frame(
    codec: str, synthetic_clip: SyntheticClip, tmp_path: Path
) -> None:
    one = encode_clip(synthetic_clip("one_frame.mp4"), tmp_path / "one.mp4", [33], codec)
    assert decoded_frames(tmp_path / "one.mp4") == one.n_frames == 1
    qps = [20 + 2 * at for at in range(12)]
    many = encode_clip(synthetic_clip("odd.mkv"), tmp_path / "many.mp4", qps, codec)
    assert [picture.qp for picture in many.pictures] == qps
    assert decoded_frames(tmp_path / "many.mp4") == 12


@pytest.mark.parametrize("codec", ["vvc", "hevc", "av1"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_timestamps_of_variable_rate_are_kept_exactly(
    codec: str, suffix: str, synthetic_clip: SyntheticClip, tmp_path: Path
) -> None:
    source, output = synthetic_clip("vfr.mp4"), tmp_path / f"out{suffix}"
    encode_clip(source, output, THREE_QPS, codec)
    before, after = open_clip(source), open_clip(output)
    assert not before.constant_rate
    assert after.timestamps == before.timestamps
    assert packets(output, "audio") == packets(source, "audio")
    # What other players make of it: FFmpeg's own times, decoded frame by frame.
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        shown = [frame.pts * stream.time_base for frame in container.decode(stream)]
    assert tuple(shown) == before.timestamps


@pytest.mark.parametrize(("suffix", "start"), [(".mp4", "0"), (".mp4", "3.3"), (".mkv", "3.3")])
def test_sound_and_pictures_stay_together_when_the_source_starts_late(
    suffix: str, start: str, synthetic_clip: SyntheticClip, tmp_path: Path
) -> None:
    source = tmp_path / "late.ts"
    ffmpeg("-i", synthetic_clip("plain.mp4"), "-c", "copy", "-output_ts_offset", start, source)
    output = tmp_path / f"out{suffix}"
    encode_clip(source, output, THREE_QPS)
    before, after = open_clip(source), open_clip(output)
    gaps = [float(abs(a - b)) for a, b in zip(after.timestamps, before.timestamps, strict=True)]
    assert max(gaps) < 0.001
    times = [[time for time, _ in packets(path, "audio")] for path in (source, output)]
    assert np.abs(np.subtract(*times)).max() <= 0.001


TURNS = [*(("-display_rotation", turn) for turn in ("-90", "90", "180")), ("-display_hflip",), ("-display_vflip",)]


@pytest.mark.parametrize("turn", [*TURNS, ("-display_rotation", "90", "-display_hflip")], ids="".join)
def test_rotation_and_mirroring_are_kept(turn: tuple[str, ...], synthetic_clip: SyntheticClip, tmp_path: Path) -> None:
    source = tmp_path / "turned.mp4"
    ffmpeg(*turn, "-i", synthetic_clip("plain.mp4"), "-frames:v", "3", "-an", "-c", "copy", source)
    encode_clip(source, tmp_path / "out.mp4", [24])
    before, after = open_clip(source), open_clip(tmp_path / "out.mp4")
    assert after.display_matrix == before.display_matrix is not None
    assert (after.rotation, after.upright_size) == (before.rotation, before.upright_size)
    upright = [next(iter(clip.read_rgb([0]))).astype(int) for clip in (before, after)]
    assert np.abs(upright[0] - upright[1]).mean() < 8


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("name", ["plain.mp4", "odd.mkv"])
def test_sample_aspect_ratio_is_kept(name: str, suffix: str, synthetic_clip: SyntheticClip, tmp_path: Path) -> None:
    source = tmp_path / "wide.mkv"
    ffmpeg("-i", synthetic_clip(name), "-c:v", "ffv1", "-an", "-vf", "setsar=16/11", source)
    encode_clip(source, tmp_path / f"out{suffix}", THREE_QPS)
    assert open_clip(source).sample_aspect_ratio == Fraction(16, 11)
    assert open_clip(tmp_path / f"out{suffix}").sample_aspect_ratio == Fraction(16, 11)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_text_subtitles_and_titles_are_kept_in_the_way_of_the_container(
    suffix: str, subtitled: Callable[..., Path], tmp_path: Path
) -> None:
    for name, options in {"in.mp4": ("-c:s", "mov_text"), "in.mkv": ("-attach", __file__)}.items():
        kind = ("-metadata:s:t", "mimetype=text/plain") if name == "in.mkv" else ()
        source = subtitled(name, *options, *kind, "-metadata", "title=Crossing")
        output = tmp_path / f"{name}{suffix}"
        check_companions(source, output)
        encode_clip(source, output, THREE_QPS)
        ffmpeg("-i", output, "-map", "0:s", tmp_path / "back.srt")
        text = (tmp_path / "back.srt").read_text()
        assert "00:00:00,100 --> 00:00:00,800" in text
        assert re.sub("<[^>]*>", "", text.splitlines()[2]) == "mind the gap & the step"
        with av.open(str(output)) as container:
            assert {key.lower(): value for key, value in container.metadata.items()}["title"] == "Crossing"
            kinds = [stream.type for stream in container.streams]
        assert kinds[:3] == ["video", "audio", "subtitle"]
        assert ("attachment" in kinds) == (name == "in.mkv" and suffix == ".mkv")


def test_what_a_container_cannot_hold_is_refused_before_anything_is_coded(
    synthetic_clip: SyntheticClip, tmp_path: Path
) -> None:
    source = tmp_path / "sound.mkv"
    ffmpeg("-i", synthetic_clip("plain.mp4"), "-c:v", "copy", "-c:a", "wmav2", source)
    with pytest.raises(InputError, match=r"sound.mkv.*\.mp4; use -o NAME\.mkv.*wmav2") as refused:
        check_companions(source, tmp_path / "out.mp4")
    assert "\n" not in str(refused.value)
    check_companions(source, tmp_path / "out.266")
    check_companions(source, tmp_path / "out.mkv")
    encode_clip(source, tmp_path / "out.mkv", THREE_QPS)
    assert packets(tmp_path / "out.mkv", "audio") == packets(source, "audio")


@pytest.mark.parametrize(
    ("codec", "name", "words"),
    [
        ("vvc", "out.265", "raw hevc stream cannot hold vvc"),
        ("hevc", "out.266", "raw vvc stream cannot hold hevc"),
        ("av1", "out.mov", "no mapping for AV1"),
        ("vvc", "out.avi", r"unknown suffix '\.avi'; use one of .*\.mp4"),
        ("vvc", "out", "unknown suffix ''"),
    ],
)
def test_suffixes_that_do_not_fit_are_refused(codec: str, name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{name}: .*{words}"):
        check_suffix(tmp_path / name, get_encoder(codec))


def test_names_that_ffmpeg_would_take_for_something_else(synthetic_clip: SyntheticClip, tmp_path: Path) -> None:
    for name in ("pipe:0.mp4", "-i.mp4", "100%d.mp4", "a b'c\"; é.mp4", "http:x.mp4"):
        source, output = tmp_path / name, tmp_path / "out" / name
        output.parent.mkdir(exist_ok=True)
        source.write_bytes(synthetic_clip("plain.mp4").read_bytes())
        check_companions(source, output)
        encode_clip(source, output, [40])
        assert packets(output, "audio") == packets(source, "audio"), name
        assert list(output.parent.glob(".*")) == []


def test_pieces_and_timestamps_that_do_not_agree_are_an_error(synthetic_clip: SyntheticClip, tmp_path: Path) -> None:
    clip = open_clip(synthetic_clip("plain.mp4"))
    timing = Timing(clip.time_base, clip.pts[:-1])
    with pytest.raises(EncoderError, match="25 pictures of 24"):
        options = EncodeOptions(PRESETS["vvc"])
        encode(flat_plan(25, 45), clip, get_encoder("vvc"), tmp_path / "out.mp4", timing, options)
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60, unique=True), st.randoms(use_true_random=False))
def test_decoding_times_rise_and_never_come_after_the_picture_is_shown(shown: list[int], random: "object") -> None:
    random.shuffle(shown)  # type: ignore[attr-defined]
    decoded = decode_times(shown)
    assert all(earlier < later for earlier, later in pairwise(decoded))
    assert all(d <= p for d, p in zip(decoded, shown, strict=True))
    # And no later than need be: some picture is decoded just when it is shown.
    assert any(d == p for d, p in zip(decoded, shown, strict=True))
