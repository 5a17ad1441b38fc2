"""vcm-bench as a user runs it: a clip and a picture, worker processes, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vcm_ratecontrol.bench_runs import CHOOSING, JUDGING, PHOTOS, small_pictures, unseen
from tests.vcm_ratecontrol.bench_runs import run as run_bench
from tests.vcm_ratecontrol.encode_runs import Run, vcm_encode
from tests.vcm_ratecontrol.test_events import check_event
from vcm_ratecontrol.cli.bench import main
from vcm_ratecontrol.cli.common import run_command


@pytest.fixture(scope="module")
def photo(asset: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pictures(asset("images"), tmp_path_factory.mktemp("data") / "one", PHOTOS[:1], side=128)


def vcm_bench(*arguments: object) -> Run:
    return vcm_encode(*arguments, module="bench")


def test_pictures_and_clips_into_a_folder(
    photo: Path, synthetic_clip: Callable[[str], Path], machines_dir: Path, tmp_path: Path
) -> None:
    """The clip lasts one second: shorter than a segment, and one segment."""
    out = tmp_path / "results"
    names = ["--names", ",".join(CHOOSING[:2]), "--judge-names", JUDGING[0]]
    options = ["--methods", "oracles,smr-measured", "--codec", "hevc", "--levels", "30,45", "--resamples", "100"]
    given = [photo, synthetic_clip("silent.mkv"), "--machines", machines_dir, *names, *options]
    run = vcm_bench(*given, "--workers", 1, "--out", out, "--cache", tmp_path / "cache", "--json")
    assert (run.code, run.err) == (0, "")
    for event in run.events:
        check_event(event)
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "results.csv", "results.json"]
    found = json.loads((out / "results.json").read_text())
    (codec,) = found["codecs"]
    items = {item["name"]: item for item in codec["items"]}
    assert {name: (item["kind"], item["frames"], item["units"]) for name, item in items.items()} == {
        "000000052891.png": ("still", 1, 1),
        "silent.mkv": ("clip", 25, 1),
    }
    assert len(run.of("measured")) == 2
    assert run.end["codecs"][0]["measured"] == 4
    assert run.end["machines"]["judging"] == [JUDGING[0]]
    flat = codec["methods"][0]["points"]
    assert [point["setting"] for point in flat] == [45.0, 30.0]
    assert flat[0]["bits"] < flat[1]["bits"]
    assert flat[0]["kbps"] > 0
    table = vcm_bench("table", out / "results.json")
    assert table.code == 0
    assert "1 picture and 1 clip" in table.out
    assert "`oracle-pooled`" in table.out


def test_a_clip_is_cut_into_segments_that_get_their_own_qps(
    synthetic_clip: Callable[[str], Path], machines_dir: Path, tmp_path: Path
) -> None:
    found = run_bench([synthetic_clip("three_scenes.mp4")], unseen(machines_dir), tmp_path, levels=(30, 45))
    (codec,) = found.codecs
    assert len(codec.table.units) == 3
    assert len(codec.table.frame_unit) == 6
    assert codec.table.bits.shape == (3, 2)
    assert len(codec.table.items) == len(codec.methods[0].points[0].scores.item_smr) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "smart"], "no method 'smart'"),
        (["--levels", "30"], "two of them are needed"),
        (["--levels", "5-x"], "--levels '5-x': cannot read"),
        (["--levels", "99"], "--levels '99': QPs must lie in 0..63"),
        (["--codec", "hevc", "--levels", "55-63"], "hevc codes QP 0..51"),
        (["--codec", "mpeg2"], "codec 'mpeg2': unknown"),
        (["--preset", "ludicrous"], "preset 'ludicrous'"),
        (["--targets", "1.5"], "an SMR is above 0"),
        (["--targets", "high"], "write numbers"),
        (["--names", "nobody"], "no machine 'nobody'"),
        (["--judge", "hash", "--judge-names", "yolox_nano"], "leave out --judge-names"),
        (["--predictor", "no/such.safetensors", "--methods", "smr"], "no/such.safetensors"),
        (["--annotations", "no/such.json"], "no/such.json"),
        (["--t-conf", "0.1"], "the labels hold detections from 0.2 on"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_is_coded(
    arguments: list[str],
    message: str,
    photo: Path,
    machines_dir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    names = [] if "--names" in arguments or "hash" in arguments else ["--names", CHOOSING[0]]
    given = [str(photo), "--machines", str(machines_dir), *names, "--out", str(tmp_path / "out"), *arguments]
    cache = tmp_path / "cache"
    code = run_command(main, [*given, "--cache", str(cache)])
    assert code in (2, 7)
    error = capfd.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
    assert not cache.exists()


@pytest.mark.parametrize(("name", "message"), [("nothing.png", "no such file or folder"), ("empty", "holds no file")])
def test_nothing_to_benchmark(
    name: str, message: str, machines_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    given = [str(tmp_path / name), "--machines", str(machines_dir), "--names", CHOOSING[0], "--methods", "oracles"]
    assert run_command(main, [*given, "--out", str(tmp_path / "out")]) == 2
    assert message in capfd.readouterr().err


def test_a_folder_or_cache_that_cannot_be_written(
    photo: Path, machines_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    given = [str(photo), "--machines", str(machines_dir), "--names", CHOOSING[0], "--methods", "oracles"]
    assert run_command(main, [*given, "--out", str(tmp_path / "file" / "out")]) == 2
    assert "choose another --out" in capfd.readouterr().err
    options = ["--levels", "40,50", "--codec", "hevc", "--workers", "1", "--cache", str(tmp_path / "file")]
    assert run_command(main, [*given, "--out", str(tmp_path / "out"), *options]) == 2
    assert "use another --cache" in capfd.readouterr().err


def test_results_of_something_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for content, message in (
        ("{}", "is no results.json"),
        ('{"schema": 99}', "schema 99"),
        ("[1", "is no results.json"),
    ):
        (tmp_path / "results.json").write_text(content)
        assert run_command(main, ["table", str(tmp_path / "results.json")]) == 2
        assert message in capfd.readouterr().err
