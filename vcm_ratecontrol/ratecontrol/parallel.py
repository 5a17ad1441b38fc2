"""Work shared out over threads that wait for encoders: all of it, or the first failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def in_parallel(work: Callable[[K], T], order: Iterable[K], workers: int, give_up: Callable[[], None]) -> dict[K, T]:
    """The result of `work` for every key. The keys begin in their order, `workers` at a time.

    give_up: called when one fails (or a signal arrives), to end what the others wait for. Raises the first failure.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = {key: pool.submit(work, key) for key in order}
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            for future in futures.values():
                future.cancel()
            give_up()
            raise
        return {key: future.result() for key, future in futures.items()}
