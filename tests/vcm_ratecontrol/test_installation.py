"""vcm-doctor finds what is here, and says what is missing with exit code 7."""

import json
import os
import subprocess
import sys
from pathlib import Path


def _doctor(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vcm_ratecontrol.cli.doctor", *options]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def test_finds_all_that_is_needed_and_a_program_on_path(tmp_path: Path) -> None:
    # What doctor promises is to start whatever stands on PATH by that name and to repeat its first line.
    program = tmp_path / "uvg266"
    program.write_text("#!/bin/sh\necho uvg266 9.9.9\n", encoding="utf-8")
    program.chmod(0o755)
    result = _doctor("--json", PATH=f"{tmp_path}:{os.environ['PATH']}")
    report = json.loads(result.stdout)
    assert result.returncode == 0, report["missing"]
    assert report["ok"] is True
    parts = {part["name"]: part for part in report["parts"]}
    assert parts["torch"]["version"].startswith("2.13.0")
    assert parts["encoder libvvenc"]["found"]
    assert parts["decoder vvc"]["found"]
    assert {"onnxruntime", "ncnn", "ai-edge-litert", "vvencapp"} <= parts.keys()
    assert (parts["uvg266"]["found"], parts["uvg266"]["version"]) == (True, "uvg266 9.9.9")
    assert parts["uvg266"]["note"] == str(program)


def test_a_missing_ffmpeg_is_named_with_exit_code_7(tmp_path: Path) -> None:
    absent = tmp_path / "ffmpeg"
    result = _doctor(VCM_FFMPEG=str(absent))
    assert result.returncode == 7
    assert str(absent) in result.stdout
    assert "Missing: ffmpeg" in result.stdout
