"""The pool of worker processes: a worker that dies is replaced, and what killed it is skipped."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vcm_ratecontrol.annotate.local import annotate_local
from vcm_ratecontrol.annotate.run import Settings, dataset_config
from vcm_ratecontrol.annotate.sources import content_hash
from vcm_ratecontrol.annotate.task import Outcome, PictureTask, Recipe
from vcm_ratecontrol.labels.store import LabelStore
from vcm_ratecontrol.machines.library import LibraryRef

NAMES = ("000000052891", "000000075612", "000000098261", "000000301421")


class Deadly(str):
    """A path that kills the process to which it is sent."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


HOLD_THE_PIPE_AND_DIE = """
import os, signal, sys, time
frame = sys._getframe()
while "result_queue" not in frame.f_locals:
    frame = frame.f_back
frame.f_locals["result_queue"]._wlock.acquire()
time.sleep(4)  # the other worker has finished its task by now, and waits to send what came of it
os.kill(os.getpid(), signal.SIGKILL)
"""


class Holding(str):
    """A path that kills the process to which it is sent while that has the pipe of the results for itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (HOLD_THE_PIPE_AND_DIE,)


@pytest.fixture
def recipe(machines_dir: Path, tmp_path: Path) -> Recipe:
    library = LibraryRef(machines_dir, ("tinymaix_mbnet128_0.25",))
    config = dataset_config(library, Settings("vvc", (30, 40), max_side=96))
    LabelStore(str(tmp_path)).open(config)
    return Recipe(str(tmp_path), config, library)


@pytest.fixture
def tasks(picture: Callable[[str], Path]) -> list[PictureTask]:
    paths = [str(picture(f"coco/{name}.jpg")) for name in NAMES]
    return [PictureTask(path, content_hash(path)) for path in paths]


def test_a_worker_that_is_killed_costs_nothing(recipe: Recipe, tasks: list[PictureTask]) -> None:
    told: list[Outcome] = []

    def kill_one(outcome: Outcome) -> None:
        told.append(outcome)
        if len(told) == 1:
            worker = multiprocessing.active_children()[0]
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)

    annotate_local(recipe, tasks, 2, kill_one)
    assert [outcome.error for outcome in told] == [None] * len(told)
    assert LabelStore(recipe.store_url).finished() == {task.sha256 for task in tasks}


@pytest.mark.parametrize("kind", [Deadly, Holding])
def test_what_kills_its_worker_is_skipped(kind: type[str], recipe: Recipe, tasks: list[PictureTask]) -> None:
    """Whatever the dying worker held, the others get away."""
    deadly = PictureTask(kind("deadly.jpg"), "0" * 64)
    told: list[Outcome] = []
    annotate_local(recipe, [tasks[0], deadly, *tasks[1:]], 2, told.append)
    errors = [outcome.error for outcome in told if outcome.error is not None]
    assert len(errors) == 1
    assert errors[0].startswith("deadly.jpg: the worker process died on it")
    assert LabelStore(recipe.store_url).finished() == {task.sha256 for task in tasks}
    assert not multiprocessing.active_children()
