"""The one place that starts processes, with real ones: time-outs, orphans, stderr tails, pipes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from codec_wrappers.errors import EncoderError, MissingToolError
from codec_wrappers.process import STDERR_TAIL_LINES, ProcessGroup, run_process

REPOSITORY = Path(__file__).resolve().parents[2]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def written_pids(path: Path, count: int) -> list[int]:
    assert until(lambda: path.exists() and len(path.read_text().split()) == count)
    return [int(word) for word in path.read_text().split()]


def test_output_and_stderr_come_back_whole() -> None:
    # More than both pipes hold, at the same time: neither may block the other.
    result = run_process(sh("head -c 3000000 /dev/zero & seq 1 100000 >&2; wait"), timeout_s=60)
    assert result.stdout == bytes(3_000_000)
    assert result.stderr.splitlines() == [str(number) for number in range(1, 100_001)]
    assert result.seconds > 0


def test_lines_are_told_as_they_come() -> None:
    lines: list[tuple[str, float]] = []
    run_process(
        sh("echo first >&2; sleep 0.5; echo second >&2"),
        timeout_s=60,
        on_stderr_line=lambda line: lines.append((line, time.monotonic())),
    )
    assert [line for line, _ in lines] == ["first", "second"]
    assert lines[1][1] - lines[0][1] > 0.3


def test_input_is_written_as_the_program_reads_it() -> None:
    chunks = (bytes([at]) * 100_000 for at in range(50))
    assert run_process(sh("wc -c"), stdin=chunks, timeout_s=60).stdout.split() == [b"5000000"]
    assert run_process(sh("cat"), stdin=b"once", timeout_s=60).stdout == b"once"
    # Nobody's terminal is read.
    assert run_process(sh("cat"), timeout_s=60).stdout == b""


def test_a_time_out_kills_the_program_and_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM INT HUP; sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; echo working >&2; sleep 1000"
    began = time.monotonic()
    with pytest.raises(EncoderError, match=r"^sh: no end after 1 s, killed; its last words: working$"):
        run_process(sh(script), timeout_s=1)
    assert time.monotonic() - began < 10
    for pid in written_pids(pids, 2):
        assert until(lambda pid=pid: not alive(pid))  # type: ignore[misc]


def test_a_program_that_does_not_read_its_input_is_killed_too() -> None:
    endless = iter(lambda: bytes(1 << 20), b"")
    with pytest.raises(EncoderError, match="sleep: no end after 1 s"):
        run_process(["sleep", "1000"], stdin=endless, timeout_s=1)


def test_what_a_program_leaves_running_is_killed_and_does_not_hold_us_up(tmp_path: Path) -> None:
    began = time.monotonic()
    result = run_process(sh(f"sleep 1000 & echo $! > {tmp_path}/pid; echo done"), timeout_s=60)
    assert result.stdout == b"done\n"
    assert time.monotonic() - began < 10
    (pid,) = written_pids(tmp_path / "pid", 1)
    assert until(lambda: not alive(pid))


def test_a_failure_tells_the_exit_code_and_the_last_lines() -> None:
    with pytest.raises(EncoderError) as failure:
        run_process(sh("seq 1 1000 >&2; echo; echo the disk is on fire >&2; exit 7"), timeout_s=60)
    message = str(failure.value)
    assert message.startswith("sh: exit 7; its last words: ")
    assert message.endswith("| 1000 | the disk is on fire")
    assert message.count("|") == STDERR_TAIL_LINES - 1
    with pytest.raises(EncoderError, match="exit 3; it printed nothing"):
        run_process(sh("exit 3"), timeout_s=60)
    with pytest.raises(EncoderError, match="signal SIGSEGV"):
        run_process(sh("kill -SEGV $$"), timeout_s=60)


def test_a_program_that_dies_before_it_has_read_its_input_tells_why() -> None:
    with pytest.raises(EncoderError, match="exit 1; its last words: no such option"):
        run_process(sh("echo no such option >&2; exit 1"), stdin=bytes(10_000_000), timeout_s=60)


def test_stderr_that_is_no_text_is_no_trouble() -> None:
    result = run_process(sh(r"printf 'caf\351 \000 ok\n' >&2"), timeout_s=60)
    assert result.stderr == "caf\ufffd \x00 ok"


@pytest.mark.parametrize(
    ("program", "reason"),
    [("/no/such/program", "No such file"), (__file__, "Permission denied"), ("/etc", "Permission denied")],
)
def test_a_program_that_cannot_be_started_is_a_missing_tool(program: str, reason: str) -> None:
    with pytest.raises(MissingToolError, match=rf"^{program}: cannot be started \({reason}.*\); check the path"):
        run_process([program], timeout_s=60)


def test_a_source_that_fails_kills_the_program(tmp_path: Path) -> None:
    def frames() -> Iterator[bytes]:
        yield b"one"
        assert until((tmp_path / "pid").exists)
        raise ValueError("frame 1 is damaged")

    with pytest.raises(ValueError, match="frame 1 is damaged"):
        run_process(sh(f"echo $$ > {tmp_path}/pid; cat > /dev/null; sleep 1000"), stdin=frames(), timeout_s=60)
    (pid,) = written_pids(tmp_path / "pid", 1)
    assert not alive(pid)


def test_a_group_dies_together_and_stays_closed(tmp_path: Path) -> None:
    group, failures = ProcessGroup(), []

    def work(name: str) -> None:
        try:
            run_process(sh(f"echo $$ > {tmp_path}/{name}; sleep 1000"), timeout_s=60, group=group)
        except EncoderError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    pids = [written_pids(tmp_path / name, 1)[0] for name in ("a", "b", "c")]
    assert all(alive(pid) for pid in pids)
    group.close()
    for thread in threads:
        thread.join(timeout=20)
    assert len(failures) == 3
    assert all("SIGKILL" in failure for failure in failures)
    assert not any(alive(pid) for pid in pids)
    began = time.monotonic()
    work("late")
    assert len(failures) == 4
    assert time.monotonic() - began < 10


def test_an_interrupt_kills_a_real_encoder(tmp_path: Path) -> None:
    """Ctrl-C in a process of its own, in the middle of an encode of endless frames."""
    program = tmp_path / "endless.py"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    program.write_text(f"""
import os, pathlib, time
from codec_wrappers.process import run_process
def frames():
    for n in range(100000):
        yield os.urandom(192 * 128 * 3 // 2)
        if n == 30:
            pathlib.Path({str(tmp_path)!r}, "ready").touch()
        time.sleep(0.005)
arguments = "-y -f rawvideo -pix_fmt yuv420p -s 192x128 -i - -c:v libvvenc -preset faster"
run_process([{ffmpeg!r}, *arguments.split(), {str(tmp_path / "out.mp4")!r}], stdin=frames(), timeout_s=600)
""")
    with subprocess.Popen([sys.executable, str(program)], cwd=REPOSITORY, stderr=subprocess.PIPE) as process:
        assert until((tmp_path / "ready").exists, 30)
        children = _children(process.pid)
        assert len(children) == 1
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert not any(alive(pid) for pid in children)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in listed.split()]
