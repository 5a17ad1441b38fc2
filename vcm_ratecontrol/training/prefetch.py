"""Batches loaded ahead by threads: decoding, resizing and coding let go of Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Loaded = TypeVar("Loaded")

AHEAD_PER_WORKER = 2


def loaded_ahead(load: Callable[[Task], Loaded], tasks: Sequence[Task], workers: int) -> Iterator[Loaded]:
    """load(task) of each task, in order. workers: threads; 0 loads each when it is asked for.

    What `load` raises is raised here, at its turn.
    """
    if workers < 1:
        yield from map(load, tasks)
        return
    waiting: deque[Future[Loaded]] = deque()
    queue = iter(tasks)
    with ThreadPoolExecutor(workers, thread_name_prefix="load") as pool:
        try:
            for task in queue:
                waiting.append(pool.submit(load, task))
                if len(waiting) >= workers * AHEAD_PER_WORKER:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
