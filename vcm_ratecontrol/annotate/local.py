"""Annotating on one computer: a pool of worker processes, each with its own opened library."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_byte
from types import FrameType

from codec_wrappers.errors import VcmError
from vcm_ratecontrol.annotate.picture import Spent
from vcm_ratecontrol.annotate.task import Annotator, Outcome, Recipe, Task

# Set by the parent (a byte that the processes share): stop at the next QP.
Flag = c_byte

# Tasks handed out per worker, the running one included: enough that none waits, few enough that an end is quick.
TASKS_PER_WORKER = 2

# Pools in a row that may die before they finish anything: then it is not a picture that kills them.
FRUITLESS_POOLS = 2

DIED = "the worker process died on it (out of memory, or a crash inside a machine's runtime)"


def annotate_local(recipe: Recipe, tasks: Sequence[Task], workers: int, on_outcome: Callable[[Outcome], None]) -> None:
    """Annotate in `workers` processes (at least 1); on_outcome is called in this one, in order of completion.

    A broken picture is an Outcome with an error, and so is one on which a worker process dies; the rest goes on.
    Raises OutputError when results can no longer be stored (a full disk) and VcmError when workers die whatever
    they do; what is stored stays. Whatever is raised here, the workers stop at their next QP.
    """
    left = list(tasks)
    fruitless = 0
    while left:
        suspects, rest = _run_pool(recipe, left, workers, TASKS_PER_WORKER * workers, on_outcome)
        finished = len(left) - len(suspects) - len(rest)
        fruitless = 0 if finished else fruitless + 1
        if fruitless >= FRUITLESS_POOLS:
            raise VcmError("worker processes die before they finish a picture (out of memory?); use fewer --workers")
        # One of these killed its worker. Alone in a process, it shows which.
        while suspects:
            guilty, suspects = _run_pool(recipe, suspects, 1, 1, on_outcome)
            for task in guilty:
                on_outcome(Outcome(task, Spent(), f"{task.label}: {DIED}"))
        left = rest


def _run_pool(
    recipe: Recipe,
    tasks: Sequence[Task],
    workers: int,
    at_a_time: int,
    on_outcome: Callable[[Outcome], None],
) -> tuple[list[Task], list[Task]]:
    """Run tasks in a pool of processes until all are done, ([], []), or a process dies.

    Then: the tasks that were handed out (at most `at_a_time`), and those that were not.
    """
    context = multiprocessing.get_context("spawn")
    # No Event: a worker that is killed while it holds an Event's lock would leave everybody waiting for it.
    stop = context.RawValue("b", 0)
    pending: dict[Future[Outcome], Task] = {}
    queue = deque(tasks)
    with ProcessPoolExecutor(workers, context, _open, (recipe, stop)) as pool:
        try:
            while queue or pending:
                while queue and len(pending) < at_a_time:
                    pending[pool.submit(_run, queue[0])] = queue[0]
                    queue.popleft()
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    on_outcome(future.result())
                    del pending[future]
            return [], []
        except BrokenProcessPool:
            return list(pending.values()), list(queue)
        finally:
            stop.value = 1
            pool.shutdown(cancel_futures=True)


class _Worker:
    """What a worker process holds: it is opened once, and ends when its parent does."""

    def __init__(self, recipe: Recipe, stop: Flag) -> None:
        self.annotator: Annotator = recipe.open()
        self.stop = stop
        self.running = False
        self._busy = threading.Lock()
        threading.Thread(target=self._follow_parent, daemon=True).start()

    def run(self, task: Task) -> Outcome:
        with self._busy:
            return self.annotator.run(task, lambda: bool(self.stop.value))

    def _follow_parent(self) -> None:
        """A killed parent cannot tell its workers to go: without this they would wait for work for ever."""
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            self.stop.value = 1
            with self._busy:
                os._exit(1)


_worker: _Worker | None = None


def _open(recipe: Recipe, stop: Flag) -> None:
    global _worker
    # These reach the whole group of processes; what they mean is the parent's business.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # So ends a pool the workers that are left when one has died.
    signal.signal(signal.SIGTERM, _leave)
    _worker = _Worker(recipe, stop)


def _leave(number: int, frame: FrameType | None) -> None:
    """Within a task an exception, so that the running encoder is killed and its folder removed on the way out.

    Between tasks there is nothing to remove, and an exception would be lost: the pool catches all while it sends a
    result, and tries again, for ever if the worker that died held the lock of its pipe.
    """
    if _worker is None or not _worker.running:
        os._exit(1)
    raise SystemExit(1)


def _run(task: Task) -> Outcome:
    assert _worker is not None
    try:
        try:
            _worker.running = True
            return _worker.run(task)
        finally:
            _worker.running = False
    except SystemExit:
        # The pool would take it for the result of this task and wait for the next one.
        os._exit(1)
