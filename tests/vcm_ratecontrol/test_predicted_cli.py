"""vcm-encode without machines, and with them as judges: real encoders, real machines, predictors that stand in."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from codec_wrappers.verify import decoded_frames
from tests.codec_wrappers.joining import ffmpeg
from tests.vcm_ratecontrol.encode_runs import FAST, Run, digest, left_in, vcm_encode
from tests.vcm_ratecontrol.stand_ins import stand_in
from tests.vcm_ratecontrol.test_events import check_event

TWO = ("mobilenet_v1_0.25_128_quant", "yolo_fastestv2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name in ("curve_small", "curve_evidence", "smr_small"):
        stand_in(folder, name)
    return folder


@pytest.fixture(scope="module")
def film(clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street, made small: 128x96, 24 frames in two segments of 0.96 seconds."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    source = clip("intel_car-detection.mp4")
    ffmpeg("-i", source, "-frames:v", "24", "-vf", "scale=128:96", "-an", "-c:v", "libx264", "-crf", "10", path)
    return path


@pytest.fixture(scope="module")
def photos(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, made = tmp_path_factory.mktemp("photos"), []
    for name in ("coco/000000465822.jpg", "coco/000000098261.jpg", "coco/000000052891.jpg"):
        with Image.open(picture(name)) as image:
            image.convert("RGB").resize((144, 112)).save(made_at := folder / f"{Path(name).stem}.png")
        made.append(made_at)
    return made


def predicted(*arguments: object, weights: Path) -> Run:
    return vcm_encode(*arguments, "--weights", weights, "--json")


def test_a_clip_by_prediction_alone(film: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    run = predicted(film, "-o", output, "--target-smr", 0.8, "--segment-seconds", 1, weights=weights)
    assert (run.code, run.err) == (0, "")
    for event in run.events:
        check_event(event)
    end = run.end
    assert (end["mode"], end["pool"], end["target"]) == ("predicted", "mean", 0.8)
    assert decoded_frames(output) == 24
    assert end["smr"] is None
    assert end["predicted_low"] <= end["predicted_smr"] <= end["predicted_high"]
    assert len(end["segments"]) == 2
    assert all(0 < segment["probes"] <= 2 and segment["predicted_smr"] for segment in end["segments"])
    assert all(probe["measured"] is False and probe["smr"] is not None for probe in run.of("probe"))
    assert end["reached"]
    assert end["predicted_smr"] >= 0.8 - 1e-6
    assert end["anchor"]["measured"] is False
    assert 0 < end["anchor"]["saving"] < 1
    shown = vcm_encode(film, "-y", "-o", output, "--target-smr", 0.8, "--weights", weights, "--probes", 0).out
    assert "reached by prediction" in shown
    assert "80 % band" in shown


def test_without_probes_each_segment_is_coded_once(film: Path, weights: Path, tmp_path: Path) -> None:
    run = predicted(film, "-o", tmp_path / "out.mp4", "--target-smr", 0.8, "--probes", 0, weights=weights)
    assert run.code == 0
    assert run.of("probe") == []
    assert run.end["probes"] == 0
    assert run.end["predicted_smr"] >= 0.8 - 1e-6


def test_a_higher_target_costs_more_bits_and_a_floor_bounds_the_worst(
    film: Path, weights: Path, tmp_path: Path
) -> None:
    options = ("--probes", 0, "--segment-seconds", 0.5, "--dry-run")
    low, high, floor = (
        predicted(film, "-o", tmp_path / "out.mp4", "--target-smr", target, *options, *more, weights=weights).end
        for target, more in ((0.6, ()), (0.8, ()), (0.6, ("--floor", 0.59)))
    )
    qps = [[segment["qp"] for segment in end["segments"]] for end in (low, high)]
    assert sum(qps[0]) > sum(qps[1])
    assert min(segment["predicted_smr"] for segment in floor["segments"]) >= 0.59
    assert list(left_in(tmp_path)) == []


def test_the_bits_are_those_of_any_number_of_workers(film: Path, weights: Path, tmp_path: Path) -> None:
    files = set()
    for workers in (1, 2, 4):
        output = tmp_path / f"{workers}.mp4"
        options = ("--target-smr", 0.8, "--segment-seconds", 0.5, "--workers", workers)
        assert predicted(film, "-o", output, *options, weights=weights).code == 0
        files.add(digest(output))
    assert len(files) == 1


@pytest.mark.parametrize("codec", ["hevc", "hevc-kvazaar", "av1"])
def test_other_codecs_are_predicted_by_the_nearest_condition(
    codec: str, photos: list[Path], weights: Path, tmp_path: Path
) -> None:
    stand_in(tmp_path, "curve_small", codecs=("vvc",))
    run = predicted(
        photos[0], "-o", tmp_path / "out.mkv", "--target-smr", 0.8, "--codec", codec, "--probes", 0, weights=tmp_path
    )
    assert run.code == 0, run.err
    assert run.end["pool"] == "each"
    assert any("those of vvc/still/both are used" in note for note in run.end["notes"])


def test_several_inputs_are_one_job_under_mean(photos: list[Path], weights: Path, tmp_path: Path) -> None:
    run = predicted(*photos, "-o", tmp_path / "out", "--target-smr", 0.8, weights=weights)
    assert run.code == 0, run.err
    assert sorted(left_in(tmp_path / "out")) == sorted(f"{photo.stem}.mp4" for photo in photos)
    files = run.of("file")
    assert [file["input"] for file in files] == [str(photo) for photo in photos]
    assert {file["pool"] for file in files} == {"mean"}
    end = run.end
    assert end["bits"] == sum(file["bits"] for file in files)
    assert end["predicted_smr"] == pytest.approx(sum(file["predicted_smr"] for file in files) / 3)
    assert end["predicted_smr"] >= 0.8 - 1e-6
    assert {probe["input"] for probe in run.of("probe")} == {str(photo) for photo in photos}


def test_one_failing_input_does_not_stop_the_others_under_each(
    photos: list[Path], weights: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    options = ("--target-smr", 0.8, "--pool", "each", "--probes", 0)
    run = predicted(photos[0], bad, photos[1], "-o", tmp_path / "out", *options, weights=weights)
    assert run.code == 2
    assert sorted(left_in(tmp_path / "out")) == sorted(f"{photo.stem}.mp4" for photo in photos[:2])
    (failed,) = run.of("failed")
    assert (failed["input"], failed["type"]) == (str(bad), "InputError")
    assert "1 of 3 inputs failed" in run.end["error"]["message"]
    assert [entry["input"] for entry in run.end["failed"]] == [str(bad)]
    assert all(file["predicted_smr"] >= 0.8 for file in run.of("file"))
    # Under mean it is told before anything is coded.
    together = predicted(photos[0], bad, "-o", tmp_path / "mean", "--target-smr", 0.8, weights=weights)
    assert together.code == 2
    assert list(left_in(tmp_path / "mean")) == []


def test_two_inputs_of_one_name(photos: list[Path], weights: Path, tmp_path: Path) -> None:
    run = predicted(photos[0], photos[0], "-o", tmp_path / "out", "--target-smr", 0.8, weights=weights)
    assert run.code == 2
    assert "would hold both" in run.err


def test_machines_prove_the_mean_over_pictures(
    photos: list[Path], machines_dir: Path, weights: Path, tmp_path: Path
) -> None:
    machines = ("--machines", machines_dir, "--names", ",".join(FAST))
    options = ("--target-smr", 0.7, *machines, "--no-anchor", "--verify-smr")
    run = predicted(*photos, "-o", tmp_path / "out", *options, weights=weights)
    assert run.code == 0, run.err
    end, files = run.end, run.of("file")
    assert end["mode"] == "measured"
    assert end["reached"]
    assert end["smr"] >= 0.7 - 1e-9
    assert end["smr"] == pytest.approx(sum(file["smr"] for file in files) / 3)
    for file in files:
        # The file that was written is what was measured.
        assert file["verified"] == {
            "smr": pytest.approx(file["smr"]),
            "smr_min": pytest.approx(file["smr"]),
            "frames": 1,
        }
        assert file["predicted_smr"] is not None


def test_machines_and_each_and_verification_of_a_clip(
    film: Path, machines_dir: Path, weights: Path, tmp_path: Path
) -> None:
    machines = ("--machines", machines_dir, "--names", ",".join(TWO))
    options = ("--target-smr", 0.5, *machines, "--pool", "each", "--no-anchor", "--verify-smr")
    run = predicted(film, "-o", tmp_path / "out.mp4", *options, weights=weights)
    assert run.code == 0, run.err
    assert all(segment["probes"] <= 3 for segment in run.end["segments"])
    assert run.end["verified"]["smr"] == pytest.approx(run.end["smr"])


def test_machines_without_probes_only_sharpen_the_curve(
    photos: list[Path], machines_dir: Path, weights: Path, tmp_path: Path
) -> None:
    machines = ("--machines", machines_dir, "--names", ",".join(TWO))
    run = predicted(
        photos[0], "-o", tmp_path / "out.mp4", "--target-smr", 0.8, *machines, "--probes", 0, weights=weights
    )
    assert run.code == 0, run.err
    assert (run.end["mode"], run.end["probes"], run.end["smr"]) == ("predicted", 0, None)


def test_targets_that_every_level_or_no_level_reaches(photos: list[Path], weights: Path, tmp_path: Path) -> None:
    stand_in(tmp_path, "curve_small", spread=0.0)
    options = ("--probes", 0, "--dry-run")
    every = predicted(photos[0], "-o", tmp_path / "a.mp4", "--target-smr", 0, *options, weights=tmp_path).end
    assert every["segments"][0]["qp"] == 63
    assert any("every QP reaches SMR 0" in note for note in every["notes"])
    task = ("--task", "classification")
    none = predicted(photos[0], "-o", tmp_path / "a.mp4", "--target-smr", 1, *task, *options, weights=tmp_path)
    assert none.end["reached"] == (none.end["predicted_smr"] == 1.0)
    low = tmp_path / "low"
    low.mkdir()
    stand_in(low, "curve_small", spread=0.0, ceiling=0.9)
    missed = predicted(photos[0], "-o", tmp_path / "a.mp4", "--target-smr", 0.95, *options, weights=low).end
    assert missed["reached"] is False
    assert any("no QP was found that reaches SMR 0.95" in note for note in missed["notes"])
    strict = predicted(photos[0], "-o", tmp_path / "a.mp4", "--target-smr", 0.95, "--strict", weights=low)
    assert strict.code == 3


def test_neither_weights_nor_machines_are_a_clear_error(photos: list[Path], tmp_path: Path) -> None:
    from vcm_ratecontrol.predictors.inference import WEIGHTS_DIR

    if (WEIGHTS_DIR / "curve_small.safetensors").exists():
        pytest.skip("the package has weights")
    run = vcm_encode(photos[0], "-o", tmp_path / "out.mp4", "--target-smr", 0.9)
    assert run.code == 7
    assert "--machines" in run.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("--verify-smr", ("--target-smr", 0.9, "--verify-smr")),
        ("--floor", ("--target-smr", 0.5, "--floor", 0.9)),
        ("--floor", ("--target-smr", 0.9, "--floor", 0.5, "--pool", "each")),
        ("--weights", ("--target-smr", 0.9, "--weights", "/no/such/folder")),
        ("--probes", ("--target-smr", 0.9, "--probes", -1)),
    ],
)
def test_options_that_cannot_be(words: str, arguments: tuple[object, ...], photos: list[Path], tmp_path: Path) -> None:
    run = vcm_encode(photos[0], "-o", tmp_path / "out.mp4", *arguments)
    assert run.code == 2
    assert words in run.err
