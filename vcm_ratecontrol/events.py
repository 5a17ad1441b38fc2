"""What the commands print with `--json`: one JSON object per line, an `end` always and once.

docs/commands.md states the guarantees in prose; each is tested. The typed dictionaries below are the schema:
a field that is not `NotRequired` is always there. Numbers that are not finite (the PSNR of equal pictures) are
null. Commands may add events of their own (`probe`, `frame`, ...) and fields to `end`; they never reuse a name
below with another meaning.
"""

import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NotRequired, TypedDict

#: Raised by one when a field changes its meaning or goes away; new events and new fields do not raise it.
SCHEMA_VERSION = 1

Status = Literal["ok", "error", "interrupted"]


class StartEvent(TypedDict):
    """The first line."""

    event: Literal["start"]
    seconds: float
    """Since the command began; in every event."""
    schema: int
    """`SCHEMA_VERSION`."""
    command: str
    """Name of the command, such as 'vcm-measure'."""
    version: str
    """Version of the package."""


class PhaseEvent(TypedDict):
    """A part of the work begins; the phase before it is over."""

    event: Literal["phase"]
    seconds: float
    phase: str
    """Its name, such as 'analysis', 'probing', 'encoding', 'machines'."""
    total: float | None
    """Steps that it will take; null where that is not known."""


class ProgressEvent(TypedDict):
    """How far the running phase has come: at most two a second, besides the one at its end."""

    event: Literal["progress"]
    seconds: float
    phase: str
    done: float
    """Steps done so far."""
    total: float | None


class NoteEvent(TypedDict):
    """Something worth telling that is no failure."""

    event: Literal["note"]
    seconds: float
    text: str


class ErrorInfo(TypedDict):
    """Why a command failed."""

    type: str
    """Name of the exception: 'InputError', 'OutputError', 'UsageError', 'Interrupted', ..."""
    message: str
    """The line that also stands on stderr, without its leading 'error: '."""


class EndEvent(TypedDict):
    """The last line: always, once. What the command found out stands in further fields."""

    event: Literal["end"]
    seconds: float
    command: str
    status: Status
    exit_code: int
    """Exit status of the process."""
    error: ErrorInfo | None
    """Null if and only if `status` is 'ok'."""
    trace: NotRequired[str]
    """Python traceback, with `--traceback` or VCM_TRACEBACK=1."""


#: What a command must not call its own fields of the end event.
END_FIELDS = frozenset(EndEvent.__annotations__)


class ReaderGoneError(Exception):
    """Nobody reads the standard output any more (`vcm-measure ... | head -1`): the work has lost its purpose."""


class EventWriter:
    """Writes events as lines to a text stream, each flushed. For use by several threads.

    After `end` nothing more is written. Raises ReaderGoneError when the reader has gone.
    """

    def __init__(self, stream: IO[str], command: str) -> None:
        self._stream = stream
        self._command = command
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._ended = False

    def start(self, version: str) -> None:
        self.write("start", schema=SCHEMA_VERSION, command=self._command, version=version)

    def write(self, event: str, **fields: object) -> None:
        """One line; `event` and `seconds` come first."""
        with self._lock:
            if not self._ended:
                self._write(event, fields)

    def end(
        self,
        status: Status,
        exit_code: int,
        error: ErrorInfo | None,
        summary: Mapping[str, object],
        trace: str | None = None,
    ) -> None:
        """The last line; fields of the summary must not be named like `END_FIELDS`."""
        fields: dict[str, object] = {
            "command": self._command,
            "status": status,
            "exit_code": exit_code,
            "error": error,
            **({} if trace is None else {"trace": trace}),
            **summary,
        }
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._write("end", fields)

    def _write(self, event: str, fields: Mapping[str, object]) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        # ASCII: a file name may hold bytes that are no text, which escapes carry through any pipe.
        line = json.dumps({"event": event, "seconds": seconds, **plain(fields)}, allow_nan=False)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError as error:
            raise ReaderGoneError("the reader of the standard output has gone") from error


def plain(value: Any) -> Any:
    """A value as JSON holds it: tuples and arrays as lists, paths as text, non-finite numbers as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) or hasattr(value, "tolist"):
        items = value.tolist() if hasattr(value, "tolist") else value
        return [plain(item) for item in items] if isinstance(items, Sequence) else plain(items)
    number = float(value)
    return number if math.isfinite(number) else None
