"""The one place that starts processes: a watchdog, no orphans, and the stderr tail in the error."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from codec_wrappers.errors import EncoderError, MissingToolError

# Encoders print pages before they die; the reason is nearly always in the last lines.
STDERR_TAIL_LINES = 12
# Lines kept for the read-back of QPs and bits; an hour of 60 fps video prints 216,000.
STDERR_KEPT_LINES = 1_000_000


@dataclass(frozen=True)
class ProcessResult:
    """What a finished process gave back.

    stdout: raw bytes; stderr: text; seconds: wall time.
    """

    stdout: bytes
    stderr: str
    seconds: float

    @property
    def log(self) -> str:
        """All that it printed, as text: some encoders tell of their pictures on stdout, some on stderr."""
        return self.stdout.decode("utf-8", "replace") + self.stderr


def run_process(
    argv: Sequence[str],
    *,
    stdin: bytes | Iterable[bytes] | None = None,
    timeout_s: float = 600.0,
    on_stderr_line: Callable[[str], None] | None = None,
    cwd: Path | None = None,
    group: "ProcessGroup | None" = None,
    explain: Callable[[str], EncoderError | None] = lambda log: None,
) -> ProcessResult:
    """Run a program to its end in its own process group.

    stdin: bytes, or an iterable of chunks that is written as the program reads it.
    timeout_s: seconds without an end after which the whole group is killed.
    group: processes that are to die together; see `ProcessGroup`.
    explain: given all that a program printed which failed, says why where it knows.
    Raises MissingToolError if the program cannot be started, EncoderError on a non-zero exit or a
    time-out, each with what `explain` says or the last lines of stderr. Any other exception (Ctrl-C, a failing `stdin`
    iterable) kills the group before it is passed on.
    """
    if group is not None and group.closed:
        raise EncoderError(f"{Path(argv[0]).name}: not started; the work it belongs to has ended")
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise MissingToolError(f"{argv[0]}: cannot be started ({error.strerror}); check the path") from error
    if group is not None:
        group.add(process)
    pump = _Pump(process, on_stderr_line)
    timer = threading.Timer(timeout_s, pump.expire)
    timer.daemon = True
    timer.start()
    try:
        if stdin is not None:
            _feed(process, stdin)
        code = _end_of(process)
    except BaseException:
        kill_group(process)
        raise
    finally:
        timer.cancel()
        pump.join()
        if group is not None:
            group.remove(process)
    result = ProcessResult(b"".join(pump.chunks), "\n".join(pump.lines), time.monotonic() - started)
    if pump.expired:
        raise EncoderError(f"{Path(argv[0]).name}: no end after {timeout_s:.0f} s, killed; {_tail(pump.lines)}")
    if code != 0:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        raise explain(result.log) or EncoderError(f"{Path(argv[0]).name}: {how}; {_tail(pump.lines)}")
    return result


class ProcessGroup:
    """Processes started by several threads that are to die together, when one fails or the user interrupts."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether its processes were killed; none starts any more."""
        return self._closed

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Register a running process; it is killed at once when the group was closed while it started."""
        with self._lock:
            self._running.add(process)
            closed = self._closed
        if closed:
            kill_group(process)

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(process)

    def close(self) -> None:
        """Kill all that run, and all that will be added."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its children, and reap it."""
    _kill_all_of(process)
    process.wait()


def _kill_all_of(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is not None:  # reaped: its number may be another's by now
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process and kill what it leaves running: that would hold its pipes open, and us with them."""
    with contextlib.suppress(ChildProcessError):  # another thread has killed and reaped it
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    _kill_all_of(process)
    return process.wait()


class _Pump:
    """Reads stdout and stderr of a process on two threads, so that neither pipe fills up and blocks it."""

    def __init__(self, process: subprocess.Popen[bytes], on_line: Callable[[str], None] | None) -> None:
        self.process = process
        self.on_line = on_line
        self.chunks: list[bytes] = []
        self.lines: deque[str] = deque(maxlen=STDERR_KEPT_LINES)
        self.expired = False
        self._threads = [threading.Thread(target=self._out), threading.Thread(target=self._err)]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def _out(self) -> None:
        assert self.process.stdout is not None
        while chunk := self.process.stdout.read(1 << 16):
            self.chunks.append(chunk)
        self.process.stdout.close()

    def _err(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            self.lines.append(line)
            if self.on_line is not None:
                self.on_line(line)
        self.process.stderr.close()

    def expire(self) -> None:
        self.expired = True
        _kill_all_of(self.process)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def _feed(process: subprocess.Popen[bytes], stdin: bytes | Iterable[bytes]) -> None:
    assert process.stdin is not None
    # A program that dies early closes the pipe; its exit code tells the reason better than EPIPE.
    with contextlib.suppress(BrokenPipeError):
        for chunk in [stdin] if isinstance(stdin, bytes) else stdin:
            process.stdin.write(chunk)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _tail(lines: deque[str]) -> str:
    tail = [line.strip() for line in list(lines)[-STDERR_TAIL_LINES:] if line.strip()]
    return "its last words: " + " | ".join(tail) if tail else "it printed nothing"
