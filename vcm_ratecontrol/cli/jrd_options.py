"""Options of every command that codes per object: the share of machines, where objects come from, the background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from vcm_ratecontrol.cli.machine_options import MachineOptions
    from vcm_ratecontrol.jrd.sources import JRDSettings

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class JRDOptions:
    """ratio: share of the machines, None where per-object coding was not asked for."""

    ratio: float | None
    detector: str | None
    objects: Path | None
    background_qp: int | None
    caution: float

    def wanted(self, options: dict[str, Any]) -> bool:
        """Whether per-object coding is asked for; takes `verify_jrd` out of the other options where it is not.

        Raises click.UsageError for an option that means nothing without it.
        """
        if self.ratio is not None:
            return True
        given = {"detector": self.detector, "objects": self.objects, "background-qp": self.background_qp}
        for name, value in {**given, "verify-jrd": options.pop("verify_jrd") or None}.items():
            if value is not None:
                raise click.UsageError(f"--{name} needs --target-jrd, the share of machines to code each object for")
        return False

    def settings(self, machines: MachineOptions) -> JRDSettings:
        """Raises InputError for values that do not fit each other, click.UsageError without a ratio."""
        from dataclasses import replace

        from vcm_ratecontrol.jrd.sources import JRDSettings

        if self.ratio is None:
            raise click.UsageError("Missing option '--target-jrd'.")
        library = machines.reference() if machines.directory is not None else None
        return JRDSettings(
            ratio=self.ratio,
            # Classifiers see no objects: they need not be opened.
            machines=replace(library, task="detection") if library is not None else None,
            detector=self.detector,
            objects=self.objects,
            least=machines.confidence,
            background_qp=self.background_qp,
            caution=self.caution,
        )


def jrd_options(ratio: float | None = None) -> Callable[[F], F]:
    """Add --target-jrd and its companions; the function gets `jrd: JRDOptions`. ratio: the default, None for none."""

    def decorate(function: F) -> F:
        import functools

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            options = JRDOptions(
                ratio=kwargs.pop("target_jrd"),
                detector=kwargs.pop("detector"),
                objects=kwargs.pop("objects"),
                background_qp=kwargs.pop("background_qp"),
                caution=kwargs.pop("jrd_caution"),
            )
            return function(*args, jrd=options, **kwargs)

        for option in (
            click.option("--jrd-caution", type=click.FloatRange(0, 1, min_open=True), default=0.25, show_default=True,
                         help="Share of the objects that may be more fragile than predicted."),
            click.option("--background-qp", type=click.IntRange(0, 63),
                         help="QP of what is no object.  [default: see docs/jrd.md]"),
            click.option("--objects", type=click.Path(path_type=Path), metavar="FILE",
                         help="Boxes of the objects in COCO's format, per frame for clips."),
            click.option("--detector", metavar="NAME", help="The machine of the library whose boxes are the objects."
                         "  [default: all its detectors]"),
            click.option("--target-jrd", type=click.FloatRange(0, 1, min_open=True), default=ratio,
                         show_default=ratio is not None, metavar="0..1",
                         help="Code each object so that this share of the machines still recognises it."),
        ):  # fmt: skip
            wrapped = option(wrapped)
        return wrapped  # type: ignore[return-value]

    return decorate
