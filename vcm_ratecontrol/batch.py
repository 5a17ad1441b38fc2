"""Several inputs: one job that meets its target in the mean, or each on its own, whatever happens to the others."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from codec_wrappers.errors import InputError, OutputError, VcmError
from vcm_ratecontrol.encoding import encode_together, judges_of
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.ratecontrol.deciding import OnEvent
from vcm_ratecontrol.report import EncodeReport
from vcm_ratecontrol.request import EncodeRequest

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
    def bits(self) -> int:
        return sum(report.bits for report in self.reports)

    @property
    def file_bytes(self) -> int:
        return sum(report.file_bytes for report in self.reports)

    @property
    def reached(self) -> bool:
        return all(report.reached for report in self.reports)

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
    if not inputs:
        raise InputError("no input is given; name at least one picture or clip")
    request.check()
    outputs = outputs_in(request.output, inputs)
    with ExitStack() as stack:
        folder = request.output
        if request.dry_run:
            # Probes need a place; what is asked to write nothing makes no folder there.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vcm-plan-")))
        else:
            _make(folder)
        requests = [replace(request, input=i, output=folder / o.name) for i, o in zip(inputs, outputs, strict=True)]
        judges = stack.enter_context(judges_of(request))

        def told(report: EncodeReport) -> EncodeReport:
            shown = replace(report, output=request.output / report.output.name)
            on_file(shown)
            return shown

        if request.target is not None and request.target.pool != "each":
            pooled = replace(request.target, pool="mean")
            together = encode_together([replace(r, target=pooled) for r in requests], progress, on_event, judges)
            return BatchReport(tuple(map(told, together)), (), time.monotonic() - started)
        reports: list[EncodeReport] = []
        failed: list[FailedInput] = []
        for single in requests:
            try:
                reports += map(told, encode_together((single,), progress, on_event, judges))
            except VcmError as error:
                failed.append(FailedInput(single.input, error))
                on_file(failed[-1])
        return BatchReport(tuple(reports), tuple(failed), time.monotonic() - started)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made a folder ({error.strerror}); choose another with -o") from error
