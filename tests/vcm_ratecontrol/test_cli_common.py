"""The shared front: exit codes, one line of error, events to the very end, signals, display."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from codec_wrappers import errors
from codec_wrappers.errors import VcmError
from vcm_ratecontrol.cli.common import CommandRun, VcmCommand, vcm_command
from vcm_ratecontrol.progress import RichProgress, SilentProgress

REPOSITORY = Path(__file__).resolve().parents[2]

# A command in a process of its own: it does whatever its argument says, with a temporary file open meanwhile.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import click
from vcm_ratecontrol.cli.common import vcm_command

@vcm_command("vcm-test")
@click.argument("how")
@click.option("--folder", type=click.Path(path_type=Path))
def main(run, how, folder):
    run.progress.phase("working", 50)
    if how == "noise":
        print("python noise", flush=True)
        os.write(1, b"native noise\\n")
        run.summarise(answer=42)
        run.show("the answer is 42")
    if how == "much":
        for number in range(100_000):
            run.emit("line", number=number)
            if not run.json:
                run.show(f"line {number}")
    if how in ("wait", "slow cleaning"):
        part = folder / "x.part"
        part.write_text("half")
        try:
            (folder / "ready").touch()
            for _ in range(600):
                time.sleep(0.05)
                run.progress.advance()
        finally:
            if how == "slow cleaning":
                (folder / "cleaning").touch()
                time.sleep(1)
            part.unlink()

main()
"""


def command_line(tmp_path: Path, *arguments: str) -> list[str]:
    script = tmp_path / "vcm_test_command.py"
    script.write_text(SCRIPT, encoding="utf-8")
    return [sys.executable, str(script), *arguments]


def start(tmp_path: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_line(tmp_path, *arguments),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def started(process: subprocess.Popen[str], mark: Path) -> None:
    deadline = time.monotonic() + 30
    while not mark.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def command(body: Callable[[CommandRun], None]) -> VcmCommand:
    @vcm_command("vcm-test")
    @click.option("--number", type=int)
    def main(run: CommandRun, number: int | None) -> None:
        body(run)

    return main


def invoke(body: Callable[[CommandRun], None], *arguments: str) -> Result:
    return CliRunner().invoke(command(body), list(arguments))


def raising(error: BaseException) -> Callable[[CommandRun], None]:
    def body(run: CommandRun) -> None:
        raise error

    return body


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


ERRORS: list[tuple[BaseException, int, str]] = [
    *((kind("in.png: is wrong; do this"), kind.exit_code, kind.__name__)
      for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VcmError)),
    (OSError(28, "No space left on device", "/x/out.mp4"), 2, "OutputError"),
    (OSError(122, "Disk quota exceeded"), 2, "OutputError"),
    (errors.EncoderError("vvenc: exit 228; its last words: No space left on device"), 2, "OutputError"),
    (PermissionError(13, "Permission denied", "/x/in.png"), 2, "OutputError"),
    (MemoryError(), 1, "MemoryError"),
    (OSError(5, "Input/output error"), 1, "OSError"),
    (ValueError("two\nlines"), 1, "ValueError"),
    (click.UsageError("this and that exclude each other"), 2, "UsageError"),
    (KeyboardInterrupt(), 130, "Interrupted"),
    (click.Abort(), 130, "Interrupted"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "kind"), ERRORS, ids=[type(e).__name__ + str(c) for e, c, _ in ERRORS])
def test_each_failure_has_its_exit_code_and_one_line(error: BaseException, code: int, kind: str) -> None:
    result = invoke(raising(error))
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line == "interrupted" if code == 130 else line.startswith("error: ")
    assert "Traceback" not in line

    result = invoke(raising(error), "--json")
    assert result.exit_code == code
    end = events(result)[-1]
    assert end["exit_code"] == code
    assert end["status"] == ("interrupted" if code == 130 else "error")
    assert end["error"] == {"type": kind, "message": line.removeprefix("error: ")}
    assert [event["event"] for event in events(result)].count("end") == 1


