"""Annotating real pictures with a real encoder and real machines: the job as a whole, through the command."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codec_wrappers.errors import InputError
from vcm_ratecontrol.cli.annotate import main, parse_qps
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.store import LabelStore
from vcm_ratecontrol.labels.verdicts import load_verdicts

# The quickest of each runtime and task.
MACHINES = "tinymaix_mbnet128_0.25,mobilenet_v1_0.5_128_quant_onnx,yolo_fastest_1.1"
PICTURES = ("000000052891", "000000075612", "000000098261", "000000301421", "000000334371")
OPTIONS = ("--names", MACHINES, "--qps", "22,37,52", "--max-side", "160")

Run = Callable[..., tuple[int, dict[str, Any], str]]


def argv(machines_dir: Path, *arguments: str | Path) -> list[str]:
    command = [sys.executable, "-m", "vcm_ratecontrol.cli.annotate", *map(str, arguments)]
    return [*command, "--machines", str(machines_dir), *OPTIONS, "--json"]


@pytest.fixture
def run(machines_dir: Path) -> Run:
    """Run the command; exit code, end event, stderr."""

    def annotate(*arguments: str | Path) -> tuple[int, dict[str, Any], str]:
        done = subprocess.run(argv(machines_dir, *arguments), capture_output=True, text=True, timeout=150)
        events = [json.loads(text) for text in done.stdout.splitlines()]
        return done.returncode, events[-1] if events else {}, done.stderr

    return annotate


@pytest.fixture(scope="module")
def pictures(asset: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name in PICTURES:
        shutil.copy(asset(f"images/coco/{name}.jpg"), folder)
    return folder


@pytest.fixture(scope="module")
def reference(machines_dir: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of the pictures made by one worker in one go."""
    out = tmp_path_factory.mktemp("labels") / "reference"
    subprocess.run(argv(machines_dir, pictures, "--out", out, "--workers", "1"), check=True, timeout=150)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_table_of_real_machines(reference: Path) -> None:
    store = LabelStore(str(reference))
    found = load_verdicts(store)
    assert found.valid.shape == (len(PICTURES), 3, 4)
    assert (found.satisfied[:, :, 0] == found.valid[:, :, 0]).all()
    assert found.satisfied[:, :, 1].sum() > found.satisfied[:, :, 3].sum()
    assert (found.bits[:, 1:-1] > found.bits[:, 2:]).all()
    rows = store.table().to_pylist()
    assert {row["slice_qp"] - row["qp"] for row in rows if row["qp"] != ORIGINAL_QP} == {0}
    assert {(row["codec"], row["preset"], row["coding"]) for row in rows} == {("vvc", "faster", "still")}
    assert all(max(line["width"], line["height"]) == 160 for line in store.pictures().to_pylist())


def test_stored_verdicts_are_those_that_are_derived(reference: Path) -> None:
    found = load_verdicts(LabelStore(str(reference)))
    for row in LabelStore(str(reference)).table().to_pylist():
        if row["object"] == -1:
            at = (
                found.pictures.index(row["picture"]),
                found.machines.index(row["machine"]),
                found.qps.index(row["qp"]),
            )
            assert (row["satisfied"] is not None) == found.valid[at]
            assert (row["satisfied"] or False) == found.satisfied[at]


def test_two_workers_give_the_same_bytes(run: Run, pictures: Path, reference: Path, tmp_path: Path) -> None:
    code, end, _ = run(*sorted(pictures.iterdir(), reverse=True), "--out", tmp_path / "two", "--workers", "2")
    assert (code, end["annotated"], end["coded"]) == (0, len(PICTURES), 3 * len(PICTURES))
    assert files(tmp_path / "two") == files(reference)
    assert sum(end["time_share"].values()) == pytest.approx(1.0)


def test_a_finished_folder_is_left_as_it_is(run: Run, pictures: Path, reference: Path) -> None:
    before = files(reference)
    code, end, _ = run(pictures, "--out", reference)
    assert (code, end["annotated"], end["known"]) == (0, 0, len(PICTURES))
    assert files(reference) == before


