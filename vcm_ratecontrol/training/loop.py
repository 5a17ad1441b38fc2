"""The training loop: epochs of steps, validation, early stopping, a state to go on from.

Every epoch is seeded by itself (seed, epoch, process), and a batch is a function of its draw: a run that was killed
and resumed ends in the same weights, bit for bit on a CPU with the same number of threads, as one that was not.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from codec_wrappers.errors import CacheError
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.distributed import World
from vcm_ratecontrol.training.objective import SCORE, Objective, mean_of, moved
from vcm_ratecontrol.training.options import TrainingOptions
from vcm_ratecontrol.training.prefetch import loaded_ahead
from vcm_ratecontrol.training.run_log import RunLog
from vcm_ratecontrol.training.run_state import (
    STATE_FILE,
    RunState,
    load_state,
    random_states,
    restore_random,
    save_state,
)
from vcm_ratecontrol.training.steps import LossModule, Stepper, seed_epoch

Ending = Literal["all epochs", "no better", "time is up"]

# Processes ask each other whether time is up only now and then.
ASK_EVERY_STEPS = 8


@dataclass(frozen=True)
class RunSettings:
    """folder: for state and log. identity: what must be the same to resume. max_minutes: of training, all runs of
    this folder together; 0: no limit. workers: threads that load batches."""

    folder: Path
    seed: int
    identity: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    max_minutes: float = 0.0
    workers: int = 0


@dataclass(frozen=True)
class FitResult:
    """What training gave; the network holds the best weights. figures: of calibration and best validation."""

    epochs: int
    best_epoch: int
    best_score: float
    seconds: float
    ending: Ending
    figures: Mapping[str, float]


class Trainer:
    """Trains one network for one objective."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        options: TrainingOptions,
        settings: RunSettings,
        world: World,
        progress: Progress = SILENT,
    ) -> None:
        self.network = network.to(world.device)
        if world.device.type == "cuda":
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective
        self.options = options
        self.settings = settings
        self.world = world
        self.progress = progress if world.leads else SILENT
        self.total_steps = options.epochs * options.steps_per_epoch
        self.stepper = Stepper(self.network, options, world.device, self.total_steps)
        self.epoch, self.best_epoch, self.best_score = 0, 0, float("inf")
        self.best: Mapping[str, Tensor] = {}
        self.seconds = 0.0

    def fit(self) -> FitResult:
        """Train to the end. Raises CacheError (a run is there already, or of other settings), OutputError, VcmError."""
        self._start()
        log = RunLog(self.settings.folder, self.epoch) if self.world.leads else None
        losses: nn.Module = LossModule(self.network, self.objective)
        if self.world.size > 1:
            devices = [self.world.device.index] if self.world.device.type == "cuda" else None
            losses = nn.parallel.DistributedDataParallel(losses, devices, find_unused_parameters=True)
        self.progress.phase("training", self.total_steps)
        self.progress.advance(self.epoch * self.options.steps_per_epoch)
        ending: Ending = "all epochs"
        try:
            while self.epoch < self.options.epochs:
                if self.world.agree(self.epoch - self.best_epoch >= self.options.patience):
                    ending = "no better"
                    break
                if not self._run_epoch(losses, log):
                    ending = "time is up"
                    break
        finally:
            if log is not None:
                log.close()
        return self._end(ending)

    def _start(self) -> None:
        folder, world = self.settings.folder, self.world
        state = load_state(folder, self.settings.identity) if self.settings.resume else None
        if not self.settings.resume and (folder / STATE_FILE).exists():
            raise CacheError(f"{folder}: holds a run already; go on with --resume, or use another --out")
        world.wait()
        torch.manual_seed(self.settings.seed)
        self.objective.prepare(self.network, world.device, self.progress)
        self._average_from_network()
        if state is None:
            return
        self.network.load_state_dict(dict(state.network))
        self._average_from_network()
        if self.stepper.average is not None and state.average is not None:
            for name, value in state.average.items():
                self.stepper.average[name].copy_(value)
        self.stepper.optimizer.load_state_dict(dict(state.optimizer))
        self.stepper.scaler.load_state_dict(dict(state.scaler))
        self.epoch, self.seconds = state.epoch, state.seconds
        self.best, self.best_score, self.best_epoch = state.best, state.best_score, state.best_epoch
        restore_random(state.random, world.device)

    def _average_from_network(self) -> None:
        if self.stepper.average is not None:
            for name, value in self.network.state_dict().items():
                self.stepper.average[name].copy_(value)

    def _run_epoch(self, losses: nn.Module, log: RunLog | None) -> bool:
        """One epoch; False when time was up before its end. What it learnt until then is validated all the same."""
        started = time.monotonic()
        rng = seed_epoch(self.settings.seed, self.epoch, self.world.rank)
        self.stepper.train_mode(self.network)
        draws = self.objective.plan(rng, self.options.steps_per_epoch, self.options.batch_size)
        figures: list[dict[str, float]] = []
        whole = True
        batches = loaded_ahead(self.objective.load, draws, self.settings.workers)
        for number, item in enumerate(batches):
            step = self.epoch * self.options.steps_per_epoch + number
            figures.append(self.stepper.step(losses, self.network, moved(item, self.world.device), step))
            self.progress.advance()
            if number % ASK_EVERY_STEPS == 0 and self.world.any(self._time_is_up(started)):
                whole = False
                break
        batches.close()  # type: ignore[attr-defined]
        if whole:
            self.epoch += 1
        self._validate(mean_of(figures), started, log, whole)
        return whole

    def _time_is_up(self, started: float) -> bool:
        limit = self.settings.max_minutes * 60
        return 0 < limit <= self.seconds + time.monotonic() - started

    def _validate(self, learnt: dict[str, float], started: float, log: RunLog | None, whole: bool) -> None:
        if self.world.leads:
            candidate = self._candidate()
            candidate.eval()
            with torch.no_grad():
                figures = self.objective.validate(candidate, self.world.device, SILENT)
            if figures[SCORE] < self.best_score:
                self.best_score, self.best_epoch = figures[SCORE], self.epoch
                self.best = {name: value.detach().cpu().clone() for name, value in candidate.state_dict().items()}
            self.seconds += time.monotonic() - started
            line = {f"train {name}": value for name, value in learnt.items()}
            line |= {f"validation {name}": value for name, value in figures.items()}
            if log is not None and whole:
                log.write(self.epoch, {"seconds": self.seconds, **line})
                save_state(self.settings.folder, self._state())
            self._tell(learnt, figures)
        self.world.wait()
        # The other processes need to know when to end, not what was best.
        if self.world.size > 1:
            shared = torch.tensor([float(self.best_epoch), self.seconds], device=self.world.device)
            torch.distributed.broadcast(shared, 0)
            self.best_epoch, self.seconds = int(shared[0]), float(shared[1])

    def _candidate(self) -> nn.Module:
        """The network that is validated: with the averaged weights where there are such."""
        if self.stepper.average is None:
            return self.network
        averaged = copy.deepcopy(self.network)
        averaged.load_state_dict(self.stepper.average)
        return averaged

    def _tell(self, learnt: dict[str, float], figures: dict[str, float]) -> None:
        left = self.seconds / max(1, self.epoch) * (self.options.epochs - self.epoch) / 60
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.progress.note(
            f"epoch {self.epoch} of {self.options.epochs}: loss {learnt.get('loss', float('nan')):.4g};"
            f" validation {shown}; best {self.best_score:.4g} (epoch {self.best_epoch});"
            f" at most {left:.1f} min left"
        )

    def _state(self) -> RunState:
        return RunState(
            identity=dict(self.settings.identity),
            epoch=self.epoch,
            network=self.network.state_dict(),
            average=self.stepper.average,
            best=self.best,
            best_score=self.best_score,
            best_epoch=self.best_epoch,
            optimizer=self.stepper.optimizer.state_dict(),
            scaler=self.stepper.scaler.state_dict(),
            seconds=self.seconds,
            random=random_states(self.world.device),
        )

    def _end(self, ending: Ending) -> FitResult:
        figures: dict[str, float] = {}
        if self.world.leads:
            if self.best:
                self.network.load_state_dict(dict(self.best))
            self.network.eval()
            with torch.no_grad():
                figures = self.objective.finish(self.network, self.world.device, self.progress)
                figures |= self.objective.validate(self.network, self.world.device, self.progress)
        self.world.wait()
        return FitResult(self.epoch, self.best_epoch, self.best_score, self.seconds, ending, figures)
