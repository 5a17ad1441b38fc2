"""vcm-encode without machines, as a user runs it: events, summary, exit codes."""

from pathlib import Path

import pytest

from codec_wrappers.verify import decoded_frames
from tests.codec_wrappers.joining import ffmpeg
from tests.vcm_ratecontrol.encode_runs import Run, left_in, vcm_encode
from tests.vcm_ratecontrol.predicted_inputs import film, photos, weights  # noqa: F401
from tests.vcm_ratecontrol.test_events import check_event

pytestmark = pytest.mark.usefixtures("weights")


def predicted(*arguments: object, weights: Path) -> Run:  # noqa: F811
    return vcm_encode(*arguments, "--weights", weights, "--json")


def test_a_clip_by_prediction_alone(film: Path, weights: Path, tmp_path: Path) -> None:  # noqa: F811
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


def test_a_result_larger_than_its_input_is_told(film: Path, tmp_path: Path) -> None:  # noqa: F811
    coarse = tmp_path / "coarse.mp4"
    ffmpeg("-i", film, "-c:v", "libx264", "-crf", "48", "-pix_fmt", "yuv420p", coarse)
    run = vcm_encode(coarse, "-o", tmp_path / "out.mp4", "--target-smr", 0.9, "--probes", 0, "--no-anchor", "--json")
    assert (run.code, run.end["reached"]) == (0, True)
    assert run.end["file_bytes"] > coarse.stat().st_size
    assert [note for note in run.end["notes"] if "of the input" in note]
    run = vcm_encode(
        film, "-o", tmp_path / "out.mp4", "-y", "--target-smr", 0.3, "--probes", 0, "--no-anchor", "--json"
    )
    assert run.end["file_bytes"] < film.stat().st_size
    assert not [note for note in run.end["notes"] if "of the input" in note]


def test_the_summary_says_that_it_is_predicted(film: Path, weights: Path, tmp_path: Path) -> None:  # noqa: F811
    options = ("--target-smr", 0.8, "--weights", weights, "--probes", 0)
    shown = vcm_encode(film, "-o", tmp_path / "out.mp4", *options).out
    assert "reached by prediction" in shown
    assert "80 % band" in shown
    assert "(predicted)" in shown


def test_one_failing_input_does_not_stop_the_others_under_each(
    photos: list[Path],  # noqa: F811
    weights: Path,  # noqa: F811
    tmp_path: Path,
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


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("--verify-smr", ("--target-smr", 0.9, "--verify-smr")),
        ("--floor", ("--target-smr", 0.5, "--floor", 0.9)),
        ("--weights", ("--target-smr", 0.9, "--weights", "/no/such/folder")),
        ("--probes", ("--target-smr", 0.9, "--probes", -1)),
    ],
)
def test_options_that_cannot_be(
    words: str,
    arguments: tuple[object, ...],
    photos: list[Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    run = vcm_encode(photos[0], "-o", tmp_path / "out.mp4", *arguments)
    assert run.code == 2
    assert words in run.err
