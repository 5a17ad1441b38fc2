"""vcm-measure and what it is made of: real machines on real pictures and clips that real encoders coded."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import InputError
from codec_wrappers.still import StillSource, encode_still
from tests.vcm_ratecontrol.test_events import check_event
from vcm_ratecontrol.cli.measure import main
from vcm_ratecontrol.fidelity import Fidelity, compare, psnr_db
from vcm_ratecontrol.fidelity import luma as luma_of
from vcm_ratecontrol.machines import MachineLibrary
from vcm_ratecontrol.machines.machine import MachineRunError
from vcm_ratecontrol.measure import DEFAULT_FRAMES, MachineRoom, default_indices, measure, run_originals, score_frames
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.satisfaction import Thresholds, verdict
from vcm_ratecontrol.true_size import cropped_to, without_padding

RGB = npt.NDArray[np.uint8]
REPOSITORY = Path(__file__).resolve().parents[2]

# One of each runtime and task: ONNX Runtime, LiteRT, ncnn.
NAMES = ("nanodet_m_0.5x", "mobilenet_v1_0.25_128_quant", "squeezenet_v1.1_ncnn_fp16@ncnn")
PHOTO = "coco/000000465822.jpg"  # 500x375: an odd height


@pytest.fixture(scope="module")
def library(machines_dir: Path) -> MachineLibrary:
    return MachineLibrary.load(machines_dir, NAMES)


@pytest.fixture(scope="module")
def photo(picture: Callable[[str], Path]) -> Path:
    return picture(PHOTO)


@pytest.fixture(scope="module")
def coded(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The photo coded by VVenC at a QP, as a raw stream."""
    folder = tmp_path_factory.mktemp("coded")

    def make(qp: int) -> Path:
        path = folder / f"qp{qp}.266"
        if not path.exists():
            rgb = next(open_clip(photo).read_rgb())
            path.write_bytes(encode_still(StillSource(rgb), qp, get_encoder("vvc")).data)
        return path

    return make


def ffmpeg(*arguments: str | Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=60)


def run(original: Path, encoded: Path, machines: Path, *arguments: str) -> Result:
    names = [] if "--names" in arguments else ["--names", ",".join(NAMES)]
    return CliRunner().invoke(main, [str(original), str(encoded), "--machines", str(machines), *names, *arguments])


def end_of(result: Result) -> dict[str, Any]:
    lines = [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]
    for line in lines:
        check_event(line)
    assert [line["event"] for line in lines].count("end") == 1
    end: dict[str, Any] = lines[-1]
    assert end["exit_code"] == result.exit_code
    return end


def test_a_picture_against_itself_satisfies_all(photo: Path, machines_dir: Path) -> None:
    end = end_of(run(photo, photo, machines_dir, "--json"))
    assert (end["status"], end["smr"], end["smr_min"], end["smr_frames"]) == ("ok", 1.0, 1.0, 1)
    assert end["psnr_db"] is None
    assert end["ssim"] == pytest.approx(1)
    assert end["bits"] == 8 * photo.stat().st_size == 8 * end["file_bytes"]
    assert end["bpp"] == pytest.approx(end["bits"] / (500 * 375))
    assert (end["width"], end["height"], end["n_frames"], end["kbps"], end["frames"]) == (500, 375, 1, None, [0])
    assert [machine["machine"] for machine in end["machines"]] == list(NAMES)
    assert all(machine["satisfied"] == machine["valid"] == 1 for machine in end["machines"])


def test_a_coded_still_is_cropped_and_judged(
    photo: Path, coded: Callable[[int], Path], machines_dir: Path, library: MachineLibrary
) -> None:
    fine, coarse = (end_of(run(photo, coded(qp), machines_dir, "--json")) for qp in (22, 63))
    assert fine["smr"] > coarse["smr"]
    assert fine["bits"] > 10 * coarse["bits"] > 0
    assert fine["psnr_db"] > 35 > 25 > coarse["psnr_db"]
    assert fine["ssim"] > 0.9 > coarse["ssim"]
    assert (fine["width"], fine["height"]) == (500, 375)
    # By hand, without any of our code for threads, cropping or tables.
    original, decoded = next(open_clip(photo).read_rgb()), next(open_clip(coded(63)).read_rgb())[:375, :500]
    before, after = library.run(original), library.run(decoded)
    verdicts = [verdict(name, before[name], after[name]) for name in NAMES]
    assert [m["satisfied"] for m in coarse["machines"]] == [int(v.satisfied) for v in verdicts]
    assert [m["score"] for m in coarse["machines"] if m["valid"]] == [v.score for v in verdicts if v.valid]


