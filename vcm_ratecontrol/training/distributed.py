"""Several GPUs through torch's own launcher: `torchrun --nproc-per-node 4 -m vcm_ratecontrol.cli.train ...`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from vcm_ratecontrol.predictors.device import choose_device

# Validation runs on one process while the others wait for it.
WAIT = timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """This process among those that train together. rank: 0..size-1; 0 validates, logs and saves."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def agree(self, value: bool) -> bool:
        """The leader's value, in all processes."""
        if self.size == 1:
            return value
        shared = torch.tensor([int(value)], device=self.device)
        distributed.broadcast(shared, 0)
        return bool(shared.item())

    def any(self, value: bool) -> bool:
        """Whether it is true in some process."""
        if self.size == 1:
            return value
        shared = torch.tensor([int(value)], device=self.device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return bool(shared.item())

    def wait(self) -> None:
        if self.size > 1:
            distributed.barrier()


def join_world(device: str = "auto") -> World:
    """The processes that torchrun started, by its environment variables; alone without them.

    Raises MissingToolError, InputError as `choose_device`.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device)
    if size == 1:
        return World(0, 1, chosen)
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=WAIT)
    return World(rank, size, chosen)


def leave_world(world: World) -> None:
    if world.size > 1 and distributed.is_initialized():
        distributed.destroy_process_group()
