"""What the training loop knows of a predictor: what to draw, how to load it, what to minimise, how to judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vcm_ratecontrol.predictors.interface import Tensors
from vcm_ratecontrol.progress import Progress

SCORE = "score"
"""Validation figure that early stopping follows; lower is better."""


@dataclass(frozen=True)
class Draw:
    """One batch before it is loaded: rows of the objective's samples, and the seed of all that is random in it.

    size: height and width of the network's input, (0, 0) where there are no pixels. A batch is a function of its
    draw alone, so it does not matter which thread loads it, nor whether the run was interrupted before.
    """

    rows: tuple[int, ...]
    seed: int
    size: tuple[int, int] = (0, 0)

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


class Objective(Protocol):
    """One stage of training. Implementations hold the data; the network is handed to them."""

    def prepare(self, network: nn.Module, device: torch.device, progress: Progress) -> None:
        """Before the first step, of a resumed run too: enter mean curves and the like."""
        ...

    def plan(self, rng: np.random.Generator, steps: int, batch_size: int) -> list[Draw]:
        """The batches of one epoch."""
        ...

    def load(self, draw: Draw) -> Tensors:
        """A batch on the CPU. Called from several threads at once."""
        ...

    def loss(self, network: nn.Module, item: Tensors) -> dict[str, Tensor]:
        """Parts of the loss by name, means over the batch; their sum is minimised."""
        ...

    def validate(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        """Figures on the validation pictures, `SCORE` among them. Network in evaluation mode."""
        ...

    def finish(self, network: nn.Module, device: torch.device, progress: Progress) -> dict[str, float]:
        """After the last step, with the best weights: calibrate on the validation pictures; what was found."""
        ...

    def data_sha256(self) -> str:
        """Hash of all labels and pictures that training read; hexadecimal."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """For provenance and model card: plain JSON values."""
        ...


def mean_of(parts: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each named figure over the parts that have it."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    return {name: float(np.mean([part[name] for part in parts if name in part])) for name in names}


def even_draws(rng: np.random.Generator, rows: npt.NDArray[np.int64], steps: int, batch_size: int) -> list[Draw]:
    """Draws without pixels: every row once before any is drawn again."""
    order = shuffled(rng, rows, steps * batch_size)
    seeds = rng.integers(0, 2**62, steps)
    return [Draw(tuple(order[at * batch_size : (at + 1) * batch_size].tolist()), int(seeds[at])) for at in range(steps)]


def shuffled(rng: np.random.Generator, rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """`count` of the rows: permutation after permutation."""
    passes = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(passes)])[:count]


def moved(item: Tensors, device: torch.device) -> Tensors:
    """The record on a device; pictures in the channels-last layout that convolutions are fastest in."""
    on_device = item.to(device)
    if device.type != "cuda":
        return on_device
    for record in (on_device, *(getattr(on_device, f.name) for f in fields(on_device))):
        for name in ("picture", "coded"):
            value = getattr(record, name, None)
            if isinstance(value, Tensor) and value.ndim == 4:
                object.__setattr__(record, name, value.contiguous(memory_format=torch.channels_last))
    return on_device
