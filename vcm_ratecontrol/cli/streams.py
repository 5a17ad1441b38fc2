"""Signals and standard streams of a running command."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from vcm_ratecontrol.cli.failures import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# An impatient second Ctrl-C must not cut the cleaning short; one after this many seconds may.
CLEANING_GRACE_S = 5.0


class Signals:
    """Turns signals into `Interrupted` while the block runs.

    arrived: there was one. deaf: set it to let the last steps of a command run to their end.
    """

    def __init__(self) -> None:
        self.arrived = False
        self.deaf = False
        self._last_at = 0.0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            # `nohup` and shell jobs in the background ignore some on purpose.
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    @staticmethod
    def let_in() -> None:
        """Take what came while `cli.start` made signals wait: raises `Interrupted` if one did."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.deaf or (self.arrived and now - self._last_at < CLEANING_GRACE_S):
            return
        self.arrived, self._last_at = True, now
        raise Interrupted(signal.Signals(number).name)


@contextlib.contextmanager
def kept_stdout() -> Iterator[TextIO]:
    """The standard output for events alone: what anybody else prints meanwhile goes to stderr.

    Native libraries print to descriptor 1 behind Python's back, so that is moved as well, where it is
    behind `sys.stdout`.
    """
    if not _is_descriptor(sys.stdout, 1) or not _is_descriptor(sys.stderr, 2):
        yield sys.stdout
        return
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    stream = os.fdopen(own, "w", encoding="utf-8")
    try:
        yield stream
    finally:
        with contextlib.suppress(OSError):  # gone or full: what is lost was said to be so before
            sys.stdout.flush()
        os.dup2(own, 1)
        with contextlib.suppress(OSError):
            stream.close()


@contextlib.contextmanager
def quiet_native_stderr() -> Iterator[None]:
    """Drop what native libraries write to stderr meanwhile (LiteRT greets, ncnn comments on its own return codes).

    The progress display has a handle of its own and goes on.
    """
    if not _is_descriptor(sys.stderr, 2):
        yield
        return
    sys.stderr.flush()
    own = os.dup(2)
    _point_at_nothing(2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)


def discard_stdout() -> None:
    """After the reader has gone: let Python's flush at exit find somebody."""
    if _is_descriptor(sys.stdout, 1):
        _point_at_nothing(1)


def _point_at_nothing(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _is_descriptor(stream: TextIO | None, number: int) -> bool:
    try:
        return stream is not None and stream.fileno() == number
    except (OSError, ValueError):  # captured, or closed
        return False
