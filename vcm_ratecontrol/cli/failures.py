"""Which exception ends a command with which exit code and which one line: the table of docs/commands.md."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

import click

from codec_wrappers.errors import EncoderError, OutputError, VcmError
from vcm_ratecontrol.events import ReaderGoneError, Status

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_DISK_FULL = "the disk is full; free some space or write to another disk"
_FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FILE_CODES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR)


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP arrived; raised in the main thread, so that every `finally` runs."""


@dataclass(frozen=True)
class Failure:
    """How a command ends. kind: name of the exception's type; message: one line, '' when nothing is to be said."""

    exit_code: int
    status: Status
    kind: str
    message: str


def failure_of(error: BaseException, interrupted: bool = False, options: Sequence[str] = ()) -> Failure:
    """The end that an exception means for a command.

    interrupted: a signal had arrived before: whatever failed after that, failed because of it (an encoder that
    the same signal killed, say). options: what stood on the command line, up to a '--'.
    """
    if isinstance(error, ReaderGoneError):
        return Failure(EXIT_INTERRUPTED, "interrupted", "ReaderGone", "")
    if interrupted or isinstance(error, KeyboardInterrupt | click.Abort):
        return Failure(EXIT_INTERRUPTED, "interrupted", "Interrupted", "interrupted")
    if isinstance(error, click.UsageError):
        way = _dashed(error, options)
        if not way and error.ctx is not None:
            way = f"; see '{error.ctx.command_path} --help'"
        return Failure(EXIT_USAGE, "error", "UsageError", one_line(error.format_message().rstrip(".") + way))
    if isinstance(error, click.ClickException):
        return Failure(EXIT_USAGE, "error", type(error).__name__, one_line(error.format_message()))
    known = known_error(error)
    if known is not None:
        return Failure(known.exit_code, "error", type(known).__name__, one_line(known))
    if isinstance(error, MemoryError):
        text = "out of memory; take a smaller picture, fewer frames or fewer workers"
        return Failure(EXIT_INTERNAL, "error", "MemoryError", text)
    text = f"internal: {type(error).__name__}: {one_line(error)}; run again with --traceback and report it"
    return Failure(EXIT_INTERNAL, "error", type(error).__name__, text)


def _dashed(error: click.UsageError, options: Sequence[str]) -> str:
    """The way out where a file was read as an option, as its name begins with a dash; '' where none was."""
    if not isinstance(error, click.NoSuchOption | click.MissingParameter):
        return ""
    # `Path.is_file` raises for words that are too long for a name.
    dashed = (word for word in options if word.startswith("-") and os.path.isfile(word))  # noqa: PTH113
    return next((f"; for the file of that name write ./{word}, or put it last, behind --" for word in dashed), "")


def known_error(error: BaseException) -> VcmError | None:
    """The error of our hierarchy that an exception is or amounts to; None where there is no such."""
    if isinstance(error, EncoderError) and "No space left on device" in str(error):
        return OutputError(f"{_DISK_FULL} ({one_line(error)})")
    if isinstance(error, VcmError):
        return error
    if not isinstance(error, OSError):
        return None
    place = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in _FULL_CODES:
        return OutputError(place + _DISK_FULL)
    if error.errno in _FILE_CODES and place:
        return OutputError(f"{place}{error.strerror}; check its permissions or name another file")
    return None


def one_line(text: object) -> str:
    """Text without line breaks or runs of blanks."""
    return " ".join(str(text).split())
