"""What the tests of vcm-encode share: the command as a process of its own, and what it must leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg

REPOSITORY = Path(__file__).resolve().parents[2]

# Three classifiers and two detectors: the fastest of the shared library.
CLASSIFIERS = ("mobilenet_v1_0.25_128_quant", "tinymaix_mbnet128_0.25", "mobilenet_v1_0.5_128_quant_onnx")
DETECTORS = ("yolo_fastestv2", "fastestdet")
FAST = (*CLASSIFIERS, *DETECTORS)


def machine_options(machines_dir: Path, target: float | str = 0.8, names: tuple[str, ...] = FAST) -> list[str]:
    return ["--target-smr", str(target), "--machines", str(machines_dir), "--names", ",".join(names)]


@dataclass(frozen=True)
class Run:
    """A finished vcm-encode."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def end(self) -> dict[str, Any]:
        """The one final event, which must agree with the exit status and with stderr."""
        events = self.events
        assert [event["event"] for event in events].count("end") == 1
        end = events[-1]
        assert end["event"] == "end"
        assert end["exit_code"] == self.code
        assert (end["error"] is None) == (self.code == 0) == (end["status"] == "ok")
        if end["error"] is not None:
            assert self.err.splitlines()[-1].removeprefix("error: ") == end["error"]["message"]
        return end

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def command(*arguments: object, module: str = "encode") -> list[str]:
    return [sys.executable, "-m", f"vcm_ratecontrol.cli.{module}", *map(str, arguments)]


def environment(cache: Path | None = None, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VCM_")}
    path = os.pathsep.join(part for part in (str(REPOSITORY), kept.get("PYTHONPATH")) if part)
    return {**kept, "PYTHONPATH": path, "VCM_CACHE": str(cache or "/nonexistent/cache"), **more}


def vcm_encode(*arguments: object, cache: Path | None = None, module: str = "encode", **options: Any) -> Run:
    """Run to the end. cache: folder of probes, by default none that can be written."""
    more = options.pop("env", {})
    done = subprocess.run(
        command(*arguments, module=module), capture_output=True, text=True, timeout=150,
        env=environment(cache, **more), **options,
    )  # fmt: skip
    return Run(done.returncode, done.stdout, done.stderr)


class Started:
    """A vcm-encode (or another command, by its module) with `--json` that runs, to be disturbed."""

    def __init__(self, *arguments: object, cache: Path | None = None, module: str = "encode", **more: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments, "--json", module=module), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(cache, **more),
        )  # fmt: skip
        self._read: list[str] = []

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read events up to one; fails when the command ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._read.append(line)
            event: dict[str, Any] = json.loads(line)
            if wanted(event):
                return event
        raise AssertionError((self._read, self.process.communicate()))

    def finish(self) -> Run:
        out, err = self.process.communicate(timeout=120)
        return Run(self.process.returncode, "".join(self._read) + out, err)


def wrapper(path: Path, before: str = "", after: str = "") -> dict[str, str]:
    """The environment that puts a shell script around the real ffmpeg; `$*` are its arguments."""
    path.write_text(f'#!/bin/sh\n{before}\n"{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\ncode=$?\n{after}\nexit $code\n')
    path.chmod(0o755)
    return {"VCM_FFMPEG": str(path)}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def processes_about(folder: Path) -> list[str]:
    """Command lines of all running processes that name a folder: encoders write there, so orphans do."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if str(folder) in line and "pytest" not in line:
                found.append(line)
    return found


def gone(folder: Path, seconds: float = 20.0) -> bool:
    """Whether all processes about a folder end within a time."""
    deadline = time.monotonic() + seconds
    while processes_about(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def left_in(folder: Path) -> Iterator[str]:
    """Names of all regular files below a folder."""
    return (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
