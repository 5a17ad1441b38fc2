"""Annotating one picture: every machine looks at the original and at each decoded version."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codec_wrappers.encoder import Encoder
from codec_wrappers.still import StillSource, decode_still, encode_still
from vcm_ratecontrol.annotate.rows import ORIGINAL, CodedPicture, Row, picture_rows, rounded
from vcm_ratecontrol.machines.library import MachineLibrary
from vcm_ratecontrol.machines.machine import Detections, MachineRunError, Result
from vcm_ratecontrol.machines.preprocess import PreparedPicture

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    RGB = npt.NDArray[np.uint8]

# Decoded versions that a machine is given at once. More would win nothing on a CPU and cost memory: about
# 15 MB each with the inputs of 31 machines.
BATCH = 8


class StoppedError(Exception):
    """The work was asked to stop between two coded pictures; nothing of this picture is kept."""


@dataclass
class Spent:
    """Seconds of one worker by kind of work, and what it got through.

    failures: machine -> pictures (original or decoded) on which it failed.
    """

    encode: float = 0.0
    decode: float = 0.0
    machines: float = 0.0
    pictures: int = 0
    coded: int = 0
    by_machine: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, other: Spent) -> None:
        self.encode += other.encode
        self.decode += other.decode
        self.machines += other.machines
        self.pictures += other.pictures
        self.coded += other.coded
        for name, seconds in other.by_machine.items():
            self.by_machine[name] = self.by_machine.get(name, 0.0) + seconds
        for name, number in other.failures.items():
            self.failures[name] = self.failures.get(name, 0) + number

    @property
    def total(self) -> float:
        """Seconds of coding, decoding and machines together."""
        return self.encode + self.decode + self.machines


def never() -> bool:
    """The answer of a `stop` that nobody ever asks for."""
    return False


def coded_stills(
    rgb: RGB,
    encoder: Encoder,
    preset: str,
    qps: Iterable[int],
    spent: Spent,
    stop: Callable[[], bool] = never,
) -> Iterator[tuple[CodedPicture, RGB]]:
    """Code and decode a picture at each QP, in memory: (what was coded, uint8 RGB [H, W, 3]).

    Raises StoppedError as soon as stop() is true.
    """
    source = StillSource(rgb)
    for qp in qps:
        if stop():
            raise StoppedError
        started = time.monotonic()
        still = encode_still(source, qp, encoder, preset)
        encoded = time.monotonic()
        decoded = decode_still(still)
        spent.encode += encoded - started
        spent.decode += time.monotonic() - encoded
        slice_qp = qp if still.qp_read_back is None else round(still.qp_read_back)
        yield CodedPicture(qp, slice_qp, still.bits), decoded


def annotate_picture(
    key: Row,
    rgb: RGB,
    coded: Iterable[tuple[CodedPicture, RGB]],
    library: MachineLibrary,
    spent: Spent,
) -> list[Row]:
    """All rows of one picture.

    key: picture, codec, preset and coding columns. coded: decoded versions, any order.
    A machine that fails on a version is recorded as 'failed' there, one that fails on the original is 'failed'
    throughout: never as satisfied. A detector that sees nothing on the original is not asked again.
    """
    rows: list[Row] = []
    (first,) = _look(library, library.names, [rgb], spent)
    statuses = {name: _status(first[name]) for name in library.names}
    asked = [name for name, status in statuses.items() if status == "ok"]
    bases = {m.name: {**key, "machine": m.name, "task": m.task} for m in library}
    for name, base in bases.items():
        rows += picture_rows(base, ORIGINAL, first[name], first[name], statuses[name])
    for batch in _batched(coded):
        results = _look(library, asked, [decoded for _, decoded in batch], spent)
        for (picture, _), result in zip(batch, results, strict=True):
            spent.coded += 1
            for name, base in bases.items():
                now, status = result.get(name), statuses[name]
                if status == "ok" and now is None:
                    status = "failed"
                rows += picture_rows(base, picture, first[name] if status == "ok" else None, now, status)
    spent.pictures += 1
    return rows


def _batched(coded: Iterable[tuple[CodedPicture, RGB]]) -> Iterator[tuple[tuple[CodedPicture, RGB], ...]]:
    pending = iter(coded)
    while batch := tuple(itertools.islice(pending, BATCH)):
        yield batch


def _status(result: Result | None) -> str:
    if result is None:
        return "failed"
    # It is invalid at every threshold that the table can be asked for: running it on sixty decoded pictures
    # would tell nothing.
    return "invalid" if isinstance(result, Detections) and len(result) == 0 else "ok"


def _look(
    library: MachineLibrary, names: Sequence[str], pictures: Sequence[RGB], spent: Spent
) -> list[dict[str, Result | None]]:
    """Results of the named machines on each picture, as stored; None where a machine failed."""
    prepared = [PreparedPicture(rgb) for rgb in pictures]
    results: list[dict[str, Result | None]] = [{} for _ in pictures]
    for name in names:
        started = time.monotonic()
        machine = library[name]
        found: Sequence[Result | None]
        try:
            found = machine.run(prepared)
        except MachineRunError:
            # Which one of them it was: the others count.
            found = [_run_alone(library, name, picture) for picture in prepared]
            spent.failures[name] = spent.failures.get(name, 0) + sum(answer is None for answer in found)
        for result, answer in zip(results, found, strict=True):
            result[name] = None if answer is None else rounded(answer)
        seconds = time.monotonic() - started
        spent.machines += seconds
        spent.by_machine[name] = spent.by_machine.get(name, 0.0) + seconds
    return results


def _run_alone(library: MachineLibrary, name: str, picture: PreparedPicture) -> Result | None:
    try:
        return library[name].run_one(picture)
    except MachineRunError:
        return None
