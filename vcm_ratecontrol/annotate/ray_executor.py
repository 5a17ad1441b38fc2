"""Annotating on many computers: every picture is a Ray task; Ray places, counts and repeats them.

The label folder, and the pictures unless they are fsspec URLs, must be reachable under one address from every
node, and the machines under one path. A task is the same work as in `local`, so it gives the same bytes; that
makes repeating it on another node harmless.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codec_wrappers.errors import MissingToolError, VcmError
from vcm_ratecontrol.annotate.local import DIED
from vcm_ratecontrol.annotate.picture import Spent
from vcm_ratecontrol.annotate.task import Annotator, Outcome, Recipe, Task

if TYPE_CHECKING:
    from types import ModuleType

# How often Ray repeats a task whose node or process died. Spot instances die often, bad pictures never kill.
RETRIES = 10

# Tasks handed out ahead per slot: enough that none waits.
AHEAD_PER_SLOT = 2


@dataclass(frozen=True)
class RayOptions:
    """address: of a running cluster ('auto': this node's), None to start Ray on this computer alone.

    cpus, gpus: what one task takes, fractions allowed; Ray places no more tasks on a node than fit.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0


def annotate_ray(
    recipe: Recipe,
    tasks: Sequence[Task],
    options: RayOptions,
    on_outcome: Callable[[Outcome], None],
) -> None:
    """Annotate as Ray tasks; on_outcome is called here, in order of completion.

    A lost node costs the tasks that ran on it, which Ray starts again elsewhere; a task that died RETRIES times
    is an Outcome with an error. Raises MissingToolError (no Ray, no such cluster, GPUs that this computer lacks),
    OutputError (storage full), VcmError (the cluster is lost).
    """
    with _connected(options) as ray:
        if options.address is None and options.gpus > ray.cluster_resources().get("GPU", 0.0):
            # A cluster may grow; this computer will not, and Ray would wait for ever.
            raise MissingToolError(f"ray: a task asks for {options.gpus} GPUs, this computer has fewer")
        # max_calls: Ray would end a process after each task with a GPU, and the library be opened for each picture.
        claims = {"num_cpus": options.cpus, "num_gpus": options.gpus, "max_retries": RETRIES, "max_calls": 0}
        run = ray.remote(**claims)(_run)
        shared = ray.put(pickle.dumps(recipe))
        queue = iter(tasks)
        pending: dict[Any, Task] = {}
        while True:
            room = AHEAD_PER_SLOT * _slots(ray, options) - len(pending)
            for task in itertools.islice(queue, max(0, room)):
                pending[run.remote(shared, task)] = task
            if not pending:
                return
            (done, *_), _ = ray.wait(list(pending), num_returns=1)
            on_outcome(_result(ray, done, pending.pop(done)))


def _run(pickled: bytes, task: Task) -> Outcome:
    return _annotator(pickled).run(task)


@functools.lru_cache(maxsize=1)
def _annotator(pickled: bytes) -> Annotator:
    """Ray keeps its worker processes: the library is opened once in each."""
    recipe: Recipe = pickle.loads(pickled)
    return recipe.open()


@contextlib.contextmanager
def _connected(options: RayOptions) -> Iterator[ModuleType]:
    try:
        import ray
    except ImportError as error:
        raise MissingToolError(
            "ray: not installed; install vcm-ratecontrol[cluster] or leave out --executor ray"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise MissingToolError(f"ray: no cluster at {options.address!r} ({error}); start one first") from error
    try:
        yield ray
    finally:
        # Leaves a cluster that it joined, stops one that it started; tasks of this run end with it.
        ray.shutdown()


def _slots(ray: ModuleType, options: RayOptions) -> int:
    """How many tasks the cluster can run at once now; nodes come and go."""
    resources = ray.cluster_resources()
    slots = [resources.get("CPU", 0.0) / options.cpus] if options.cpus else []
    slots += [resources.get("GPU", 0.0) / options.gpus] if options.gpus else []
    return max(1, int(min(slots, default=1)))


def _result(ray: ModuleType, reference: Any, task: Task) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
        return outcome
    except ray.exceptions.RayTaskError as error:
        # The task's own exception, without the remote traceback that Ray puts into the text.
        if isinstance(error.cause, VcmError):
            raise error.cause from None
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
        return Outcome(task, Spent(), f"{task.label}: {DIED}, {RETRIES + 1} times")
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise VcmError(f"ray: the cluster is lost ({reason}); what is done is kept") from error
