"""From a plan to a verified file: the same bits with any number of workers, and nothing left when it fails."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from codec_wrappers.encoder import EncodeCommand, EncodeJob, get_encoder
from codec_wrappers.errors import EncoderError, InputError, VerificationError
from codec_wrappers.frames import PixelFormat, VideoFormat
from codec_wrappers.join import Timing, check_suffix, coded_bits
from codec_wrappers.pipeline import EncodeOptions, encode, encode_segment, flat_timing
from codec_wrappers.plan import EncodePlan, Segment, flat_plan
from codec_wrappers.process import ProcessGroup
from codec_wrappers.verify import decoded_frames
from codec_wrappers.vvenc import VvencEncoder
from tests.codec_wrappers.coding import Frames, scene
from tests.codec_wrappers.joining import PRESETS, encode_clip, ffmpeg, luma_psnr, plan_of
from vcm_ratecontrol.media import open_clip

QPS = (30, 42, 36, 50, 25)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("codec", PRESETS)
def test_the_file_does_not_depend_on_the_number_of_workers(
    codec: str, synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    digests = set()
    for workers in (1, 2, 4):
        output = tmp_path / f"{workers}.mp4"
        encode_clip(synthetic_clip("plain.mp4"), output, QPS, codec, workers)
        digests.add(digest(output))
    assert len(digests) == 1


@pytest.mark.parametrize("codec", ["hevc", "hevc-kvazaar"])
def test_qps_from_frame_to_frame_in_one_process(
    codec: str, synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    """What these two can do without joining gives the same QPs at the same frames."""
    source = synthetic_clip("plain.mp4")
    output = tmp_path / "out.mp4"
    result = encode_clip(source, output, (24, 45, 30), codec, segmented=False)
    if get_encoder(codec).capabilities().frame_qp:
        assert len(result.commands) == 1
    quality = luma_psnr(source, output)
    assert quality[7] > quality[8] + 3
    assert quality[16] > quality[15] + 3


def test_a_segment_alone_is_the_same_bits_as_in_the_whole(
    synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    """Probes are coded the way the final is: so what was measured is what is written."""
    clip, encoder = open_clip(synthetic_clip("plain.mp4")), get_encoder("vvc")
    options = EncodeOptions(PRESETS["vvc"])
    plan = plan_of(25, QPS)
    alone = [encode_segment(s, clip, encoder, tmp_path / str(s.start), options) for s in plan.segments]
    whole = encode(plan, clip, encoder, tmp_path / "out.266", Timing(clip.time_base, clip.pts), options)
    assert sum(piece.bits for piece in alone) == whole.bits == coded_bits(tmp_path / "out.266")
    assert [picture for piece in alone for picture in piece.pictures] == list(whole.pictures)
    assert [piece.pictures[0].qp for piece in alone] == list(QPS)


def test_the_result_tells_what_was_done(synthetic_clip: Callable[[str], Path], tmp_path: Path) -> None:
    clip, done = open_clip(synthetic_clip("plain.mp4")), []
    output = tmp_path / "out.mp4"
    output.write_text("an older file")
    timing = Timing(clip.time_base, clip.pts)
    result = encode(
        plan_of(25, [30, 40]), clip, get_encoder("vvc"), output, timing, EncodeOptions("faster"), on_frames=done.append
    )
    assert (result.output, result.encoder, result.preset, result.n_frames) == (output, "vvenc", "faster", 25)
    assert sorted(done) == [12, 13]
    assert result.file_bytes == output.stat().st_size > result.bits / 8 > 0
    assert result.bits == coded_bits(output)
    assert len(result.commands) == 2
    assert result.seconds > 0
    assert "libvvenc" in result.encoder_version
    assert sorted(tmp_path.iterdir()) == [output]


def test_flat_timing_counts_at_the_rate(tmp_path: Path) -> None:
    timing = flat_timing(3, Fraction(30000, 1001))
    assert [pts * timing.time_base for pts in timing.pts] == [Fraction(1001 * at, 30000) for at in range(3)]
    output = tmp_path / "out.mp4"
    encode(flat_plan(3, 40), Frames(scene(96, 64, 3)), get_encoder("vvc"), output, timing, EncodeOptions("faster"))
    assert open_clip(output).timestamps == tuple(pts * timing.time_base for pts in timing.pts)


class Odd(VvencEncoder):
    """VVenC run by a shell script: `script` has {argv} for the true command and {output} for its file."""

    def __init__(self, script: str) -> None:
        super().__init__()
        self.script = script

    def command(self, job: EncodeJob) -> EncodeCommand:
        argv = " ".join(f"'{word}'" for word in super().command(job).argv)
        return EncodeCommand(("sh", "-c", self.script.format(argv=argv, output=job.output, frames=job.n_frames)))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 0", "coded 0 of 25 pictures"),
        ("touch {output}", "coded 0 of 25 pictures"),
        ("echo text > {output}", "coded 0 of 25 pictures"),
        ("{argv} -frames:v 24 -y {output}.mp4 && mv {output}.mp4 {output}", "coded 24 of 25 pictures"),
        ("{argv}; echo out of luck >&2; exit 9", r"vvenc on frames 0\.\.24 at QP 40: .*exit 9; .*out of luck"),
        ("kill -SEGV $$", "signal SIGSEGV"),
    ],
)
def test_encoders_that_fail_or_lie_leave_nothing(
    script: str, words: str, synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    clip = open_clip(synthetic_clip("plain.mp4"))
    output = tmp_path / "out.mp4"
    output.write_text("an older file")
    timing = Timing(clip.time_base, clip.pts)
    with pytest.raises(EncoderError, match=words) as failure:
        encode(flat_plan(25, 40), clip, Odd(script), output, timing, EncodeOptions("faster"))
    assert "\n" not in str(failure.value)
    assert output.read_text() == "an older file"
    assert sorted(tmp_path.iterdir()) == [output]


def test_the_first_failure_kills_the_others_at_once(synthetic_clip: Callable[[str], Path], tmp_path: Path) -> None:
    clip = open_clip(synthetic_clip("plain.mp4"))
    script = f"if [ {{frames}} = 5 ]; then echo $$ >> {tmp_path}/pids; exec sleep 1000; fi; sleep 1; exit 3"
    plan = EncodePlan((Segment(0, 5, 40), Segment(5, 10, 41), Segment(10, 13, 42), Segment(13, 25, 43)))
    timing = Timing(clip.time_base, clip.pts)
    began = time.monotonic()
    with pytest.raises(EncoderError, match="exit 3"):
        encode(plan, clip, Odd(script), tmp_path / "out.mp4", timing, EncodeOptions("faster", workers=3))
    assert time.monotonic() - began < 20
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pids"]


def test_a_hanging_encoder_is_killed_by_the_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncodeJob, "timeout_s", property(lambda job: 1.0))
    frames, timing = Frames(scene(96, 64, 3)), flat_timing(3, Fraction(25))
    script = "cat > /dev/null; echo almost done >&2; sleep 1000"
    began = time.monotonic()
    with pytest.raises(EncoderError, match="no end after 1 s, killed; its last words: almost done"):
        encode(flat_plan(3, 40), frames, Odd(script), tmp_path / "out.mp4", timing, EncodeOptions("faster"))
    assert time.monotonic() - began < 20
    assert list(tmp_path.iterdir()) == []


def test_the_watchdog_gives_slow_presets_their_time() -> None:
    """Measured on a shared core: preset slower at QP 0 takes 5e-4 s per sample."""
    job = EncodeJob(
        VideoFormat(7680, 4320, Fraction(25)), "yuv420p10le", (Segment(0, 1, 0),), "slower", "still", Path(), Path()
    )
    assert job.timeout_s > 3 * 5e-4 * 7680 * 4320


class Broken(Frames):
    """A source whose file turns out to be damaged."""

    def read(self, start: int, stop: int, pix_fmt: PixelFormat) -> Iterator[bytes]:
        yield from super().read(start, min(stop, 5), pix_fmt)
        if stop > 5:
            raise InputError("in.mp4: frame 5 does not decode; copy it again")


def test_damage_that_the_source_meets_on_the_way_is_its_own_error(tmp_path: Path) -> None:
    frames = Broken(scene(96, 64, 12))
    with pytest.raises(InputError, match="frame 5 does not decode"):
        encode(
            plan_of(12, [40, 41, 42]), frames, get_encoder("vvc"), tmp_path / "out.mp4",
            flat_timing(12, Fraction(25)), EncodeOptions("faster", workers=2),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_plans_and_suffixes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    frames, encoder = Frames(scene(96, 64, 3)), get_encoder("vvc")
    with pytest.raises(InputError, match="covers 4 frames, the source has 3"):
        encode(flat_plan(4, 40), frames, encoder, tmp_path / "out.mp4", flat_timing(4, Fraction(25)), EncodeOptions())
    with pytest.raises(InputError, match="unknown suffix"):
        encode(flat_plan(3, 40), frames, encoder, tmp_path / "out.avi", flat_timing(3, Fraction(25)), EncodeOptions())
    with pytest.raises(InputError):
        check_suffix(tmp_path / "out.265", encoder)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_verify_is_not_kept(
    synthetic_clip: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ffmpeg that codes well but cuts what it copies, as a bad disk would."""
    real = get_encoder("vvc").capabilities().path
    wrapper = tmp_path / "ffmpeg"
    wrapper.write_text(
        f'#!/bin/sh\n"{real}" "$@" || exit\n'
        'for word; do case "$word" in */final.*) truncate -s 6000 "$word";; esac; done\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("VCM_FFMPEG", str(wrapper))
    output = tmp_path / "out.mp4"
    with pytest.raises(VerificationError, match=r"out\.mp4.* not kept"):
        encode_clip(synthetic_clip("plain.mp4"), output, [30, 40])
    assert sorted(tmp_path.iterdir()) == [wrapper]


def test_a_group_that_is_closed_stops_a_segment(synthetic_clip: Callable[[str], Path], tmp_path: Path) -> None:
    clip, encoder, group = open_clip(synthetic_clip("plain.mp4")), get_encoder("vvc"), ProcessGroup()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            encode_segment(Segment(0, 25, 0), clip, encoder, tmp_path / "work", EncodeOptions("slower"), group)
        except EncoderError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)
    group.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert len(failures) == 1


