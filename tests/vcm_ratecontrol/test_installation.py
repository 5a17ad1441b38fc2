"""vcm-doctor finds what is here, and says what is missing with exit code 7."""

import json
import os
import subprocess
import sys
from pathlib import Path


def _doctor(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vcm_ratecontrol.cli.doctor", *options]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_all_that_is_needed_is_here() -> None:
    result = _doctor("--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0, report["missing"]
    assert report["ok"] is True
    found = {part["name"]: part for part in report["parts"]}
    assert found["torch"]["version"].startswith("2.13.0")
    assert found["encoder libvvenc"]["found"]
    assert found["decoder vvc"]["found"]
    assert {"onnxruntime", "ncnn", "ai-edge-litert", "uvg266", "vvencapp"} <= found.keys()


def test_a_missing_ffmpeg_is_named_with_exit_code_7(tmp_path: Path) -> None:
    absent = tmp_path / "ffmpeg"
    result = _doctor(VCM_FFMPEG=str(absent))
    assert result.returncode == 7
    assert str(absent) in result.stdout
    assert "Missing: ffmpeg" in result.stdout


def test_a_program_on_path_is_asked_for_its_version(tmp_path: Path) -> None:
    # The shell stands for an encoder that prints its version: whatever is on PATH by that name is started.
    program = tmp_path / "uvg266"
    program.write_text("#!/bin/sh\necho uvg266 9.9.9\n", encoding="utf-8")
    program.chmod(0o755)
    report = json.loads(_doctor("--json", PATH=f"{tmp_path}:{os.environ['PATH']}").stdout)
    part = next(part for part in report["parts"] if part["name"] == "uvg266")
    assert part["found"]
    assert part["version"] == "uvg266 9.9.9"
    assert part["note"] == str(program)
