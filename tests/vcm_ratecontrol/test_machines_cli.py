"""vcm-machines as a program: what it prints, and how it ends."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PICTURE = "coco/train2017_000000000030.jpg"


def vcm_machines(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vcm_ratecontrol.cli.machines", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def events(done: subprocess.CompletedProcess[str], kind: str) -> list[dict[str, Any]]:
    return [e for e in map(json.loads, done.stdout.splitlines()) if e["event"] == kind]


def test_list_names_all(machines_dir: Path) -> None:
    done = vcm_machines("list", machines_dir)
    assert done.returncode == 0 and done.stderr == ""
    assert "31 machines" in done.stdout and "yolox_nano" in done.stdout
    twins = vcm_machines("list", machines_dir, "--runtime", "ncnn", "--json")
    assert [e["name"].partition("@")[2] for e in events(twins, "machine")] == ["ncnn", "ncnn"]


def test_check_opens_and_times(machines_dir: Path) -> None:
    names = "tinymaix_mbnet128_0.25,yolo_fastest_1.1_body,yolo_fastestv2@ncnn"
    done = vcm_machines("check", machines_dir, "--names", names, "--json")
    assert done.returncode == 0, done.stderr
    checks = events(done, "check")
    assert [c["ok"] for c in checks] == [True] * 3 and all(c["ms"] > 0 for c in checks)
    assert done.stderr == ""


def test_check_measures_accuracy(machines_dir: Path) -> None:
    done = vcm_machines("check", machines_dir, "--names", "tinymaix_mbnet128_0.25", "--accuracy")
    assert done.returncode == 0, done.stderr
    assert "top1 55.5" in done.stdout


def test_check_ends_with_7_when_a_machine_is_not_what_it_should_be(tmp_path: Path, machines_dir: Path) -> None:
    manifest = json.loads((machines_dir.parent / "manifest.json").read_text())
    (entry,) = (m for m in manifest["machines"] if m["name"] == "tinymaix_mbnet128_0.25")
    model = (machines_dir / entry["name"] / entry["file"]).read_bytes()
    (tmp_path / entry["file"]).write_bytes(model)
    entry["measured"]["top1"] = 70.0
    (tmp_path / "manifest.json").write_text(json.dumps({"machines": [entry]}))
    done = vcm_machines("check", tmp_path, "--accuracy", "--pictures", machines_dir.parent)
    assert done.returncode == 7 and "stated is top1 70.0" in done.stderr and "differs" in done.stdout
    (tmp_path / entry["file"]).write_bytes(model[:-1])
    done = vcm_machines("check", tmp_path)
    assert done.returncode == 7 and "checksum" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_run_tells_what_is_seen(machines_dir: Path, picture: Callable[[str], Path]) -> None:
    names = "yolox_nano,squeezenet_v1.0_tf"
    done = vcm_machines("run", machines_dir, picture(PICTURE), "--names", names)
    assert done.returncode == 0, done.stderr
    assert "vase (78%)" in done.stdout and "class 94" in done.stdout
    done = vcm_machines("run", machines_dir, picture(PICTURE), "--names", names, "--json")
    results = {e["name"]: e for e in events(done, "result")}
    assert results["yolox_nano"]["classes"][0] == 75 and results["squeezenet_v1.0_tf"]["label"] == 94


def test_mistakes_end_with_2(machines_dir: Path, tmp_path: Path) -> None:
    for arguments in (
        ("list", tmp_path / "nowhere"),
        ("list", machines_dir, "--names", "nobody"),
        ("list", machines_dir, "--names", ","),
        ("run", machines_dir, tmp_path / "missing.jpg"),
        ("run", machines_dir),
    ):
        done = vcm_machines(*arguments)
        assert done.returncode == 2, arguments
        assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
