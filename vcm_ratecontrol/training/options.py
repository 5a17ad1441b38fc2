"""The `[training]` table of a configuration: how its network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from codec_wrappers.errors import InputError

Options = TypeVar("Options")


@dataclass(frozen=True)
class TrainingOptions:
    """What every training has. What is left over belongs to the objective: see `objective_options`.

    epochs, steps_per_epoch, batch_size: an epoch is a fixed number of optimizer steps, whatever the size of the data;
        it is the unit of validation, of early stopping and of resuming.
    learning_rate: peak of the schedule (linear warm-up over `warmup_steps`, then a half cosine to 0).
    backbone_learning_rate: factor on it for parameters named 'backbone'; 0 freezes them, batch statistics too.
    weight_decay: of AdamW, on parameters of two and more dimensions. gradient_clip: largest norm.
    averaging: decay per step of the moving average of the weights that is validated and kept; 0: none.
    patience: epochs without a better validation before training ends.
    init: checkpoint (.safetensors) whose small backbone training starts from, or '' for none.
    public_weights: path or URL of public weights for the trunk, '' for none; public_sha256: of that file.
    """

    epochs: int = 30
    steps_per_epoch: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1.0
    warmup_steps: int = 50
    weight_decay: float = 0.02
    gradient_clip: float = 1.0
    averaging: float = 0.0
    patience: int = 8
    init: str = ""
    public_weights: str = ""
    public_sha256: str = ""
    objective: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"[training] {name} = {getattr(self, name)}: must be at least 1")
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"[training] {name} = {getattr(self, name)}: must be above 0")
        if not 0 <= self.averaging < 1:
            raise InputError(f"[training] averaging = {self.averaging}: must be at least 0 and below 1")


def training_options(values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> TrainingOptions:
    """The options of a configuration's `[training]` table, with `overrides` (command line) put on top.

    Keys that are no field of `TrainingOptions` go to `objective`. Raises InputError for values of another type.
    """
    merged = {**values, **(overrides or {})}
    known = {f.name: f for f in fields(TrainingOptions) if f.name != "objective"}
    defaults = TrainingOptions()
    own: dict[str, Any] = {}
    for name in known.keys() & merged.keys():
        own[name] = _converted(name, merged[name], type(getattr(defaults, name)))
    rest = {name: value for name, value in merged.items() if name not in known}
    return TrainingOptions(**own, objective=rest)


def objective_options(kind: type[Options], values: Mapping[str, Any]) -> Options:
    """The options of an objective, a dataclass with defaults. Raises InputError for an unknown key or type."""
    defaults = kind()
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if unknown := set(values) - set(names):
        raise InputError(f"[training]: unknown key '{min(unknown)}'; this network also knows {', '.join(names)}")
    return kind(**{name: _converted(name, value, type(getattr(defaults, name))) for name, value in values.items()})


def _converted(name: str, value: Any, wanted: type) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is tuple and isinstance(value, list):
        return tuple(value)
    if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
        raise InputError(f"[training] {name} = {value!r}: must be a {wanted.__name__}")
    return value
