"""Whether the machines of a library open and run here."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from codec_wrappers.errors import VcmError

from .library import open_machine
from .manifest import MachineSpec
from .network import DEFAULT_MIN_CONFIDENCE

# Height and width of the test picture, that of many photographs; it holds noise of a fixed seed.
_SHAPE = (375, 500, 3)
_RUNS = 3


@dataclass(frozen=True)
class Check:
    """What became of one machine.

    sha256: its identity, '' where it did not open; open_seconds, milliseconds: to open it, and per picture with all
    its pre- and post-processing (the best of a few runs on one core); error: None when all is well.
    """

    name: str
    sha256: str
    open_seconds: float
    milliseconds: float
    error: VcmError | None


def check_machine(spec: MachineSpec, threads: int = 1) -> Check:
    """Opens a machine and runs it on a picture of noise. Never raises a VcmError: it is part of the answer."""
    picture = np.random.default_rng(0).integers(0, 256, _SHAPE, np.uint8)
    started = time.perf_counter()
    try:
        machine = open_machine(spec, threads, DEFAULT_MIN_CONFIDENCE)
        opened = time.perf_counter() - started
        times = []
        for _ in range(_RUNS):
            started = time.perf_counter()
            machine.run([picture])
            times.append(time.perf_counter() - started)
    except VcmError as error:
        return Check(spec.name, "", 0.0, 0.0, error)
    return Check(spec.name, machine.sha256, opened, 1000 * min(times), None)
