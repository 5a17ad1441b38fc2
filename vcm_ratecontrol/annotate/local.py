"""Annotating on one computer: a pool of worker processes, each with its own opened library."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event

from codec_wrappers.errors import VcmError
from vcm_ratecontrol.annotate.task import Annotator, Outcome, Recipe, Task

# Tasks handed out ahead per worker: enough that none waits, few enough that an end is quick.
AHEAD_PER_WORKER = 2


def annotate_local(recipe: Recipe, tasks: Sequence[Task], workers: int, on_outcome: Callable[[Outcome], None]) -> None:
    """Annotate in `workers` processes (at least 1); on_outcome is called in this one, in order of completion.

    A broken picture is an Outcome with an error; the rest goes on. Raises OutputError when results can no
    longer be stored (a full disk) and VcmError when a worker died; what is stored stays. Whatever is raised
    here, the workers stop at their next QP.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pending: set[Future[Outcome]] = set()
    queue = iter(tasks)
    with ProcessPoolExecutor(workers, context, _open, (recipe, stop)) as pool:
        try:
            while True:
                while len(pending) < workers * AHEAD_PER_WORKER and (task := next(queue, None)) is not None:
                    pending.add(pool.submit(_run, task))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    on_outcome(future.result())
        except BrokenProcessPool as error:
            raise VcmError(
                "a worker process was killed (out of memory?); what is done is kept: run the same command again,"
                " perhaps with fewer --workers"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


class _Worker:
    """What a worker process holds: it is opened once, and ends when its parent does."""

    def __init__(self, recipe: Recipe, stop: Event) -> None:
        self.annotator: Annotator = recipe.open()
        self.stop = stop
        self._busy = threading.Lock()
        threading.Thread(target=self._follow_parent, daemon=True).start()

    def run(self, task: Task) -> Outcome:
        with self._busy:
            return self.annotator.run(task, self.stop.is_set)

    def _follow_parent(self) -> None:
        """A killed parent cannot tell its workers to go: without this they would wait for work for ever."""
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            self.stop.set()
            with self._busy:
                os._exit(1)


_worker: _Worker | None = None


def _open(recipe: Recipe, stop: Event) -> None:
    global _worker
    # These reach the whole group of processes; what they mean is the parent's business.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _worker = _Worker(recipe, stop)


def _run(task: Task) -> Outcome:
    assert _worker is not None
    return _worker.run(task)
