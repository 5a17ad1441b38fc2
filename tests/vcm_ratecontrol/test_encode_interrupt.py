"""Ctrl-C, SIGTERM and kill -9 in any phase: nothing left, no orphans; and the same command again succeeds."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codec_wrappers.verify import decoded_frames
from tests.vcm_ratecontrol.encode_runs import Run, Started, digest, gone, left_in, machine_options, vcm_encode
from vcm_ratecontrol.media import open_clip

NAMES = ("mobilenet_v1_0.25_128_quant", "yolo_fastestv2")


@pytest.fixture(scope="module")
def film(synthetic_clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds in six scenes: enough for a signal to arrive in any phase."""
    from tests.codec_wrappers.joining import ffmpeg

    path = tmp_path_factory.mktemp("film") / "film.mkv"
    ffmpeg("-stream_loop", "1", "-i", synthetic_clip("three_scenes.mp4"), "-c", "copy", path)
    assert open_clip(path).n_frames == 96
    return path


def phase(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == "phase" and event["phase"] == name


def kind(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == name


# Name of the phase, the event after which to strike, and options that make the phase last.
PHASES: dict[str, tuple[Callable[[dict[str, Any]], bool], tuple[str, ...]]] = {
    "start": (kind("start"), ("--qp", "30")),
    "analysis": (lambda event: phase("analysis")(event) and event["total"], ("--qp", "30")),
    "probing": (kind("probe"), ("--no-cache",)),
    "encoding": (phase("encoding"), ("--qp", "10", "--preset", "slow")),
    "finishing": (phase("finishing"), ("--qp", "40", "--preset", "faster")),
}


def interrupted(run: Run) -> None:
    assert run.code == 130, (run.out, run.err)
    assert run.err == "interrupted\n"
    assert run.end["status"] == "interrupted"
    assert run.end["error"]["type"] == "Interrupted"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", PHASES)
def test_a_signal_in_any_phase_leaves_nothing(
    name: str, number: signal.Signals, film: Path, machines_dir: Path, tmp_path: Path
) -> None:
    moment, options = PHASES[name]
    output = tmp_path / "out.mp4"
    output.write_text("an older file")
    before = digest(film)
    measured = () if "--qp" in options else machine_options(machines_dir, 0.9, NAMES)
    started = Started(film, "-y", "-o", output, *options, *measured)
    started.until(moment)
    if name in ("encoding", "finishing"):
        time.sleep(0.1)  # into the middle of it
    began = time.monotonic()
    started.process.send_signal(number)
    interrupted(started.finish())
    assert time.monotonic() - began < 20
    assert gone(tmp_path, 1)
    assert list(left_in(tmp_path)) == ["out.mp4"]
    assert list(tmp_path.glob(".*")) == []
    # Once a file has its name, it is whole: an interruption may come while its anchor is coded.
    if name != "finishing" or output.stat().st_size == len("an older file"):
        assert output.read_text() == "an older file"
    else:
        assert decoded_frames(output) == 96
    assert digest(film) == before


def test_a_signal_to_the_whole_group_as_a_terminal_sends_it(film: Path, tmp_path: Path) -> None:
    """Ctrl-C twice, at once, to the command and to whoever shares its group."""
    started = Started(film, "-o", tmp_path / "out.mp4", "--qp", "10", "--preset", "slow")
    started.until(phase("encoding"))
    for _ in range(2):
        started.process.send_signal(signal.SIGINT)
    interrupted(started.finish())
    assert gone(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_after_kill_9_the_same_command_goes_on_where_it_was(film: Path, machines_dir: Path, tmp_path: Path) -> None:
    cache, output = tmp_path / "cache", tmp_path / "out.mp4"
    options = [*machine_options(machines_dir, 0.9, NAMES), "--probes", "2", "--no-anchor"]
    killed = Started(film, "-o", output, *options, cache=cache)
    killed.until(kind("probe"))
    killed.process.kill()
    assert killed.finish().code == -signal.SIGKILL
    # Encoders whose input has gone end by themselves.
    assert gone(tmp_path)
    assert not output.exists()
    left = list(tmp_path.glob(".vcm-*.part"))
    assert len(left) == 1
    stored = list(cache.rglob("*.json"))
    assert stored

    started = Started(film, "-o", output, *options, cache=cache)
    events = []
    started.until(lambda event: events.append(event) or event["event"] == "probe")  # type: ignore[func-returns-value]
    assert not left[0].exists()
    run = started.finish()
    assert run.code == 0, run.err
    assert decoded_frames(output) == 96
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out.mp4"]
    # The probes of the first run were taken as they are; those that were made now have come to the cache.
    assert set(stored) < set(cache.rglob("*.json"))
    assert len(list(cache.rglob("*.json"))) == run.end["probes"]

    # And without any cache or interruption it comes to the same file.
    fresh = vcm_encode(film, "-o", tmp_path / "fresh.mp4", *options, "--no-cache", "--json")
    assert fresh.code == 0, fresh.err
    assert digest(tmp_path / "fresh.mp4") == digest(output)
    assert [s["smr"] for s in fresh.end["segments"]] == [s["smr"] for s in run.end["segments"]]


def test_two_runs_beside_each_other_do_not_disturb(film: Path, tmp_path: Path) -> None:
    runs = [Started(film, "-o", tmp_path / f"{at}.mp4", "--qp", "40", "--no-anchor") for at in range(2)]
    assert [run.finish().code for run in runs] == [0, 0]
    assert digest(tmp_path / "0.mp4") == digest(tmp_path / "1.mp4")
    assert list(tmp_path.glob(".*")) == []


def test_a_reader_that_goes_away_ends_the_work(film: Path, tmp_path: Path) -> None:
    started = Started(film, "-o", tmp_path / "out.mp4", "--qp", "20", "--workers", "1")
    started.until(phase("encoding"))
    assert started.process.stdout is not None
    started.process.stdout.close()
    started.process.stdout = None
    _, err = started.process.communicate(timeout=120)
    assert (started.process.returncode, err) == (130, "")
    assert gone(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_sigstop_and_go_on_is_no_trouble(film: Path, tmp_path: Path) -> None:
    """Ctrl-Z and fg."""
    started = Started(film, "-o", tmp_path / "out.mp4", "--qp", "40", "--no-anchor")
    started.until(phase("encoding"))
    os.kill(started.process.pid, signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(started.process.pid, signal.SIGCONT)
    assert started.finish().code == 0
    assert decoded_frames(tmp_path / "out.mp4") == 96