def test_the_table_tells_a_person_the_same(photo: Path, coded: Callable[[int], Path], machines_dir: Path) -> None:
    result = run(photo, coded(63), machines_dir)
    end = end_of(run(photo, coded(63), machines_dir, "--json"))
    assert result.exit_code == 0
    assert result.stderr == ""
    for machine in end["machines"]:
        line = next(line for line in result.stdout.splitlines() if machine["machine"] in line)
        assert ("not satisfied" not in line) == bool(machine["satisfied"])
    assert f"{end['smr']:.3f}" in result.stdout
    assert f"{end['bits']:,} in 1 frame" in result.stdout
    assert f"{end['psnr_db']:.2f} dB" in result.stdout


def test_task_and_thresholds_choose_whose_verdict_counts(
    photo: Path, coded: Callable[[int], Path], machines_dir: Path
) -> None:
    only = end_of(run(photo, coded(22), machines_dir, "--json", "--task", "classification"))
    assert [machine["task"] for machine in only["machines"]] == ["classification"] * 2
    assert only["smr_detection"] is None
    names = ("--names", NAMES[0])
    blind = end_of(run(photo, coded(22), machines_dir, "--json", *names, "--t-conf", "1"))
    assert (blind["smr"], blind["smr_min"], blind["smr_frames"]) == (None, None, 0)
    assert blind["thresholds"] == {"confidence": 1.0, "iou": 0.5, "score": 0.5, "label_confidence": 0.0}
    assert "no machine has an opinion" in run(photo, coded(22), machines_dir, *names, "--t-conf", "1").stdout
    mild = end_of(run(photo, coded(63), machines_dir, "--json", *names, "--t-score", "0"))
    assert mild["smr"] == 1.0
    unsure = end_of(run(photo, coded(22), machines_dir, "--json", "--names", NAMES[1], "--t-label", "1"))
    assert unsure["machines"][0]["valid"] == 0


def test_a_clip_is_sampled_evenly(clip: Callable[[str], Path], machines_dir: Path, tmp_path: Path) -> None:
    source, encoded = clip("mmaction_demo.mp4"), tmp_path / "coded.mp4"
    short = tmp_path / "short.mkv"
    ffmpeg("-i", source, "-frames:v", "40", "-an", "-c:v", "ffv1", short)
    ffmpeg("-i", short, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "qp=45:log-level=error", encoded)
    result = run(short, encoded, machines_dir, "--json", "--frames", "4")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    frames = [line for line in lines if line["event"] == "frame"]
    assert [frame["index"] for frame in frames] == [5, 15, 25, 35]
    end = end_of(result)
    values = [frame["smr"] for frame in frames if frame["smr"] is not None]
    assert end["smr"] == pytest.approx(np.mean(values))
    assert end["smr_min"] == min(values)
    assert end["n_frames"] == 40
    duration = 40 / float(open_clip(short).frame_rate)  # Matroska rounds its times to 1 ms
    assert end["kbps"] == pytest.approx(end["bits"] / duration / 1000, rel=1e-3)
    assert 0 < end["bits"] < 8 * end["file_bytes"]
    assert any(line["event"] == "progress" and line["done"] == 4 for line in lines)
    table = run(short, encoded, machines_dir, "--frames", "4").stdout
    assert "of 4 frames" in table
    assert "mean of 4 frames; minimum" in table
    assert "kbps" in table


def test_the_command_and_the_function_look_at_as_many_frames() -> None:
    frames = next(option for option in main.params if option.name == "frames")
    assert frames.default == DEFAULT_FRAMES


def test_all_frames_of_a_short_clip() -> None:
    class Short:
        n_frames = 3

    assert default_indices(Short(), 16) == (0, 1, 2)  # type: ignore[arg-type]


