"""One optimizer step: schedule, mixed precision, clipping, the moving average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codec_wrappers.errors import InputError, VcmError
from vcm_ratecontrol.predictors.backbone import Backbone, StandIn
from vcm_ratecontrol.predictors.device import is_out_of_memory
from vcm_ratecontrol.predictors.efficientnet import EfficientNet, EfficientNetV2Stages
from vcm_ratecontrol.predictors.interface import Tensors
from vcm_ratecontrol.predictors.vit import VisionTransformer
from vcm_ratecontrol.training.objective import Objective
from vcm_ratecontrol.training.options import TrainingOptions

# So many losses in a row that are not finite are no accident of mixed precision.
MOST_SKIPPED = 20

_TRUNKS = (StandIn, Backbone, EfficientNet, EfficientNetV2Stages, VisionTransformer)


class LossModule(nn.Module):
    """Network and objective as one module, so that DistributedDataParallel sees every use of the weights."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, item: Tensors) -> dict[str, Tensor]:
        return self.objective.loss(self.network, item)


class Stepper:
    """Optimizer, scaler and moving average of one network on one device.

    Args: total_steps: of the whole schedule.
    """

    def __init__(self, network: nn.Module, options: TrainingOptions, device: torch.device, total_steps: int) -> None:
        self.options = options
        self.device = device
        self.total_steps = total_steps
        self.trunks = trunks_of(network)
        if options.backbone_learning_rate == 0:
            for trunk in self.trunks:
                trunk.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self._groups(network), lr=options.learning_rate)
        half = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
        self.half = half if device.type == "cuda" else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half is torch.float16)
        self.average: dict[str, Tensor] | None = None
        if options.averaging:
            self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.skipped = 0

    def _groups(self, network: nn.Module) -> list[dict[str, Any]]:
        in_trunk = {id(p) for trunk in self.trunks for p in trunk.parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in network.parameters():
            if not parameter.requires_grad:
                continue
            factor = self.options.backbone_learning_rate if id(parameter) in in_trunk else 1.0
            decay = self.options.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
        return [
            {"params": members, "weight_decay": decay, "factor": factor}
            for (factor, decay), members in sorted(groups.items())
        ]

    def train_mode(self, network: nn.Module) -> None:
        """Training mode; a frozen trunk keeps its batch statistics."""
        network.train()
        if self.options.backbone_learning_rate == 0:
            for trunk in self.trunks:
                trunk.eval()

    def step(self, losses: nn.Module, network: nn.Module, item: Tensors, number: int) -> dict[str, float]:
        """One update at step `number` (0..total_steps-1); the parts of the loss, and their sum as 'loss'.

        Raises VcmError when training diverged, InputError when memory does not suffice.
        """
        rate = self.options.learning_rate * schedule(number, self.total_steps, self.options.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        with _memory_told(self.options.batch_size):
            with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                parts = losses(item)
            total = torch.stack([part.float() for part in parts.values()]).sum()
            finite = bool(torch.isfinite(total))
            if finite or isinstance(losses, nn.parallel.DistributedDataParallel):
                self._update(network, total)
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped > MOST_SKIPPED:
            raise VcmError(
                f"training diverged: {self.skipped} losses in a row are not finite; lower [training] learning_rate"
            )
        figures = {"loss": total, **parts} if finite else {}
        return {name: float(value.detach()) for name, value in figures.items()}

    def _update(self, network: nn.Module, total: Tensor) -> None:
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.options.gradient_clip)
        if self.half is torch.float16 or bool(torch.isfinite(norm)):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            update_average(self.average, network, self.options.averaging)


def trunks_of(network: nn.Module) -> list[nn.Module]:
    """The outermost trunks inside a network: stand-in, small backbone or a published trunk; not the network itself."""
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, _TRUNKS):
            found.append(child)
        else:
            found += trunks_of(child)
    return found


def schedule(step: int, total: int, warmup: int) -> float:
    """Factor of the learning rate, 0..1: linear warm-up, then half a cosine down to 0."""
    warmup = min(warmup, total // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def update_average(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """Move the average towards the network's weights; buffers that are no floats are copied."""
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def seed_epoch(seed: int, epoch: int, rank: int) -> np.random.Generator:
    """Seed torch for one epoch on one process, and give the generator that its batches are drawn with."""
    sequence = np.random.SeedSequence([seed, epoch, rank])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    return np.random.default_rng(sequence)


@contextlib.contextmanager
def _memory_told(batch_size: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"out of memory with [training] batch_size = {batch_size}; give a smaller one") from None
