"""From the table to verdicts at any thresholds: who is satisfied with which picture at which QP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.labels.matching import Matches, first_entries, match, ragged_detections
from vcm_ratecontrol.labels.schema import MIN_STORED_CONFIDENCE, ORIGINAL_QP
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds

if TYPE_CHECKING:
    import pyarrow as pa

    from vcm_ratecontrol.labels.store import LabelStore

# All that verdicts and objects are derived from; object rows repeat it and are not needed.
COLUMNS = [
    *("picture", "object", "qp", "machine", "task", "status", "bits", "score", "labels", "confidences", "boxes"),
]


@dataclass(frozen=True)
class Verdicts:
    """Opinions of M machines on P pictures, each at Q QPs.

    pictures: hashes, rising. machines, tasks: of equal length, in the order of the data set's description.
    qps: rising; the first is ORIGINAL_QP (the original itself).
    valid: bool [P, M, Q], the opinion counts. satisfied: bool [P, M, Q], False where not valid.
    score: float32 [P, M, Q], F1 or the probability of the original's label; NaN where not valid.
    bits: int32 [P, Q], 0 for the original.
    """

    pictures: tuple[str, ...]
    machines: tuple[str, ...]
    tasks: tuple[str, ...]
    qps: tuple[int, ...]
    valid: npt.NDArray[np.bool_]
    satisfied: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float32]
    bits: npt.NDArray[np.int32]

    def of_machines(self, names: Sequence[str] | None = None, task: str = "both") -> Verdicts:
        """Only these machines, only of this task. Raises InputError for an unknown name or task."""
        if task not in ("both", "classification", "detection"):
            raise InputError(f"task {task!r}: use classification, detection or both")
        if unknown := set(names or ()) - set(self.machines):
            raise InputError(f"machine {sorted(unknown)[0]!r}: not in these labels; {', '.join(self.machines)}")
        keep = [
            at
            for at, name in enumerate(self.machines)
            if (names is None or name in names) and task in ("both", self.tasks[at])
        ]
        return replace(
            self,
            machines=tuple(self.machines[i] for i in keep),
            tasks=tuple(self.tasks[i] for i in keep),
            valid=self.valid[:, keep],
            satisfied=self.satisfied[:, keep],
            score=self.score[:, keep],
        )

    def of_pictures(self, pictures: Iterable[str]) -> Verdicts:
        """Only these pictures (hashes), such as those of one split."""
        wanted = set(pictures)
        keep = [at for at, name in enumerate(self.pictures) if name in wanted]
        return replace(
            self,
            pictures=tuple(self.pictures[i] for i in keep),
            valid=self.valid[keep],
            satisfied=self.satisfied[keep],
            score=self.score[keep],
            bits=self.bits[keep],
        )


@dataclass(frozen=True)
class WholePictures:
    """The whole-picture rows of a table, and where each belongs in arrays [P, M, Q]."""

    table: pa.Table
    pictures: tuple[str, ...]
    machines: tuple[str, ...]
    tasks: tuple[str, ...]
    qps: tuple[int, ...]
    picture: npt.NDArray[np.int64]
    machine: npt.NDArray[np.int64]
    qp: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.pictures), len(self.machines), len(self.qps)

    def rows_of(self, task: str) -> npt.NDArray[np.int64]:
        """Rows of the machines of one task, where the machine worked."""
        of_task = np.array([known == task for known in self.tasks], bool)
        status = self.table["status"].cast("string").to_numpy(zero_copy_only=False)
        return np.flatnonzero(of_task[self.machine] & (status == "ok")) if len(of_task) else self.picture[:0]


def whole_pictures(
    table: pa.Table, machines: Sequence[str] | None = None, qps: Sequence[int] | None = None
) -> WholePictures:
    """Pick the whole-picture rows of a table and index them.

    machines: the order wanted (default: by name); rows of others are dropped. qps: as in the data set's
    description, without the original (default: those found).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = table.filter(pc.equal(table["object"], -1))
    picture = table["picture"].cast(pa.string()).to_numpy(zero_copy_only=False)
    pictures, picture_at = np.unique(np.asarray(picture, str), return_inverse=True)
    found = np.asarray(table["machine"].cast(pa.string()).to_numpy(zero_copy_only=False), str)
    tasks = dict(zip(found, table["task"].cast(pa.string()).to_pylist(), strict=True))
    names = tuple(n for n in (machines if machines is not None else sorted(tasks)) if n in tasks)
    machine_at = _places(found, names)
    qp = np.asarray(table["qp"].to_numpy(), np.int64)
    levels = np.array(sorted({ORIGINAL_QP, *(qps if qps is not None else np.unique(qp).tolist())}), np.int64)
    keep = (machine_at >= 0) & np.isin(qp, levels)
    return WholePictures(
        table=table if keep.all() else table.filter(pa.array(keep)),
        pictures=tuple(pictures.tolist()),
        machines=names,
        tasks=tuple(tasks[n] for n in names),
        qps=tuple(levels.tolist()),
        picture=picture_at[keep],
        machine=machine_at[keep],
        qp=np.searchsorted(levels, qp[keep]),
    )


