"""Where a network runs: choosing the device, and halving batches that do not fit into its memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar, get_args

import torch

from codec_wrappers.errors import InputError, MissingToolError

DeviceName = Literal["auto", "cpu", "cuda"]

Notify = Callable[[str], None]

Result = TypeVar("Result")

_CPU_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
)  # torch's CPU allocator raises RuntimeError

_log = logging.getLogger(__name__)


def choose_device(name: str = "auto") -> torch.device:
    """The device of a `--device` option: 'auto' is CUDA where there is a usable GPU, else the CPU.

    Raises: MissingToolError if CUDA is asked for but absent; InputError for another name.
    """
    if name not in get_args(DeviceName):
        raise InputError(f"--device '{name}' is none of {', '.join(get_args(DeviceName))}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        built = torch.version.cuda
        reason = "no usable GPU was found" if built else "this torch was built without CUDA"
        raise MissingToolError(f"--device cuda: {reason}; use --device auto or cpu, or install a CUDA build of torch")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@contextlib.contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """No gradients, and on CUDA no TF32 convolutions: their 10-bit mantissa would part the GPU's results
    from the CPU's by more than 1e-3."""
    with torch.inference_mode():
        if device.type != "cuda":
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory of the GPU, or of the computer, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_OUT_OF_MEMORY)


def in_batches(
    run: Callable[[Sequence[int]], Result],
    indices: Sequence[int],
    batch_size: int,
    *,
    notify: Notify | None = None,
) -> Iterator[tuple[Sequence[int], Result]]:
    """Call `run` on slices of the indices, halving the batch when memory runs out, and saying so.

    Args: notify: gets one line per halving; None: the log, as a warning.
    Yields: the slice and its result. Raises: InputError if a single sample does not fit.
    """
    start = 0
    while start < len(indices):
        part = indices[start : start + batch_size]
        done = _try(run, part)
        if done:
            yield part, done[0]
            start += len(part)
            continue
        batch_size = len(part) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        (notify or _log.warning)(f"out of memory with {len(part)} pictures at once; going on with {batch_size}")


def _try(run: Callable[[Sequence[int]], Result], part: Sequence[int]) -> tuple[Result] | None:
    """The result, or None if memory did not suffice. A function of its own, so that nothing of a failed
    attempt (its error keeps all tensors of the batch alive) is left when the next one starts."""
    try:
        return (run(part),)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(part) > 1:
            return None
    raise InputError("out of memory for a single picture; use --device cpu, close other programs or shrink it")