def test_bad_input_is_one_line_with_the_way_out(
    photo: Path, coded: Callable[[int], Path], machines_dir: Path, picture: Callable[[str], Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a film")
    other = picture("coco/000000052891.jpg")
    cases: list[tuple[tuple[Any, ...], int, str]] = [
        ((tmp_path / "none.png", photo, machines_dir), 2, "none.png: no such file"),
        ((photo, text, machines_dir), 2, "text.mp4"),
        ((photo, tmp_path, machines_dir), 2, "is a folder"),
        ((photo, other, machines_dir), 2, "is 640x427, the original 500x375"),
        ((photo, coded(22), tmp_path), 2, "manifest.json"),
        ((photo, coded(22), machines_dir, "--names", "hal9000"), 2, "no machine 'hal9000'"),
        ((photo, coded(22), machines_dir, "--t-conf", "1.01"), 2, "--t-conf"),
        ((photo, coded(22), machines_dir, "--frames", "0"), 2, "--frames"),
        ((photo, coded(22), machines_dir, "--task", "driving"), 2, "--task"),
    ]
    for arguments, code, word in cases:
        result = run(*arguments)
        (line,) = result.stderr.splitlines()
        assert (result.exit_code, result.stdout) == (code, ""), arguments
        assert line.startswith("error: ")
        assert word in line
    assert end_of(run(photo, text, machines_dir, "--json"))["error"]["type"] == "InputError"


def test_another_number_of_frames_is_refused(machines_dir: Path, synthetic_clip: Callable[[str], Path]) -> None:
    result = run(synthetic_clip("plain.mp4"), synthetic_clip("one_frame.mp4"), machines_dir)
    assert result.exit_code == 2
    assert "has 1 frames, the original 25" in result.stderr


def test_a_broken_model_file_is_exit_7(photo: Path, machines_dir: Path, shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "machines"
    folder.mkdir()
    shutil.copytree(machines_dir / NAMES[0], folder / NAMES[0])
    shutil.copy(shared_data / "manifest.json", tmp_path)
    for file in (folder / NAMES[0]).iterdir():
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[:-1000])
    result = run(photo, photo, folder, "--names", NAMES[0])
    assert (result.exit_code, result.stdout) == (7, "")
    (line,) = result.stderr.splitlines()
    assert NAMES[0] in line


def test_the_real_command_is_quiet_in_pipes_and_keeps_its_inputs(
    photo: Path, coded: Callable[[int], Path], machines_dir: Path
) -> None:
    before = coded(22).read_bytes()
    result = subprocess.run(
        [REPOSITORY / "bin" / "vcm-measure", photo, coded(22), "--machines", machines_dir, "--names", ",".join(NAMES)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")  # LiteRT's greeting does not show
    assert "SMR" in result.stdout
    assert coded(22).read_bytes() == before


def test_originals_are_run_once_for_many_probes(
    photo: Path, coded: Callable[[int], Path], library: MachineLibrary
) -> None:
    original = next(open_clip(photo).read_rgb())
    calls: list[int] = []
    known = run_originals([original], library, on_frame=lambda: calls.append(1))
    assert len(calls) == 1
    with MachineRoom(library, workers=2) as room:
        for qp in (22, 63):
            decoded = list(cropped_to(open_clip(coded(qp)), open_clip(photo)).read_rgb())
            assert score_frames(known, decoded, room) == score_frames([original], decoded, library)
            assert score_frames(known, decoded, room, indices=[7])[0].index == 7


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_verdicts_do_not_depend_on_the_number_of_threads(workers: int, photo: Path, library: MachineLibrary) -> None:
    rgb = next(open_clip(photo).read_rgb())
    rough = (rgb // 64 * 64).astype(np.uint8)
    with MachineRoom(library, workers) as room:
        scored = score_frames([rgb] * 3, [rgb, rough, rgb], room)
    alone = score_frames([rgb], [rough], library)
    assert [frame.smr().value for frame in scored[::2]] == [1.0, 1.0]
    assert scored[1].verdicts == alone[0].verdicts
    assert [v.machine for v in scored[1].verdicts] == list(NAMES)


def test_numbers_of_frames_must_agree(photo: Path, library: MachineLibrary) -> None:
    rgb = next(open_clip(photo).read_rgb())
    with pytest.raises(ValueError, match="only 1 decoded"):
        score_frames([rgb, rgb], [rgb], library)
    with pytest.raises(ValueError, match="more decoded"):
        score_frames([rgb], [rgb, rgb], library)


def test_a_machine_that_fails_is_not_valid_and_named(
    photo: Path, machines_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = MachineLibrary.load(machines_dir, NAMES)
    clip = open_clip(photo)
    rgb = next(clip.read_rgb())
    known = run_originals([rgb], library)

    def fail(*_: object) -> None:
        raise MachineRunError("machine broke")

    monkeypatch.setattr(library.machines[1], "run_one", fail)
    (score,) = score_frames(known, [rgb], library)
    assert score.failed == (NAMES[1],)
    assert [v.valid for v in score.verdicts] == [known[0].results[NAMES[0]] is not None, False, True]
    assert score.smr().value == 1.0
    measured = measure(clip, clip, library)
    assert measured.machines[1].failed == 1
    assert measured.smr().mean == 1.0
    for machine in library:
        monkeypatch.setattr(machine, "run_one", fail)
    with pytest.raises(MachineRunError, match="machine broke"):
        measure(clip, clip, library)


def test_measure_takes_thresholds_and_chosen_frames(
    synthetic_clip: Callable[[str], Path], library: MachineLibrary
) -> None:
    clip = open_clip(synthetic_clip("three_scenes.mp4"))
    measured = measure(clip, clip, library, Thresholds(confidence=0.05), indices=(3, 40))
    assert [frame.index for frame in measured.frames] == [3, 40]
    assert measured.smr().mean == 1.0
    assert math.isinf(measured.psnr_db)
    assert measured.n_frames == 48


def test_psnr_and_ssim_agree_with_their_definitions() -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (40, 50, 3), np.uint8)
    b = np.clip(a + rng.normal(0, 9, a.shape), 0, 255).astype(np.uint8)
    luma = np.array([0.2126, 0.7152, 0.0722])
    assert luma_of(a) == pytest.approx(a @ luma, abs=1e-3)
    found = compare(a, b)
    assert found.psnr_db == pytest.approx(peak_signal_noise_ratio(a @ luma, b @ luma, data_range=255), abs=1e-4)
    expected = structural_similarity(
        a @ luma, b @ luma, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert found.ssim == pytest.approx(expected, abs=1e-4)
    assert math.isinf(compare(a, a).psnr_db)
    assert compare(a[:10], b[:10]).ssim is None
    assert compare(a[:1, :1], b[:1, :1]).ssim is None
    assert psnr_db([Fidelity(0, 1), Fidelity(2, 1)]) == pytest.approx(10 * math.log10(255**2))
    with pytest.raises(ValueError, match="sizes differ"):
        compare(a, b[:39])


def padded_clip(folder: Path, size: Sequence[int], tag: str | None, *options: str) -> Path:
    """Three frames whose last row and column are padding, tagged in the container."""
    path = folder / f"padded{len(list(folder.iterdir()))}.mp4"
    tagged = [] if tag is None else ["-metadata", f"vcm={tag}", "-movflags", "use_metadata_tags"]
    pad = f"pad={size[0] + size[0] % 2}:{size[1] + size[1] % 2}:color=red"
    pattern = f"testsrc2=size={size[0]}x{size[1]}:rate=25"
    ffmpeg("-f", "lavfi", "-i", pattern, "-vf", pad, "-frames:v", "3", "-c:v", "libx264",
           "-qp", "1", "-pix_fmt", "yuv420p", *tagged, path)  # fmt: skip
    if not options:
        return path
    turned = path.with_name(f"turned-{path.name}")
    ffmpeg(*options, "-i", path, "-c", "copy", "-map_metadata", "0", "-movflags", "use_metadata_tags", turned)
    return turned


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_padding_is_cropped_where_it_lies_after_turning(rotation: int, tmp_path: Path) -> None:
    turn = ("-display_rotation", str(rotation)) if rotation else ()
    clip = open_clip(padded_clip(tmp_path, (175, 97), '{"width":175,"height":97,"qp":[30]}', *turn))
    assert (clip.width, clip.height, clip.rotation % 360) == (176, 98, rotation % 360)
    cropped = without_padding(clip)
    as_coded = np.rot90(next(clip.read_rgb()), -rotation // 90)[:97, :175]
    assert cropped.upright_size == ((175, 97) if rotation % 180 == 0 else (97, 175))
    frames = list(cropped.read_rgb([0, 2]))
    assert len(frames) == 2
    assert np.array_equal(frames[0], np.rot90(as_coded, rotation // 90))
    assert (cropped.format.width, cropped.format.height) == (175, 97)


def test_a_tag_that_cannot_be_true_is_refused_and_a_strange_one_ignored(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="says 20x20, which does not fit frames of 176x98"):
        without_padding(open_clip(padded_clip(tmp_path, (175, 97), '{"width":20,"height":20}')))
    for strange in ("hello", "[1]", '{"width":null,"height":3}', None):
        clip = open_clip(padded_clip(tmp_path, (175, 97), strange))
        assert without_padding(clip).upright_size == (176, 98)


def test_a_tiny_picture_comes_back_from_its_coded_size(tmp_path: Path, library: MachineLibrary) -> None:
    path = tmp_path / "dot.png"
    Image.new("RGB", (1, 1), (90, 90, 90)).save(path)
    clip = open_clip(path)
    coded = tmp_path / "dot.266"
    coded.write_bytes(encode_still(StillSource(next(clip.read_rgb())), 10, get_encoder("vvc")).data)
    measured = measure(clip, open_clip(coded), library)
    assert (measured.width, measured.height, measured.ssim) == (1, 1, None)
    assert measured.psnr_db > 40


def test_no_runtime_leaves_files_or_tells_anybody(photo: Path, machines_dir: Path, tmp_path: Path) -> None:
    """ONNX Runtime writes files, and a queue of reports to be sent, as soon as it is imported, unless told not to."""
    places = {"TMPDIR": tmp_path / "tmp", "HOME": tmp_path / "home", "XDG_CACHE_HOME": tmp_path / "cache"}
    for folder in places.values():
        folder.mkdir()
    environment = {**os.environ, **{name: str(folder) for name, folder in places.items()}}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-m", "vcm_ratecontrol.cli.measure", str(photo), str(photo), "--quiet"]
    command += ["--machines", str(machines_dir), "--names", NAMES[0]]
    subprocess.run(command, check=True, env=environment, cwd=REPOSITORY, capture_output=True, timeout=60)
    assert [path for folder in places.values() for path in folder.rglob("*")] == []
