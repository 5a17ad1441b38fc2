"""Several inputs coded per object: each on its own, whatever happens to the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vcm_ratecontrol.batch import FailedInput, in_folder, one_by_one, placed
from vcm_ratecontrol.jrd.job import JRDReport, JRDRequest, OnEvent, encode_jrd, encoder_of, opened_for
from vcm_ratecontrol.jrd.sources import read_boxes
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.report import total


@dataclass(frozen=True)
class JRDBatchReport:
    """reports: of the files that were written, in the order of the inputs. job_notes: what the user should know of the
    job as a whole. seconds: wall time."""

    reports: tuple[JRDReport, ...]
    failed: tuple[FailedInput, ...]
    seconds: float
    job_notes: tuple[str, ...] = ()

    @property
    def bits(self) -> int | None:
        return total(report.bits for report in self.reports)

    @property
    def file_bytes(self) -> int | None:
        return total(report.file_bytes for report in self.reports)

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the job and of all files, each once."""
        return tuple(dict.fromkeys([*self.job_notes, *(note for report in self.reports for note in report.notes)]))


def encode_jrd_batch(
    request: JRDRequest,
    inputs: Sequence[Path],
    progress: Progress = SILENT,
    on_event: OnEvent | None = None,
    on_file: Callable[[JRDReport | FailedInput], None] = lambda told: None,
) -> JRDBatchReport:
    """Encode several inputs into the folder `request.output`, which is made; one that fails does not stop the others.

    request: its `input` does not matter; its file of boxes, if it has one, must name the inputs (see
    `jrd.object_file`). on_event: as in `encode_jrd`, each event with its `input`. on_file: called with each report or
    failure. Raises what is wrong with all of them: InputError, OutputError, UnsupportedError, MissingToolError.
    """
    started = time.monotonic()
    progress.phase("analysis")
    boxes = read_boxes(request.settings, inputs)
    encoder_of(request)  # what no input could be coded with is told once, and before a folder is made
    with opened_for(request, boxes) as opened, placed(inputs, request.output, request.dry_run) as pairs:

        def encode(source: Path, output: Path) -> JRDReport:
            def emit(event: str, **fields: object) -> None:
                if on_event is not None:
                    on_event(event, input=source, **fields)

            report = encode_jrd(replace(request, input=source, output=output), progress, emit, opened)
            return in_folder(report, request.output)

        reports, failed = one_by_one(pairs, encode, on_file)
        return JRDBatchReport(reports, failed, time.monotonic() - started, boxes.notes if boxes else ())
