"""Records as arrays: U units, F sampled frames of them, M machines, C codings ("columns").

The first columns are the levels at which every unit is coded flat; codings with a map, one set per operating point,
stand after them. So an operating point of any method is one column per unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.bench.gather import Gathered
from vcm_ratecontrol.bench.items import Item, Unit
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.tables import rows_table
from vcm_ratecontrol.labels.verdicts import Verdicts, WholePictures, verdicts, whole_pictures
from vcm_ratecontrol.satisfaction import Thresholds

if TYPE_CHECKING:
    import pyarrow as pa

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

_DERIVED = {"object": -1, "codec": "", "preset": "", "coding": "", "slice_qp": 0, "match_iou": None}


@dataclass(frozen=True, eq=False)
class Table:
    """All that was measured with one encoder.

    items, units: those that take part; a unit's `item` is an index into `items`. levels: int [L], rising.
    frame_unit: intp [F], rising; opinions: verdicts of the F frames, machines in `opinions.machines`, its QPs being the
    original and the numbers of the columns. bits: float64 [U, C], totals of a unit. quality: metric ->
    float64 [U, C]. encode_seconds, decode_seconds: float64 [U]; machine_seconds: machine -> float64 [U], of one look
    at all sampled frames; quality_seconds: metric -> float64 [U]. rows: whole-picture rows of the label schema,
    `qp` being the column.
    """

    items: tuple[Item, ...]
    units: tuple[Unit, ...]
    levels: tuple[int, ...]
    frame_unit: Indices
    opinions: Verdicts
    bits: Floats
    quality: Mapping[str, Floats]
    encode_seconds: Floats
    decode_seconds: Floats
    machine_seconds: Mapping[str, Floats]
    quality_seconds: Mapping[str, Floats]
    rows: pa.Table

    @property
    def n_columns(self) -> int:
        return int(self.bits.shape[1])

    @property
    def unit_item(self) -> Indices:
        return np.array([unit.item for unit in self.units], np.intp)

    @property
    def frame_item(self) -> Indices:
        return self.unit_item[self.frame_unit]

    def machines_at(self, names: Sequence[str], task: str = "both") -> Indices:
        """Indices of these machines, those of another task left out."""
        opinions = self.opinions
        return np.array(
            [
                at
                for at, (name, of) in enumerate(zip(opinions.machines, opinions.tasks, strict=True))
                if name in names and task in ("both", of)
            ],
            np.intp,
        )

    def frame_smr(self, names: Sequence[str], task: str = "both") -> Floats:
        """SMR of each frame in each column over some machines: float64 [F, C], NaN where none is valid."""
        at = self.machines_at(names, task)
        valid = self.opinions.valid[:, at, 1:].sum(axis=1)
        satisfied = self.opinions.satisfied[:, at, 1:].sum(axis=1)
        smr: Floats = np.divide(satisfied, valid, out=np.full(valid.shape, np.nan), where=valid > 0)
        return smr

    @cached_property
    def whole(self) -> WholePictures:
        """The rows, indexed."""
        return whole_pictures(self.rows, self.opinions.machines, range(self.n_columns))

    def of_items(self, keep: Sequence[int]) -> Table:
        """Only these items (indices, rising)."""
        import pyarrow as pa

        if len(keep) == len(self.items):
            return self
        renumbered = {item: at for at, item in enumerate(keep)}
        units_at = [at for at, unit in enumerate(self.units) if unit.item in renumbered]
        new_unit = {at: new for new, at in enumerate(units_at)}
        frames = np.flatnonzero(np.isin(self.frame_unit, units_at))
        names = [self.opinions.pictures[at] for at in frames]
        mask = np.isin(np.asarray(self.rows["picture"].cast(pa.string()).to_numpy(zero_copy_only=False), str), names)

        def of(arrays: Mapping[str, Floats]) -> dict[str, Floats]:
            return {name: array[units_at] for name, array in arrays.items()}

        return replace(
            self,
            items=tuple(self.items[item] for item in keep),
            units=tuple(replace(self.units[at], item=renumbered[self.units[at].item]) for at in units_at),
            frame_unit=np.array([new_unit[at] for at in self.frame_unit[frames].tolist()], np.intp),
            opinions=self.opinions.of_pictures(names),
            bits=self.bits[units_at],
            quality=of(self.quality),
            encode_seconds=self.encode_seconds[units_at],
            decode_seconds=self.decode_seconds[units_at],
            machine_seconds=of(self.machine_seconds),
            quality_seconds=of(self.quality_seconds),
            rows=self.rows.filter(pa.array(mask)),
        )


def make_table(
    items: Sequence[Item],
    units: Sequence[Unit],
    levels: Sequence[int],
    n_columns: int,
    found: Gathered,
    thresholds: Thresholds,
    machines: Sequence[str],
    metrics: Sequence[str] = (),
) -> Table:
    """The records of all items of which no unit failed. Raises InputError for thresholds below what is stored."""
    broken = {units[at].item for at in found.failed}
    kept = [item for item in range(len(items)) if item not in broken]
    numbers = {item: at for at, item in enumerate(kept)}
    units_at = [at for at, unit in enumerate(units) if unit.item in numbers]
    rows = rows_table(list(_rows(units_at, n_columns, found)))
    opinions = verdicts(rows, thresholds, machines, range(n_columns))
    n_frames = [len(found.originals[at]["frames"]) for at in units_at]
    columns = range(n_columns)
    originals = [found.originals[at]["seconds"] for at in units_at]
    return Table(
        items=tuple(items[item] for item in kept),
        units=tuple(replace(units[at], item=numbers[units[at].item]) for at in units_at),
        levels=tuple(levels),
        frame_unit=np.repeat(np.arange(len(units_at)), n_frames),
        opinions=opinions,
        bits=np.array([[found.coded[at, c]["bits"] for c in columns] for at in units_at], np.float64),
        quality={
            name: np.array([[found.quality[at, c, name]["value"] for c in columns] for at in units_at], np.float64)
            for name in metrics
        },
        encode_seconds=np.array([seconds["encode"] for seconds in originals]),
        decode_seconds=np.array([seconds["decode"] for seconds in originals]),
        machine_seconds={
            name: np.array([seconds["machines"].get(name, 0.0) for seconds in originals]) for name in machines
        },
        quality_seconds={
            name: np.array([np.mean([found.quality[at, c, name]["seconds"] for c in columns]) for at in units_at])
            for name in metrics
        },
        rows=rows,
    )


def _rows(units_at: Sequence[int], n_columns: int, found: Gathered) -> Iterator[dict[str, Any]]:
    """Rows of the label schema. The name of a frame sorts as its unit and place do."""
    for number, at in enumerate(units_at):
        parts = [(ORIGINAL_QP, 0, found.originals[at]["frames"])]
        for column in range(n_columns):
            record = found.coded[at, column]
            parts.append((column, record["bits"], record["frames"]))
        for column, bits, frames in parts:
            for place, frame in enumerate(frames):
                name = f"{number:06d}-{place:04d}"
                for row in frame:
                    yield {**_DERIVED, **row, "picture": name, "qp": column, "bits": bits}
