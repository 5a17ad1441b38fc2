"""How a long job tells how far it is: one interface, shown on a terminal, as JSON events, or not at all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from vcm_ratecontrol.events import EventWriter

#: Least seconds between two progress events of a phase: readers poll, they do not animate.
EVENT_INTERVAL_S = 0.5
REFRESHES_PER_SECOND = 5


class Progress(Protocol):
    """What a library function reports to. Every method may be called from any thread."""

    def phase(self, name: str, total: float | None = None) -> None:
        """Begin a part of the work of `total` steps (None: not known); the one before it is over."""
        ...

    def advance(self, amount: float = 1) -> None:
        """`amount` more steps of the phase are done."""
        ...

    def note(self, text: str) -> None:
        """Tell something of interest, one line. What the user must know belongs into the result as well."""
        ...

    def close(self) -> None:
        """End the display. The one who opened it calls this, library functions do not."""
        ...


class SilentProgress:
    """Tells nothing: in pipes, and the default of library functions."""

    def phase(self, name: str, total: float | None = None) -> None:
        pass

    def advance(self, amount: float = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


SILENT = SilentProgress()


class JsonProgress:
    """Phases, progress and notes as events."""

    def __init__(self, events: EventWriter, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, rising."""
        self._events = events
        self._clock = clock
        self._lock = threading.Lock()
        self._phase: str | None = None
        self._total: float | None = None
        self._done = 0.0
        self._told = 0.0
        self._told_at = 0.0

    def phase(self, name: str, total: float | None = None) -> None:
        with self._lock:
            self._finish()
            self._phase, self._total, self._done, self._told = name, total, 0.0, 0.0
            self._told_at = self._clock()
            self._events.write("phase", phase=name, total=total)

    def advance(self, amount: float = 1) -> None:
        with self._lock:
            self._done += amount
            if self._clock() - self._told_at >= EVENT_INTERVAL_S:
                self._tell()

    def note(self, text: str) -> None:
        self._events.write("note", text=text)

    def close(self) -> None:
        with self._lock:
            self._finish()
            self._phase = None

    def _finish(self) -> None:
        if self._phase is not None and self._done > self._told:
            self._tell()

    def _tell(self) -> None:
        self._told, self._told_at = self._done, self._clock()
        self._events.write("progress", phase=self._phase, done=self._done, total=self._total)


class RichProgress:
    """A bar per phase on a terminal, from construction on; all of it vanishes when it is closed."""

    def __init__(self, stream: TextIO, first: str = "starting") -> None:
        """stream: a terminal, usually stderr. first: what to show until the first phase begins."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        # A handle of its own: what native libraries write to stderr can then be kept away from the display.
        self._stream = os.fdopen(os.dup(stream.fileno()), "w", encoding="utf-8", errors="replace")
        self._bars: Bars = Bars(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(show_speed=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(file=self._stream, stderr=True),
            transient=True,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._lock = threading.Lock()
        self._closed = False
        self._bars.start()
        self._task: TaskID | None = self._bars.add_task(first, total=None)
        self._is_first = True

    def phase(self, name: str, total: float | None = None) -> None:
        with self._lock:
            if self._task is not None:
                if self._is_first:
                    self._bars.remove_task(self._task)
                else:
                    done = self._bars.tasks[-1].completed or 1
                    self._bars.update(self._task, total=done, completed=done)
            self._is_first = False
            self._task = self._bars.add_task(name, total=total)

    def advance(self, amount: float = 1) -> None:
        with self._lock:
            if self._task is not None:
                self._bars.advance(self._task, amount)

    def note(self, text: str) -> None:
        with self._lock:
            if not self._closed:
                self._bars.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._bars.stop()
                self._stream.close()


def shows_progress(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal on which a display can be drawn."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
