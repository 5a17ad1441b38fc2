"""Machines: networks with their pre- and post-processing, and libraries of them.

    library = MachineLibrary.load("data/machines")
    results = library.run(rgb)          # {"yolox_nano": Detections(...), ...}

Nothing heavy is imported before a machine is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .machine import Classification, Detections, Machine, MachineRunError, Result, Task

if TYPE_CHECKING:
    from .library import LibraryRef, MachineLibrary
    from .preprocess import PreparedPicture

__all__ = [
    "Classification",
    "Detections",
    "LibraryRef",
    "Machine",
    "MachineLibrary",
    "MachineRunError",
    "PreparedPicture",
    "Result",
    "Task",
]

_LAZY = {"LibraryRef": "library", "MachineLibrary": "library", "PreparedPicture": "preprocess"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