def test_exit_codes_are_the_documented_ones() -> None:
    page = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    documented: dict[str, int] = {}
    for code, kinds in re.findall(r"^\| (\d+) \|[^|]*\|([^|]*)\|$", page, re.MULTILINE):
        documented |= dict.fromkeys(re.findall(r"`(\w+)`", kinds), int(code))
    hierarchy = [
        k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, VcmError) and k is not VcmError
    ]
    assert {kind.__name__: kind.exit_code for kind in hierarchy}.items() <= documented.items()
    assert documented["UsageError"] == 2
    assert documented["Interrupted"] == documented["ReaderGone"] == 130


@pytest.mark.parametrize(
    ("arguments", "word"), [(["--nmber", "1"], "--number"), (["--number", "x"], "integer"), (["stray"], "stray")]
)
def test_usage_errors_are_one_line_that_points_to_the_help(arguments: list[str], word: str) -> None:
    result = invoke(lambda run: None, *arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert word in line
    assert "vcm-test --help" in line
    (end,) = events(invoke(lambda run: None, *arguments, "--json"))
    assert (end["event"], end["status"], end["exit_code"], end["error"]["type"]) == ("end", "error", 2, "UsageError")


@pytest.mark.parametrize("asked", ["option", "environment"])
def test_a_traceback_only_when_asked_for(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = raising(ValueError("deep down"))
    assert "Traceback" not in invoke(body).output
    if asked == "environment":
        monkeypatch.setenv("VCM_TRACEBACK", "1")
    arguments = ["--traceback"] if asked == "option" else []
    result = invoke(body, *arguments)
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: internal: ValueError: deep down")
    end = events(invoke(body, "--json", *arguments))[-1]
    assert "Traceback" in end["trace"]


def test_help_and_version_are_no_failures() -> None:
    for option in ("--help", "--version"):
        result = invoke(raising(AssertionError()), option, "--json")
        assert result.exit_code == 0
        assert "vcm-test" in result.stdout


def test_what_was_found_out_is_told_even_when_the_command_fails() -> None:
    def body(run: CommandRun) -> None:
        run.summarise(smr=0.8, reached=False)
        raise errors.TargetMissedError("in.png: SMR 0.8 is below 0.9; lower --target-smr")

    end = events(invoke(body, "--json"))[-1]
    assert (end["exit_code"], end["smr"], end["reached"]) == (3, 0.8, False)


def test_a_summary_cannot_hide_how_it_ended() -> None:
    end = events(invoke(lambda run: run.summarise(status="fine"), "--json"))[-1]
    assert (end["status"], end["exit_code"]) == ("error", 1)


def test_events_begin_and_end_in_order() -> None:
    def body(run: CommandRun) -> None:
        run.progress.phase("one", 2)
        run.progress.advance(2)
        run.emit("probe", qp=32)
        run.show("for a person")
        run.summarise(answer=42)

    found = events(invoke(body, "--json"))
    assert [event["event"] for event in found] == ["start", "phase", "probe", "progress", "end"] or [
        event["event"] for event in found
    ] == ["start", "phase", "progress", "probe", "end"]
    assert found[-1]["answer"] == 42
    assert found[-1]["error"] is None
    assert invoke(body).stdout == "for a person\n"


def test_in_pipes_there_is_no_display() -> None:
    seen: list[object] = []
    result = invoke(lambda run: seen.append(run.progress))
    assert isinstance(seen[0], SilentProgress)
    assert result.output == ""


def test_stdout_holds_nothing_but_events(tmp_path: Path) -> None:
    process = start(tmp_path, "noise", "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["start", "phase", "end"]
    assert err.splitlines() == ["python noise", "native noise"]
    process = start(tmp_path, "noise")
    out, err = process.communicate(timeout=60)
    assert out.splitlines() == ["python noise", "native noise", "the answer is 42"]
    assert err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_with_130_after_cleaning(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "wait", "--json", "--folder", str(tmp_path))
    started(process, tmp_path / "ready")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted\n"
    assert not (tmp_path / "x.part").exists()
    end = json.loads(out.splitlines()[-1])
    assert (end["event"], end["status"], end["exit_code"]) == ("end", "interrupted", 130)
    assert end["error"]["type"] == "Interrupted"


def test_an_impatient_second_signal_does_not_cut_the_cleaning_short(tmp_path: Path) -> None:
    process = start(tmp_path, "slow cleaning", "--folder", str(tmp_path))
    started(process, tmp_path / "ready")
    process.send_signal(signal.SIGINT)
    started(process, tmp_path / "cleaning")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert not (tmp_path / "x.part").exists()


def test_a_failure_after_a_signal_is_an_interruption() -> None:
    def body(run: CommandRun) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt as interrupted:
            raise errors.EncoderError("ffmpeg: signal SIGTERM; it printed nothing") from interrupted

    before = signal.getsignal(signal.SIGTERM)  # not the default where another test has started Ray
    result = invoke(body)
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("mode", [["--json"], []])
def test_a_reader_that_goes_away_stops_the_command_silently(tmp_path: Path, mode: list[str]) -> None:
    process = start(tmp_path, "much", *mode)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 130


def test_a_full_disk_behind_stdout_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command_line(tmp_path, "noise", "--json"),
            cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: the disk is full")
    assert "Traceback" not in result.stderr


def on_terminal(arguments: list[str], **options: Any) -> tuple[int, str, str, float]:
    """Run with stderr on a terminal: exit code, stdout, what the terminal got, seconds to its first byte."""
    ours, theirs = pty.openpty()
    began = time.monotonic()
    process = subprocess.Popen(
        arguments, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=theirs, text=True,
        env={**os.environ, "TERM": "xterm"}, **options,
    )  # fmt: skip
    os.close(theirs)
    shown, first = b"", None
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the last writer has closed it
            break
        if not chunk:
            break
        first = first or time.monotonic() - began
        shown += chunk
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out, shown.decode("utf-8", "replace"), first or 0.0


def test_on_a_terminal_the_display_starts_within_the_first_second(tmp_path: Path) -> None:
    times = []
    for _ in range(3):  # the best of three: the others measure the load of the computer
        code, out, shown, first = on_terminal(command_line(tmp_path, "noise"))
        assert (code, out.splitlines()[-1]) == (0, "the answer is 42")
        assert "working" in shown
        assert shown.rstrip().endswith("\x1b[2K")  # the display has gone when it is over
        times.append(first)
    assert min(times) < 1.0


@pytest.mark.parametrize("option", ["--quiet", "-q", "--json"])
def test_no_display_when_asked_for_none(tmp_path: Path, option: str) -> None:
    code, _, shown, _ = on_terminal(command_line(tmp_path, "nothing", option))
    assert (code, shown) == (0, "")


def test_after_an_interruption_the_terminal_is_as_before(tmp_path: Path) -> None:
    script = [*command_line(tmp_path, "wait", "--folder", str(tmp_path))]
    code, _, shown, _ = on_terminal(["timeout", "--signal=INT", "--kill-after=20", "2", *script])
    assert code in (124, 130)  # `timeout` tells its own
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back
    assert shown.rstrip().endswith("interrupted")


def test_rich_progress_survives_any_order_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        progress = RichProgress(terminal)
        progress.advance()
        progress.note("[bold]not markup[/bold]")
        progress.phase("one")
        progress.advance(0.5)
        progress.phase("two [3]", 2)
        progress.advance(5)
        progress.close()
        progress.close()
        progress.note("too late")
    shown = os.read(ours, 1 << 20).decode()
    os.close(ours)
    assert "[bold]not markup[/bold]" in shown
    assert "two [3]" in shown
    assert "too late" not in shown