def test_ten_bits_and_odd_sizes(synthetic_clip: Callable[[str], Path], tmp_path: Path) -> None:
    for codec in PRESETS:
        for name, count in (("ten_bit.mp4", 25), ("odd.mkv", 12)):
            output = tmp_path / f"{codec}-{name}.mp4"
            encode_clip(synthetic_clip(name), output, [12, 16], codec)
            before, after = open_clip(synthetic_clip(name)), open_clip(output)
            assert decoded_frames(output) == count
            assert after.color == before.color
            assert after.bit_depth == (8 if codec == "hevc-kvazaar" else 10)
            assert luma_psnr(synthetic_clip(name), output).min() > 33


COLOR_OPTIONS = ("color_primaries", "color_trc", "colorspace", "range")


@pytest.mark.parametrize("codec", PRESETS)
@pytest.mark.parametrize(
    "options",
    [
        ("bt709", "bt709", "bt709", "pc"),
        ("bt2020", "smpte2084", "bt2020nc", "tv"),
        ("bt2020", "arib-std-b67", "bt2020nc", "tv"),
        ("smpte170m", "smpte170m", "smpte170m", "tv"),
        ("bt470bg", "iec61966-2-1", "bt470bg", "pc"),
    ],
)
def test_colour_tags_are_kept(
    codec: str, options: tuple[str, str, str, str], synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    source = tmp_path / "tagged.mkv"
    tags = "setparams=" + ":".join(map("=".join, zip(COLOR_OPTIONS, options, strict=True)))
    ffmpeg("-i", synthetic_clip("one_frame.mp4"), "-vf", tags, "-c:v", "libx264", "-qp", "8", source)
    before = open_clip(source)
    color = before.color
    assert (color.primaries, color.transfer, color.matrix, color.range) == options
    suffixes = {"vvc": (".mp4", ".mkv", ".266"), "hevc": (".mp4", ".mkv", ".265")}.get(codec, (".mp4",))
    for suffix in suffixes:
        output = tmp_path / f"out{suffix}"
        result = encode_clip(source, output, [10], codec)
        # Also where tags switch VVenC into a mode for HDR.
        assert [picture.qp for picture in result.pictures] == [10]
        assert open_clip(output).color == before.color, suffix
        pictures = [next(iter(open_clip(path).read_rgb([0]))).astype(int) for path in (source, output)]
        assert abs(pictures[0] - pictures[1]).mean() < 2.5
