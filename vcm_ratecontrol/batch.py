"""Several inputs: one job that meets its target in the mean, or each on its own, whatever happens to the others."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from codec_wrappers.errors import InputError, OutputError, VcmError
from vcm_ratecontrol.encoding import encode_together, judges_of
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.ratecontrol.deciding import OnEvent
from vcm_ratecontrol.report import EncodeReport, total
from vcm_ratecontrol.request import EncodeRequest

if TYPE_CHECKING:
    from vcm_ratecontrol.jrd.job import JRDReport

R = TypeVar("R")
Planned = TypeVar("Planned", bound="EncodeReport | JRDReport")

#: Container of outputs that are named by their inputs.
BATCH_SUFFIX = ".mp4"


@dataclass(frozen=True)
class FailedInput:
    """An input that was not coded, and why."""

    input: Path
    error: VcmError


@dataclass(frozen=True)
class BatchReport:
    """reports: of the files that were written, in the order of the inputs. seconds: wall time."""

    reports: tuple[EncodeReport, ...]
    failed: tuple[FailedInput, ...]
    seconds: float

    @property
    def bits(self) -> int | None:
        return total(report.bits for report in self.reports)

    @property
    def predicted_bits(self) -> int | None:
        return total(report.predicted_bits for report in self.reports)

    @property
    def file_bytes(self) -> int | None:
        return total(report.file_bytes for report in self.reports)

    @property
    def reached(self) -> bool:
        return all(report.reached for report in self.reports)

    @property
    def notes(self) -> tuple[str, ...]:
        """Of all files, each once."""
        return tuple(dict.fromkeys(note for report in self.reports for note in report.notes))

    def mean(self, name: str) -> float | None:
        """Mean over the files of a field of `EncodeReport`, such as 'smr', weighted by frames; None without any."""
        told = [(value, r.n_frames) for r in self.reports if (value := getattr(r, name)) is not None]
        return sum(value * frames for value, frames in told) / sum(frames for _, frames in told) if told else None


def outputs_in(folder: Path, inputs: Sequence[Path]) -> tuple[Path, ...]:
    """Where the outputs of several inputs go: FOLDER/NAME.mp4. Raises OutputError for two of one name."""
    outputs = tuple(folder / f"{path.stem}{BATCH_SUFFIX}" for path in inputs)
    owner: dict[Path, Path] = {}
    for path, output in zip(inputs, outputs, strict=True):
        if output in owner:
            raise OutputError(f"{output}: would hold both {owner[output]} and {path}; rename one, or code them apart")
        owner[output] = path
    return outputs


@contextmanager
def placed(inputs: Sequence[Path], folder: Path, dry_run: bool) -> Iterator[tuple[tuple[Path, Path], ...]]:
    """Each input with its output, for as long as the block lasts: in the folder, which is made, and goes again if
    nothing was written; or for what is asked to write nothing in a temporary one.

    Raises InputError for no inputs, OutputError.
    """
    if not inputs:
        raise InputError("no input is given; name at least one picture or clip")
    outputs = outputs_in(folder, inputs)
    with ExitStack() as stack:
        if dry_run:  # what is tried out needs a place
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vcm-plan-")))
            outputs = tuple(place / output.name for output in outputs)
        elif not folder.is_dir():
            _make(folder)
            stack.callback(_remove_empty, folder)
        yield tuple(zip(inputs, outputs, strict=True))


def one_by_one(
    pairs: Sequence[tuple[Path, Path]],
    encode: Callable[[Path, Path], R],
    on_file: Callable[[R | FailedInput], None] = lambda told: None,
) -> tuple[tuple[R, ...], tuple[FailedInput, ...]]:
    """Encode each input to its output, whatever happens to the others.

    encode: gives the report of one, or raises VcmError. on_file: called with each report or failure.
    """
    reports: list[R] = []
    failed: list[FailedInput] = []
    for source, output in pairs:
        try:
            report = encode(source, output)
        except VcmError as error:
            failed.append(FailedInput(source, error))
            on_file(failed[-1])
        else:
            reports.append(report)
            on_file(report)
    return tuple(reports), tuple(failed)


def encode_batch(
    request: EncodeRequest,
    inputs: Sequence[Path],
    progress: Progress = SILENT,
    on_event: OnEvent | None = None,
    on_file: Callable[[EncodeReport | FailedInput], None] = lambda told: None,
) -> BatchReport:
    """Encode several inputs into the folder `request.output`, which is made.

    request: its `input` does not matter. Under the pool 'mean' (the default) they are one job, and what is wrong with
    one is raised before anything is coded. Under 'each', and with a fixed QP, one that fails does not stop the others.
    on_file: called with each report or failure. Raises as `encode_together`, and InputError for no inputs.
    """
    started = time.monotonic()
    request.check()
    with placed(inputs, request.output, request.dry_run) as pairs, judges_of(request) as judges:

        def encode(jobs: Sequence[EncodeRequest]) -> tuple[EncodeReport, ...]:
            reports = encode_together(jobs, progress, on_event, judges)
            return tuple(in_folder(report, request.output) for report in reports)

        if request.target is not None and request.target.pool != "each":
            pooled = replace(request, target=replace(request.target, pool="mean"))
            together = encode([replace(pooled, input=source, output=output) for source, output in pairs])
            for report in together:
                on_file(report)
            return BatchReport(together, (), time.monotonic() - started)
        reports, failed = one_by_one(
            pairs, lambda source, output: encode([replace(request, input=source, output=output)])[0], on_file
        )
        return BatchReport(reports, failed, time.monotonic() - started)


def in_folder(report: Planned, folder: Path) -> Planned:
    """The report with its output, and the files that its command lines name beside that, in another folder."""
    before, after = f"{report.output.parent}{os.sep}", f"{folder}{os.sep}"
    commands = tuple(tuple(word.replace(before, after) for word in line) for line in report.commands)
    return replace(report, output=folder / report.output.name, commands=commands)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made a folder ({error.strerror}); choose another with -o") from error