def interrupted(command: list[str], out: Path, parts: int, number: int) -> subprocess.CompletedProcess[str]:
    """Run a command, send it a signal when some parts are there."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("parts/*.parquet"))) < parts and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    # communicate() returned, so every process that held the pipes has gone: no orphan is left.
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def test_killed_and_resumed(run: Run, machines_dir: Path, pictures: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = argv(machines_dir, pictures, "--out", out, "--workers", "2")
    assert interrupted(command, out, 1, signal.SIGKILL).returncode == -signal.SIGKILL
    kept = len(list(out.glob("parts/*.parquet")))
    (out / "parts" / "half.parquet.0123.tmp").write_bytes(b"half a part")
    code, end, _ = run(pictures, "--out", out, "--workers", "2")
    assert (code, end["known"], end["annotated"]) == (0, kept, len(PICTURES) - kept)
    assert files(out) == files(reference)


def test_interrupted_and_resumed(run: Run, machines_dir: Path, pictures: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    command = argv(machines_dir, pictures, "--out", out, "--workers", "2")
    ended = interrupted(command, out, 1, signal.SIGINT)
    last = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode, last["status"]) == (130, "interrupted")
    assert list(out.glob("parts/*.parquet"))
    assert not list(out.rglob("*.tmp"))
    code, _, _ = run(pictures, "--out", out, "--workers", "1")
    assert code == 0
    assert files(out) == files(reference)


def test_broken_pictures_are_listed_and_skipped(run: Run, pictures: Path, reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(pictures, folder)
    whole = (folder / f"{PICTURES[0]}.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 3])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "notes.txt").write_text("of no kind that is annotated: not even looked at")
    (folder / "twin.jpg").write_bytes(whole)
    code, end, _ = run(folder, "--out", tmp_path / "labels", "--workers", "1")
    assert (code, end["annotated"], end["duplicates"]) == (0, len(PICTURES), 1)
    assert sorted(Path(one["source"]).name for one in end["skipped"]) == ["empty.png", "text.jpg", "truncated.jpg"]
    assert all(one["reason"].startswith(one["source"]) for one in end["skipped"])
    assert files(tmp_path / "labels") == files(reference)


def test_only_broken_pictures_are_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    code, end, stderr = run(tmp_path / "text.jpg", "--out", tmp_path / "labels")
    assert (code, end["error"]["type"]) == (2, "InputError")
    assert "text.jpg" in stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.jpg",), "missing.jpg: no such file"),
        (("{empty}",), "holds no file"),
        (("{pictures}", "--qps", "60-70"), "0..63"),
        (("{pictures}", "--qps", "many"), "'many'"),
        (("{pictures}", "--codec", "jpeg"), "codec 'jpeg'"),
        (("{pictures}", "--preset", "sluggish"), "preset 'sluggish'"),
        (("{pictures}", "--names", "nobody"), "no machine 'nobody'"),
        (("{pictures}", "--out", "{reference}", "--preset", "fast"), "preset: faster there, fast asked"),
        (("{pictures}", "--out", "{reference}", "--names", "yolo_fastest_1.1"), "not asked"),
        (("{pictures}", "--out", "nosuch://labels"), "nosuch"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...],
    said: str,
    machines_dir: Path,
    pictures: Path,
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, for speed: it ends before any picture is looked at."""
    (tmp_path / "empty").mkdir()
    filled = [text.format(pictures=pictures, reference=reference, empty=tmp_path / "empty") for text in arguments]
    # The last one of an option counts.
    usual = ["--machines", str(machines_dir), *OPTIONS, "--out", str(tmp_path / "labels")]
    with pytest.raises(SystemExit) as ended:
        main.main([*usual, *filled])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "labels").exists()


def test_a_missing_runtime_is_named_with_the_way_to_get_it(machines_dir: Path, pictures: Path, tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['ai_edge_litert'] = None; from vcm_ratecontrol.cli.annotate import main; main()"
    arguments = argv(machines_dir, pictures, "--out", tmp_path / "labels")[3:]
    done = subprocess.run([sys.executable, "-c", blocked, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7
    assert "tinymaix_mbnet128_0.25" in done.stderr
    assert "[machines]" in done.stderr


def test_storage_that_takes_no_more_stops_the_run(run: Run, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    out.mkdir()
    (out / "parts").write_bytes(b"a file where the folder of parts should be")
    code, end, _ = run(pictures, "--out", out, "--workers", "2")
    assert (code, end["error"]["type"]) == (2, "OutputError")
    assert "what is done is kept" in end["error"]["message"]


def test_a_machine_that_fails_is_recorded_as_failed(machines_dir: Path, pictures: Path, tmp_path: Path) -> None:
    """A virtual machine whose map of classes is too short: it breaks where it detects one that is not in it."""
    document = json.loads((machines_dir.parent / "manifest.json").read_text())
    (entry,) = (m for m in document["machines"] if m["name"] == "yolo_fastest_1.1")
    broken = {**entry, "name": "short_map", "folder": "yolo_fastest_1.1", "class_map": [0]}
    library = tmp_path / "library"
    library.mkdir()
    (library / "machines").symlink_to(machines_dir)
    (library / "manifest.json").write_text(json.dumps({"machines": [entry, broken]}))
    out = tmp_path / "labels"
    command = argv(library, pictures, "--out", out, "--workers", "1")
    names = command.index("--names")
    del command[names : names + 2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout.splitlines()[-1])
    assert end["machine_failures"]["short_map"] > 0
    assert "yolo_fastest_1.1" not in end["machine_failures"]
    found = load_verdicts(LabelStore(str(out)))
    rows = LabelStore(str(out)).table().to_pylist()
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["machine"] for row in failed} == {"short_map"}
    assert all(row["satisfied"] is None for row in failed)
    assert found.valid[:, found.machines.index("short_map")].sum() < found.valid[:, 0].sum()


def test_statistics_of_the_reference(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["stats", str(reference), "--plots", str(tmp_path / "plots")])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert f"{len(PICTURES)} (" in told
    for word in ("SMR detection", "object, window", "physical, 75% of machines", "2 classifiers, 1 detectors"):
        assert word in told
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    names = ["jrd-histogram", "machine-agreement", "machine-satisfaction", "smr-fan"]
    assert drawn == [f"{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())


def test_statistics_in_json(reference: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["stats", str(reference), "--plots", "", "--json", "--t-conf", "0.5"])
    assert ended.value.code == 0
    end = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert sum(end["pictures"].values()) == len(PICTURES)
    assert len(end["mean_smr"]["both"]) == 3
    assert end["plots"] == []


def test_statistics_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["stats", str(tmp_path)])
    assert ended.value.code == 2
    assert "holds no labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "qps"),
    [
        ("16,20,24", (16, 20, 24)),
        ("40,20,20", (20, 40)),
        ("0-63", tuple(range(64))),
        ("20-30:5,51", (20, 25, 30, 51)),
        ("7", (7,)),
    ],
)
def test_lists_of_qps(text: str, qps: tuple[int, ...]) -> None:
    assert parse_qps(text) == qps


@pytest.mark.parametrize("text", ["", "a", "20-", "-5", "30-20", "0-64", "20,,30", "20-30:0"])
def test_lists_of_qps_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--qps"):
        parse_qps(text)
