"""From what is asked to records: what the cache lacks goes to an executor, in processes here or on Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from vcm_ratecontrol.annotate.run import Executor
from vcm_ratecontrol.bench.items import Unit
from vcm_ratecontrol.bench.measuring import Coding, Measure, Outcome, Recipe
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.ratecontrol.probe_cache import ProbeCache

Record = dict[str, Any]


@dataclass
class Gathered:
    """Records of units (indices) and codings.

    originals: per unit; coded, quality: per unit and number of the coding. failed: unit -> why. measured: codings
    that were not in the cache.
    """

    originals: dict[int, Record] = field(default_factory=dict)
    coded: dict[tuple[int, int], Record] = field(default_factory=dict)
    quality: dict[tuple[int, int, str], Record] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    measured: int = 0


def gather(
    recipe: Recipe,
    wanted: Mapping[int, Sequence[Coding]],
    units: Sequence[Unit],
    executor: Executor,
    phase: str,
    progress: Progress = SILENT,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Gathered:
    """All records of `wanted` (unit -> codings), measured where the cache has none.

    Raises OutputError when the cache cannot be written.
    """
    cache = ProbeCache(recipe.cache)
    tasks, place = [], {}
    for at, codings in wanted.items():
        unit = units[at]
        fresh = cache.get(recipe.original_key(unit)) is None
        verdicts = tuple(c for c in codings if fresh or cache.get(recipe.coding_key(unit, c)) is None)
        quality = tuple(
            c for c in codings if any(cache.get(recipe.quality_key(unit, c, m)) is None for m in recipe.metrics)
        )
        if verdicts or quality:
            tasks.append(Measure(unit, verdicts, quality))
            place[unit] = at
    found = Gathered(measured=sum(len({*task.verdicts, *task.quality}) for task in tasks))
    progress.phase(phase, len(tasks))

    def told(outcome: Outcome) -> None:
        progress.advance()
        if outcome.error is not None:
            found.failed[place[outcome.task.unit]] = outcome.error
            progress.note(f"left out: {outcome.error}")
        if on_outcome is not None:
            on_outcome(outcome)

    if tasks:
        # The executors of annotation run any recipe that opens to something with `run`; only their types say more.
        cast(Any, executor)(recipe, tasks, told)
    for at, codings in wanted.items():
        if at not in found.failed:
            _read(cache, recipe, at, units[at], codings, found)
    return found


def _read(cache: ProbeCache, recipe: Recipe, at: int, unit: Unit, codings: Sequence[Coding], found: Gathered) -> None:
    original = cache.get(recipe.original_key(unit))
    coded = [cache.get(recipe.coding_key(unit, coding)) for coding in codings]
    quality = {
        (at, number, metric): cache.get(recipe.quality_key(unit, coding, metric))
        for number, coding in enumerate(codings)
        for metric in recipe.metrics
    }
    if original is None or None in coded or None in quality.values():
        found.failed[at] = f"{unit.work.label}: its records were deleted while they were read; run the command again"
        return
    found.originals[at] = original
    found.coded |= {(at, number): record for number, record in enumerate(coded)}
    found.quality |= quality
