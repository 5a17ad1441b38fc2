"""vcm-encode as a user runs it: pictures and clips in, files out that play, and what it says of them."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec_wrappers.join import CodedPiece, coded_bits, coded_piece
from codec_wrappers.verify import decoded_frames
from tests.codec_wrappers.joining import packets
from tests.vcm_ratecontrol.encode_runs import FAST, Run, digest, left_in, machine_options, vcm_encode, wrapper
from tests.vcm_ratecontrol.test_events import check_event
from vcm_ratecontrol.encoding import EncodeRequest, encode_file
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.true_size import without_padding


@pytest.fixture(scope="module")
def photo(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real photograph, made small: 181x121, both sides odd."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    with Image.open(picture("coco/000000465822.jpg")) as image:
        image.convert("RGB").crop((100, 50, 462, 292)).resize((181, 121)).save(path)
    return path


@pytest.fixture(scope="module")
def street(clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of a real street, made small: 160x120, 24 frames."""
    from tests.codec_wrappers.joining import ffmpeg

    path = tmp_path_factory.mktemp("street") / "street.mp4"
    source = clip("intel_car-detection.mp4")
    ffmpeg("-i", source, "-frames:v", "24", "-vf", "scale=160:120", "-an", "-c:v", "libx264", "-crf", "10", path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all: what one test has probed the next need not."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def encoded(photo: Path, machines_dir: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """The photograph at a target of 0.8, and how the command ended."""
    output = tmp_path_factory.mktemp("encoded") / "photo.mp4"
    options = [*machine_options(machines_dir), "--probes", "7", "--json"]
    return output, vcm_encode(photo, "-o", output, *options, cache=cache)


def test_a_picture_to_a_target(photo: Path, encoded: tuple[Path, Run]) -> None:
    output, run = encoded
    assert (run.code, run.err) == (0, "")
    for event in run.events:
        check_event(event)
    end = run.end
    assert decoded_frames(output) == 1
    assert without_padding(open_clip(output)).upright_size == (181, 121)
    assert list(left_in(output.parent)) == ["photo.mp4"]
    assert (end["mode"], end["target"], end["task"], end["reached"]) == ("measured", 0.8, "both", True)
    assert end["smr"] >= 0.8
    (segment,) = end["segments"]
    assert segment["qp"] == segment["intra_qp"]
    assert end["bits"] == segment["bits"] == coded_bits(output)
    assert end["file_bytes"] == output.stat().st_size
    assert end["bpp"] == pytest.approx(end["bits"] / (181 * 121))
    assert end["kbps"] is None
    assert end["anchor"]["qp"] == 22
    assert end["anchor"]["saving"] == pytest.approx(1 - end["bits"] / end["anchor"]["bits"])
    # What it did on the way is told as it is done.
    probes = run.of("probe")
    assert len({probe["qp"] for probe in probes}) == len(probes) == end["probes"] <= 7
    assert {"qp": segment["qp"], "smr": end["smr"]}.items() <= next(
        probe for probe in probes if probe["qp"] == segment["qp"]
    ).items()
    assert [event["phase"] for event in run.of("phase")][-3:] == ["probing", "encoding", "finishing"]
    (ended,) = run.of("segment")
    assert (ended["qp"], ended["reached"]) == (segment["qp"], True)


def test_what_was_measured_is_what_was_written(photo: Path, encoded: tuple[Path, Run], machines_dir: Path) -> None:
    """vcm-measure, on the file that was written, comes to the same SMR and bits."""
    output, run = encoded
    measured = vcm_encode(
        photo, output, "--machines", machines_dir, "--names", ",".join(FAST), "--json", module="measure"
    ).end
    assert measured["smr"] == pytest.approx(run.end["smr"])
    assert measured["bits"] == run.end["bits"]
    assert measured["bpp"] == pytest.approx(run.end["bpp"])
    assert measured["file_bytes"] == run.end["file_bytes"]


@pytest.mark.parametrize("codec", ["vvc", "hevc", "av1"])
def test_a_clip_to_a_target_measured_on_the_same_frames(
    codec: str, street: Path, machines_dir: Path, cache: Path, tmp_path: Path
) -> None:
    output = tmp_path / "street.mkv"
    options = ["--segment-seconds", "0.5", "--frames", "2", "--codec", codec, "--probes", "4", "--pool", "each"]
    given = [*machine_options(machines_dir, 0.6), *options, "--no-anchor", "--json"]
    run = vcm_encode(street, "-o", output, *given, cache=cache)
    assert (run.code, run.err) == (0, "")
    end = run.end
    assert decoded_frames(output) == end["n_frames"] == 24
    assert end["kbps"] == pytest.approx(end["bits"] / end["duration"] / 1000)
    segments = end["segments"]
    assert [segment["start"] for segment in segments] == [0, *(segment["stop"] for segment in segments[:-1])]
    assert segments[-1]["stop"] == 24
    assert len(segments) > 1
    assert all(segment["intra_qp"] == segment["qp"] and segment["probes"] <= 4 for segment in segments)
    assert end["reached"] == all(segment["reached"] for segment in segments)
    if len({segment["stop"] - segment["start"] for segment in segments}) == 1:
        # Segments of one length: the middles of their halves are those of the whole clip's equal parts.
        frames = 2 * len(segments)
        arguments = ["--machines", machines_dir, "--names", ",".join(FAST), "--frames", frames, "--json"]
        measured = vcm_encode(street, output, *arguments, module="measure").end
        assert measured["smr"] == pytest.approx(end["smr"])
        assert measured["smr_min"] == pytest.approx(end["smr_min"])
        assert measured["bits"] == end["bits"]


def test_the_result_is_the_same_with_any_number_of_workers(
    synthetic_clip: Callable[[str], Path], machines_dir: Path, tmp_path: Path
) -> None:
    files, reports = set(), []
    for workers in (1, 2, 4):
        output = tmp_path / f"{workers}.mp4"
        options = ["--workers", workers, "--probes", "2", "--no-cache", "--no-anchor", "--json"]
        names = ("mobilenet_v1_0.25_128_quant", "yolo_fastestv2")
        run = vcm_encode(
            synthetic_clip("three_scenes.mp4"), "-o", output, *machine_options(machines_dir, 0.9, names), *options
        )
        assert run.code == 0, run.err
        files.add(digest(output))
        reports.append([(s["qp"], s["smr"], s["bits"]) for s in run.end["segments"]])
    assert len(files) == 1
    assert reports[0] == reports[1] == reports[2]
    assert len(reports[0]) == 3
    source = synthetic_clip("three_scenes.mp4")
    assert packets(tmp_path / "1.mp4", "audio") == packets(source, "audio")


def test_what_is_cached_is_not_probed_again(
    photo: Path, encoded: tuple[Path, Run], machines_dir: Path, cache: Path, tmp_path: Path
) -> None:
    output = tmp_path / "again.mp4"
    log = tmp_path / "log"
    counted = wrapper(tmp_path / "ffmpeg", f'case "$*" in *rawvideo*) echo x >> {log};; esac')
    options = [*machine_options(machines_dir), "--probes", "7", "--no-anchor", "--json"]
    run = vcm_encode(photo, "-o", output, *options, cache=cache, env=counted)
    assert run.code == 0
    assert digest(output) == digest(encoded[0])
    assert run.of("probe") == [
        {**probe, "seconds": again["seconds"]}
        for probe, again in zip(encoded[1].of("probe"), run.of("probe"), strict=True)
    ]
    # One encode: the file itself.
    assert log.read_text().split() == ["x"]


def test_relative_names_and_names_with_blanks(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "my photo.png").write_bytes(photo.read_bytes())
    run = vcm_encode("my photo.png", "-o", "out é.mp4", "--qp", 40, cwd=tmp_path)
    assert run.code == 0, run.err
    assert decoded_frames(tmp_path / "out é.mp4") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my photo.png", "out é.mp4"]


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("vvc", "a.266"),
        ("vvc", "a.MP4"),
        ("hevc", "a.265"),
        ("hevc-kvazaar", "a.mkv"),
        ("av1", "a.obu"),
        ("x265", "a.m4v"),
    ],
)
def test_every_codec_and_container_for_a_picture(codec: str, name: str, photo: Path, tmp_path: Path) -> None:
    run = vcm_encode(photo, "-o", tmp_path / name, "--qp", 33, "--codec", codec, "--no-anchor", "--json")
    assert run.code == 0, run.err
    (segment,) = run.end["segments"]
    assert segment["intra_qp"] == 33
    assert decoded_frames(tmp_path / name) == 1
    assert run.end["bits"] == coded_bits(tmp_path / name)


def test_all_kinds_of_pictures(photo: Path, tmp_path: Path) -> None:
    with Image.open(photo) as image:
        grey = image.convert("L")
        grey.save(tmp_path / "grey.png")
        image.convert("CMYK").save(tmp_path / "cmyk.jpg")
        alpha = image.convert("RGBA")
        alpha.putalpha(image.convert("L"))
        alpha.save(tmp_path / "alpha.png")
        turned = Image.Exif()
        turned[0x0112] = 6
        image.save(tmp_path / "exif.jpg", exif=turned, quality=95)
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
        image.crop((0, 0, 1, 1)).save(tmp_path / "one.png")
        image.save(tmp_path / "photo.webp")
        image.save(tmp_path / "photo.tiff")
        image.save(tmp_path / "photo.bmp")
    sources = sorted(tmp_path.iterdir())
    for source in sources:
        output = tmp_path / f"{source.name}.mp4"
        encode_file(EncodeRequest(source, output, qp=4, anchor=False))
        truth = next(iter(open_clip(source).read_rgb()))
        back = next(iter(without_padding(open_clip(output)).read_rgb()))
        assert back.shape == truth.shape, source
        assert np.abs(back.astype(int) - truth).mean() < 3.5, source
    assert open_clip(tmp_path / "exif.jpg.mp4").upright_size != open_clip(tmp_path / "grey.png.mp4").upright_size


def test_decoding_gives_a_grey_picture_back_within_a_level(photo: Path, tmp_path: Path) -> None:
    with Image.open(photo) as image:
        image.convert("L").save(tmp_path / "grey.png")
    assert vcm_encode(tmp_path / "grey.png", "-o", tmp_path / "grey.mp4", "--qp", 0, "--no-anchor").code == 0
    assert vcm_encode(tmp_path / "grey.mp4", "-o", tmp_path / "back.png", module="decode").code == 0
    with Image.open(tmp_path / "grey.png") as before, Image.open(tmp_path / "back.png") as after:
        assert after.size == before.size
        difference = np.asarray(after.convert("RGB")).astype(int) - np.asarray(before.convert("RGB"))
    assert np.abs(difference).mean() <= 1.0


def test_the_summary_says_what_a_person_wants_to_know(photo: Path, tmp_path: Path) -> None:
    run = vcm_encode(photo, "-o", tmp_path / "out.mp4", "--qp", 30)
    assert (run.code, run.err) == (0, "")  # quiet in pipes: no progress display
    rows = dict(re.findall(r"^(\w+) +(\S.*?) *$", run.out, re.MULTILINE))
    assert set(rows) >= {"output", "encoder", "QP", "bits", "saving", "time"}
    assert rows["QP"] == "30"
    assert re.fullmatch(r"[\d,]+  \(\d\.\d+ bpp\)", rows["bits"])
    assert re.fullmatch(r"\d+\.\d% against QP 22", rows["saving"])
    assert f"({(tmp_path / 'out.mp4').stat().st_size:,} bytes)" in rows["output"]


def test_no_saving_is_called_none(photo: Path, tmp_path: Path) -> None:
    run = vcm_encode(photo, "-o", tmp_path / "out.mp4", "--qp", 18)
    rows = dict(re.findall(r"^(\w+) +(\S.*?) *$", run.out, re.MULTILINE))
    assert re.fullmatch(r"none: \d+\.\d% more than QP 22", rows["saving"])


def test_a_dry_run_prints_command_lines_that_work_and_writes_nothing(photo: Path, tmp_path: Path) -> None:
    for codec in ("vvc", "hevc-kvazaar"):
        run = vcm_encode(photo, "-o", tmp_path / "out.mp4", "--qp", 37, "--codec", codec, "--dry-run", "--no-anchor")
        assert (run.code, run.err) == (0, "")
        assert list(tmp_path.iterdir()) == []
        (line,) = run.out.splitlines()
        argv = shlex.split(line)
        assert Path(argv[0]).is_file()
        assert argv[-1] == str(tmp_path / "out.0000000-0000001-37.piece.mp4")
        # Exact: given the frames and a place to write, it gives the very bits that vcm-encode writes.
        again = tmp_path / "again.mp4"
        width, height = map(int, argv[argv.index("-s") + 1].split("x"))
        layout = argv[argv.index("-pix_fmt") + 1]
        raw = next(iter(open_clip(photo).read(0, 1, layout)))  # type: ignore[arg-type]
        assert len(raw) == width * height * 3 // 2 * (2 if "10" in layout else 1)
        subprocess.run([*argv[:-1], str(again)], input=raw, check=True, capture_output=True, timeout=60)
        full = vcm_encode(photo, "-o", tmp_path / "out.mp4", "--qp", 37, "--codec", codec, "--no-anchor", "--json")
        assert coded_piece(again) == CodedPiece(1, full.end["bits"])
        assert full.end["commands"] == [argv]
        for path in list(tmp_path.iterdir()):
            path.unlink()


def test_a_dry_run_finds_the_qps_of_the_real_run(
    photo: Path, encoded: tuple[Path, Run], machines_dir: Path, cache: Path, tmp_path: Path
) -> None:
    options = [*machine_options(machines_dir), "--probes", "7", "--dry-run", "--json"]
    run = vcm_encode(photo, "-o", tmp_path / "out.mp4", *options, cache=cache)
    assert run.code == 0
    assert [s["qp"] for s in run.end["segments"]] == [s["qp"] for s in encoded[1].end["segments"]]
    assert list(tmp_path.iterdir()) == []
    (line,) = run.end["commands"]
    assert line[line.index("-qp") + 1] == str(run.end["segments"][0]["qp"])
    # The accepted probe is the final encode, so that its bits are known.
    assert (run.end["bits"], run.end["file_bytes"]) == (encoded[1].end["bits"], None)
    flat = vcm_encode(photo, "-o", tmp_path / "out.mp4", "--qp", "37", "--dry-run", "--json")
    assert [flat.end[name] for name in ("bits", "predicted_bits", "file_bytes", "bpp")] == [None] * 4


def test_an_unreachable_target_is_a_best_effort_or_with_strict_an_error(
    photo: Path, machines_dir: Path, cache: Path, tmp_path: Path
) -> None:
    """All machines at once, in two probes: the classifiers flip between near ties on this picture."""
    source, output = tmp_path / "small.png", tmp_path / "out.mp4"
    source.write_bytes(photo.read_bytes())
    options = [*machine_options(machines_dir, 1.0), "--probes", "2", "--no-anchor"]
    strict = vcm_encode(source, "-o", output, *options, "--strict", "--json", cache=cache)
    assert strict.code == 3
    assert strict.end["error"]["type"] == "TargetMissedError"
    assert re.search(r"small\.png: SMR 1\.0 is not reached .* lower the target", strict.end["error"]["message"])
    assert list(left_in(tmp_path)) == ["small.png"]
    effort = vcm_encode(source, "-o", output, *options, "--json", cache=cache)
    assert effort.code == 0
    assert effort.end["reached"] is False
    assert effort.end["smr"] == max(probe["smr"] for probe in effort.of("probe")) < 1.0
    assert decoded_frames(output) == 1
    shown = vcm_encode(source, "-y", "-o", output, *options, cache=cache)
    assert "NOT reached: best effort written" in shown.out


def test_a_map_that_changes_nothing_is_exit_5(photo: Path, tmp_path: Path) -> None:
    """A kvazaar that is started without its map, as older builds silently did."""
    from codec_wrappers.qpmap import QPMap
    from codec_wrappers.qpmap_io import write_qpmap

    qp = np.full((1, 2, 3), 30, np.int16)
    qp[0, 0, 0] = 40
    write_qpmap(QPMap(qp, 64, 181, 121), tmp_path / "map.npz")
    # Word by word to the end of the list, without the map; but not in the trial that asks whether it takes maps.
    forget = 'for w; do shift; set -- "$@" "$(echo "$w" | sed -E "s/,?roi=[^,]*//")"; done'
    forgets = wrapper(tmp_path / "ffmpeg", f'case "$*" in *"-s 64x64"*) ;; *) {forget};; esac')
    arguments = [photo, "-o", tmp_path / "out.mp4", "--qp", 30, "--codec", "hevc-kvazaar"]
    run = vcm_encode(*arguments, "--qp-map", tmp_path / "map.npz", "--json", env=forgets)
    assert run.code == 5, run.err
    assert run.end["error"]["type"] == "MapHadNoEffectError"
    assert sorted(left_in(tmp_path)) == ["ffmpeg", "map.npz"]
    assert vcm_encode(*arguments, "--qp-map", tmp_path / "map.npz").code == 0


def test_json_is_one_object_per_line_and_nothing_else(photo: Path, tmp_path: Path) -> None:
    run = vcm_encode(photo, "-o", tmp_path / "out.mp4", "--qp", 30, "--json")
    assert json.loads(run.out.splitlines()[0])["event"] == "start"
    seconds = [event["seconds"] for event in run.events]
    assert seconds == sorted(seconds)
    assert run.end["job_seconds"] <= run.end["seconds"] + 0.01
