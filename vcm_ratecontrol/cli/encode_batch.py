"""How vcm-encode tells of several inputs, whatever the target: as each is done, and at the end."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vcm_ratecontrol.cli.common import CommandRun

if TYPE_CHECKING:
    from rich.table import Table

    from vcm_ratecontrol.batch import BatchReport, FailedInput
    from vcm_ratecontrol.jrd.batch import JRDBatchReport

R = TypeVar("R")


def is_folder(output: Path) -> bool:
    """Whether -o names a folder that is there: then even a single input goes into it."""
    return output.is_dir()


def teller(run: CommandRun, fields_of: Callable[[R], dict[str, Any]]) -> Callable[[R | FailedInput], None]:
    """What tells each file when it is done: a `file` event, or a `failed` one. fields_of: of a report."""
    from vcm_ratecontrol.batch import FailedInput

    def tell(told: R | FailedInput) -> None:
        if isinstance(told, FailedInput):
            run.emit("failed", **_failure(told))
            run.progress.note(str(told.error))
        else:
            run.emit("file", **fields_of(told))

    return tell


def batch_fields(batch: BatchReport | JRDBatchReport) -> dict[str, Any]:
    """Fields of the end event that do not depend on the target."""
    return {
        "failed": [_failure(failure) for failure in batch.failed],
        "bits": batch.bits,
        "file_bytes": batch.file_bytes,
        "notes": list(batch.notes),
        "job_seconds": batch.seconds,
    }


def close(run: CommandRun, batch: BatchReport | JRDBatchReport, table: Table, *, dry_run: bool) -> None:
    """Show the table, or of a dry run the command lines. Raises the first failure: its exit code is the command's."""
    if dry_run:
        run.show(*(shlex.join(command) for report in batch.reports for command in report.commands))
    elif batch.reports:
        run.show(table, *(f"note: {note}" for note in batch.notes))
    if batch.failed:
        run.show(*(f"failed: {failure.error}" for failure in batch.failed))
        first = batch.failed[0].error
        if (count := len(batch.failed) + len(batch.reports)) > 1:
            raise type(first)(f"{len(batch.failed)} of {count} inputs failed, the first: {first}")
        raise first


def _failure(failure: FailedInput) -> dict[str, object]:
    """The input, and why, as in the `error` of the end event."""
    return {"input": failure.input, "type": type(failure.error).__name__, "message": str(failure.error)}
