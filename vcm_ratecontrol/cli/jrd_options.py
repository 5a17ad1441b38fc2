"""Options of every command that codes per object: the share of machines, where objects come from, the background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from vcm_ratecontrol.cli.common import PATH

if TYPE_CHECKING:
    from vcm_ratecontrol.cli.machine_options import MachineOptions
    from vcm_ratecontrol.jrd.sources import JRDSettings
    from vcm_ratecontrol.options import JRDArguments

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class JRDOptions:
    """ratio: share of the machines, None where per-object coding was not asked for."""

    ratio: float | None
    detector: str | None
    objects: Path | None
    background_qp: int | None
    caution: float

    def arguments(self, machines: MachineOptions) -> dict[str, Any]:
        """These and those of the machines as keyword arguments of the library."""
        return {
            "machines": machines.directory,
            "names": machines.names,
            "task": machines.task,
            "t_conf": machines.confidence,
            "t_iou": machines.iou,
            "t_score": machines.score,
            "t_label": machines.label_confidence,
            "target_jrd": self.ratio,
            "detector": self.detector,
            "objects": self.objects,
            "background_qp": self.background_qp,
            "jrd_caution": self.caution,
        }

    def settings(self, machines: MachineOptions) -> JRDSettings:
        """Raises InputError for values that do not fit each other, click.UsageError without a ratio."""
        from vcm_ratecontrol.options import settings_of

        if self.ratio is None:
            raise click.UsageError("Missing option '--target-jrd'.")
        return settings_of(cast("JRDArguments", self.arguments(machines)))


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
            click.option("--objects", type=PATH, metavar="FILE",
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
