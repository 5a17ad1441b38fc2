"""Who tells how good a QP is: machines at hand, or predictors. Opened once for a job of any number of files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vcm_ratecontrol.ratecontrol.predicted import CurveSource, open_curve_source, require_source
from vcm_ratecontrol.ratecontrol.reference import ReferenceScorer, open_reference_scorer
from vcm_ratecontrol.scoring import MachineRoom, Tasks

if TYPE_CHECKING:
    from vcm_ratecontrol.machines.library import LibraryRef
    from vcm_ratecontrol.predictors.interface import CodingType


class Judges:
    """Predictors are opened when they are first asked for, and once."""

    def __init__(self, codec: str, task: Tasks, room: MachineRoom | None, weights: Path | None) -> None:
        """codec: of the encoder. room: the machines, None without. weights: a folder of the user's predictors."""
        self.room = room
        self._codec, self._weights = codec, weights
        present = {machine.task for machine in room.library} if room is not None else set()
        self._task: Tasks = present.pop() if len(present) == 1 else task
        self._curves: dict[CodingType, CurveSource] = {}
        self._scorers: dict[CodingType, ReferenceScorer | None] = {}

    def require(self) -> None:
        """Raise MissingToolError when neither machines nor weights are there; opens nothing, and takes no time."""
        require_source(evidence=self.room is not None, weights=self._weights)

    def curves(self, coding: CodingType) -> CurveSource:
        """See `open_curve_source`."""
        if coding not in self._curves:
            self._curves[coding] = open_curve_source(
                self._codec, coding, self._task, evidence=self.room is not None, weights=self._weights
            )
        return self._curves[coding]

    def scorer(self, coding: CodingType) -> ReferenceScorer | None:
        """The full-reference predictor, None where its weights are not installed."""
        if coding not in self._scorers:
            self._scorers[coding] = open_reference_scorer(self.curves(coding).condition, self._weights)
        return self._scorers[coding]


@contextmanager
def open_judges(
    codec: str, task: Tasks, machines: LibraryRef | None, workers: int, weights: Path | None = None
) -> Iterator[Judges]:
    """Judges for the files of one codec. workers: threads of the machines. Raises InputError, MissingToolError."""
    with ExitStack() as stack:
        room = None if machines is None else stack.enter_context(MachineRoom(machines.open(), workers))
        yield Judges(codec, task, room, weights)