def _places(values: npt.NDArray[np.str_], names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Index of each value among the names, -1 where it is none of them."""
    known, inverse = np.unique(values, return_inverse=True)
    index = {name: at for at, name in enumerate(names)}
    places = np.array([index.get(name, -1) for name in known.tolist()], np.int64)
    return places[inverse]


@dataclass(frozen=True)
class MatchedRows:
    """Rows of detectors within WholePictures, int64 [R], and what became of their R detections."""

    rows: npt.NDArray[np.int64]
    matches: Matches


def match_rows(whole: WholePictures, thresholds: Thresholds) -> MatchedRows:
    """Match every detector's decoded result with its original one. Raises InputError (see check_thresholds)."""
    check_thresholds(thresholds)
    rows = whole.rows_of("detection")
    original = np.full(whole.shape[:2], -1, np.int64)
    at_original = np.flatnonzero(whole.qp[rows] == 0)
    original[whole.picture[rows[at_original]], whole.machine[rows[at_original]]] = at_original
    original_of = original[whole.picture[rows], whole.machine[rows]]
    # A machine that failed on the original has nothing to be compared with.
    detections = ragged_detections(whole.table.take(rows))
    known = original_of >= 0
    rows, original_of = rows[known], original_of[known]
    found = match(detections, detections.take(np.flatnonzero(known)), original_of, thresholds)
    return MatchedRows(rows, found)


def verdicts(
    table: pa.Table,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    machines: Sequence[str] | None = None,
    qps: Sequence[int] | None = None,
) -> Verdicts:
    """Verdicts of a table (columns COLUMNS suffice) at the given thresholds.

    machines: their order (default: by name). Raises InputError for thresholds that the table cannot tell.
    """
    whole = whole_pictures(table, machines, qps)
    valid, satisfied = np.zeros(whole.shape, bool), np.zeros(whole.shape, bool)
    score = np.full(whole.shape, np.nan, np.float32)
    _judge_detectors(whole, thresholds, valid, satisfied, score)
    _judge_classifiers(whole, thresholds, valid, satisfied, score)
    score[~valid] = np.nan
    bits = np.zeros((whole.shape[0], whole.shape[2]), np.int32)
    bits[whole.picture, whole.qp] = whole.table["bits"].to_numpy()
    return Verdicts(whole.pictures, whole.machines, whole.tasks, whole.qps, valid, satisfied & valid, score, bits)


def load_verdicts(
    store: LabelStore,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    machines: Sequence[str] | None = None,
    task: str = "both",
) -> Verdicts:
    """Verdicts of a whole label folder, shard after shard.

    Raises InputError (no labels, unknown machine, thresholds), CacheError (damaged shard, other schema).
    """
    config = store.config()
    names = tuple(config.machines) if config else None
    parts = [verdicts(t, thresholds, names, config.qps if config else None) for t in store.tables(COLUMNS)]
    return join(parts).of_machines(machines, task)


def check_thresholds(thresholds: Thresholds) -> None:
    """Raise InputError where a threshold lies below what the table stores."""
    if thresholds.confidence < MIN_STORED_CONFIDENCE:
        raise InputError(f"T_conf {thresholds.confidence}: the labels hold detections from {MIN_STORED_CONFIDENCE} on")


def _judge_detectors(
    whole: WholePictures,
    thresholds: Thresholds,
    valid: npt.NDArray[np.bool_],
    satisfied: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float32],
) -> None:
    matched = match_rows(whole, thresholds)
    found = matched.matches
    total = found.wanted + found.found
    f1 = np.divide(2.0 * found.tp, total, out=np.zeros(len(total)), where=total > 0)
    at = whole.picture[matched.rows], whole.machine[matched.rows], whole.qp[matched.rows]
    valid[at] = found.wanted > 0
    satisfied[at] = f1 >= thresholds.score
    score[at] = f1


def _judge_classifiers(
    whole: WholePictures,
    thresholds: Thresholds,
    valid: npt.NDArray[np.bool_],
    satisfied: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float32],
) -> None:
    rows = whole.rows_of("classification")
    table = whole.table.take(rows)
    at = whole.picture[rows], whole.machine[rows], whole.qp[rows]
    # The first of a classifier's labels is its answer.
    label, confidence = first_entries(table["labels"]), first_entries(table["confidences"])
    answer = np.full(whole.shape, -1, np.int32)
    answer[at] = label
    confident = np.zeros(whole.shape[:2], bool)
    on_original = whole.qp[rows] == 0
    confident[at[0][on_original], at[1][on_original]] = confidence[on_original] >= thresholds.label_confidence
    valid[at] = confident[at[:2]]
    satisfied[at] = (answer == answer[:, :, :1])[at]
    score[at] = table["score"].to_numpy(zero_copy_only=False)


def join(parts: Sequence[Verdicts]) -> Verdicts:
    """Verdicts of several tables of one data set (same QPs); a machine that a table lacks is not valid there."""
    names = list(dict.fromkeys(name for part in parts for name in part.machines))
    tasks = {name: task for part in parts for name, task in zip(part.machines, part.tasks, strict=True)}
    shape = (sum(len(p.pictures) for p in parts), len(names), len(parts[0].qps))
    valid, satisfied = np.zeros(shape, bool), np.zeros(shape, bool)
    score = np.full(shape, np.nan, np.float32)
    first = 0
    for part in parts:
        columns = [names.index(name) for name in part.machines]
        rows = slice(first, first + len(part.pictures))
        valid[rows, columns], satisfied[rows, columns] = part.valid, part.satisfied
        score[rows, columns] = part.score
        first += len(part.pictures)
    pictures = tuple(name for part in parts for name in part.pictures)
    order = np.argsort(np.array(pictures, dtype=str), kind="stable")
    return Verdicts(
        tuple(pictures[i] for i in order),
        tuple(names),
        tuple(tasks[name] for name in names),
        parts[0].qps,
        valid[order],
        satisfied[order],
        score[order],
        np.concatenate([part.bits for part in parts])[order],
    )
