"""Options of every command that lets machines judge: which machines, and when they are satisfied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from vcm_ratecontrol.cli.common import PATH
from vcm_ratecontrol.cli.streams import quiet_native_stderr

if TYPE_CHECKING:
    from vcm_ratecontrol.machines.library import LibraryRef, MachineLibrary
    from vcm_ratecontrol.satisfaction import Thresholds

F = TypeVar("F", bound=Callable[..., Any])

TASKS = ("classification", "detection", "both")


@dataclass(frozen=True)
class MachineOptions:
    """directory: of the library, None where the option may be absent and is. names: None for all of the task."""

    directory: Path | None
    names: tuple[str, ...] | None
    task: Literal["classification", "detection", "both"]
    confidence: float
    iou: float
    score: float
    label_confidence: float = 0.0

    def thresholds(self) -> Thresholds:
        """Raises InputError when one lies outside 0..1."""
        from vcm_ratecontrol.satisfaction import Thresholds

        return Thresholds(self.confidence, self.iou, self.score, self.label_confidence)

    def reference(self) -> LibraryRef:
        """The library to open, here or in a worker. Raises click.UsageError when --machines is not given."""
        from vcm_ratecontrol.machines.library import LibraryRef
        from vcm_ratecontrol.machines.network import DEFAULT_MIN_CONFIDENCE

        if self.directory is None:
            raise click.UsageError("Missing option '--machines'.")
        task = None if self.task == "both" else self.task
        lowest = min(self.confidence, DEFAULT_MIN_CONFIDENCE)
        return LibraryRef(self.directory, self.names, task, min_confidence=lowest)

    def open(self) -> MachineLibrary:
        """Open the library. Raises InputError (manifest, names) and MissingToolError (files, checksums, runtimes)."""
        with quiet_native_stderr():
            return self.reference().open()


def _listed(names: str, directory: Path | None) -> tuple[str, ...]:
    """Raises click.UsageError where there is nothing to choose, or nothing to choose from."""
    if directory is None:
        raise click.UsageError(f"--names {names}: chooses machines of a library; give it with --machines DIR")
    listed = tuple(name.strip() for name in names.split(",") if name.strip())
    if not listed:
        raise click.UsageError("--names: holds no name; leave it out for all machines of the library")
    return listed


def machine_options(required: bool = True) -> Callable[[F], F]:
    """Add --machines, --names, --task and the thresholds; the function gets `machines: MachineOptions`.

    required: --machines must be given.
    """

    def decorate(function: F) -> F:
        import functools

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            directory, names = kwargs.pop("machines"), kwargs.pop("names")
            options = MachineOptions(
                directory=directory,
                names=None if names is None else _listed(names, directory),
                task=kwargs.pop("task"),
                confidence=kwargs.pop("t_conf"),
                iou=kwargs.pop("t_iou"),
                score=kwargs.pop("t_score"),
                label_confidence=kwargs.pop("t_label"),
            )
            return function(*args, machines=options, **kwargs)

        ratio = click.FloatRange(0, 1)
        for option in (
            click.option("--t-label", type=ratio, default=0.0, show_default=True,
                         help="Least confidence of a classifier in its label on the original, for it to count."),
            click.option("--t-score", type=ratio, default=0.5, show_default=True,
                         help="Least F1 score S at which a detector is satisfied."),
            click.option("--t-iou", type=ratio, default=0.5, show_default=True,
                         help="Least intersection over union of two boxes that are one object."),
            click.option("--t-conf", type=ratio, default=0.3, show_default=True,
                         help="Least confidence of a detection that counts."),
            click.option("--task", type=click.Choice(TASKS), default="both", show_default=True,
                         help="Whose verdicts count."),
            click.option("--names", metavar="A,B,...", help="Only these machines of the library."),
            click.option("--machines", metavar="DIR", required=required, type=PATH,
                         help="Folder of the machine library: with a manifest.json in it or beside it."),
        ):  # fmt: skip
            wrapped = option(wrapped)
        return wrapped  # type: ignore[return-value]

    return decorate
