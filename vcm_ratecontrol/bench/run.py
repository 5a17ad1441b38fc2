"""The whole benchmark: measure every unit at every level, let methods choose, judge, compare with the anchor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.encoder import Encoder, get_encoder
from codec_wrappers.errors import InputError, VcmError
from vcm_ratecontrol.annotate.run import Executor
from vcm_ratecontrol.bench.accuracy import Answers
from vcm_ratecontrol.bench.catalogue import Chosen, choose_methods
from vcm_ratecontrol.bench.choice import Choice, Method, seconds_of
from vcm_ratecontrol.bench.evaluate import Judge, Scores
from vcm_ratecontrol.bench.gather import Gathered, gather
from vcm_ratecontrol.bench.items import EVERYTHING, Collection, Item, LeftOut, Selection, collect
from vcm_ratecontrol.bench.machine_sets import MachineSets
from vcm_ratecontrol.bench.measuring import Coding, Outcome, Recipe
from vcm_ratecontrol.bench.object_maps import MapPlan, plan_maps
from vcm_ratecontrol.bench.predicted import predict
from vcm_ratecontrol.bench.savings import FlatCurve, Saving, bd_rates, saving_at, saving_at_equal_map, saving_near
from vcm_ratecontrol.bench.table import Table, make_table
from vcm_ratecontrol.bench.view import Prediction, View, make_view
from vcm_ratecontrol.labels.verdicts import check_thresholds
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from vcm_ratecontrol.bench.bdrate import MeanBdRate
    from vcm_ratecontrol.bench.detection_metrics import TrueBoxes

# Target SMRs that every method is asked for besides the user's: its curve of rate over satisfaction.
SWEEP = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)


@dataclass(frozen=True)
class Settings:
    """What to do. codecs: names or aliases. methods: of `catalogue`. levels: rising QPs; those beyond an encoder's
    range are left out for it. targets: SMRs of the table of savings. preset: None for each encoder's default.
    predictor: name or path, None for what is shipped. probes: of the predicted methods that probe. selection: of
    the files. n_resamples: of the bootstrap. annotations: files of human boxes (COCO format).
    """

    codecs: tuple[str, ...]
    methods: tuple[str, ...]
    levels: tuple[int, ...]
    targets: tuple[float, ...] = (0.8, 0.9, 0.95)
    preset: str | None = None
    thresholds: Thresholds = DEFAULT_THRESHOLDS
    task: str = "both"
    selection: Selection = EVERYTHING
    predictor: str | None = None
    probes: int = 3
    seed: int = 0
    n_resamples: int = 2000
    annotations: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class Point:
    """One operating point: what was asked, what came of it. encodes: per unit, the final one included; seconds: of one
    core, per item."""

    setting: float
    scores: Scores
    encodes: float
    seconds: float


@dataclass(frozen=True, eq=False)
class MethodRun:
    """near: target -> the saving at the point whose judged SMR is nearest to it; asked: at the point that was asked for
    the target. map_saving: per point, at equal mAP@0.5. bd: mean over items, or why there is none."""

    method: Method
    points: tuple[Point, ...]
    near: Mapping[float, Saving | None]
    asked: Mapping[float, Saving]
    map_saving: tuple[float | None, ...]
    bd: MeanBdRate | str


@dataclass(frozen=True, eq=False)
class CodecRun:
    """All of one encoder. unavailable: method -> why it was not run."""

    codec: str
    encoder: Encoder
    version: str
    preset: str
    table: Table
    flat: FlatCurve
    methods: tuple[MethodRun, ...]
    left_out: tuple[LeftOut, ...]
    unavailable: Mapping[str, str]
    measured: int


@dataclass(frozen=True, eq=False)
class BenchRun:
    """What a benchmark found. shared: judges that choose as well. measured: codings that no record held; seconds: wall
    time of all."""

    settings: Settings
    sets: MachineSets
    machine_tasks: Mapping[str, str]
    shared: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    codecs: tuple[CodecRun, ...]
    warnings: tuple[str, ...]
    seconds: float


@dataclass
class _Room:
    """What all encoders share."""

    settings: Settings
    sets: MachineSets
    collection: Collection
    machines: tuple[tuple[str, str], ...]
    tasks: dict[str, str]
    classes: dict[str, Sequence[int]]
    truth: dict[str, TrueBoxes]
    cache: Path
    executor: Executor
    progress: Progress
    on_outcome: Callable[[Outcome], None] | None
    warnings: list[str] = field(default_factory=list)


def run_bench(
    given: Sequence[str],
    sets: MachineSets,
    settings: Settings,
    cache: Path,
    executor: Executor,
    progress: Progress = SILENT,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> BenchRun:
    """Benchmark files and folders. cache: folder of records. on_outcome: told of every unit that was measured.

    Raises InputError (nothing to do, options that contradict each other), MissingToolError, OutputError.
    """
    started = time.monotonic()
    check_thresholds(settings.thresholds)
    chosen = {codec: _checked(codec, settings) for codec in settings.codecs}
    progress.phase("opening machines")
    library = sets.open()
    shared = sets.shared(library)
    machines, tasks = tuple(library.hashes.items()), {m.name: m.task for m in library}
    classes = _known_classes(library.machines)
    del library
    collection = collect(given, settings.selection, progress)
    truth = _human_boxes(settings.annotations, collection.items)
    room = _Room(
        settings, sets, collection, machines, dict(tasks), classes, truth, cache, executor, progress, on_outcome
    )
    if shared:
        room.warnings.append(
            f"{', '.join(shared)}: chooses and judges; the savings are those of neither known nor unseen machines"
        )
    if settings.annotations and not truth:
        room.warnings.append("--annotations: no picture of that name is among the items")
    for note in room.warnings:
        progress.note(note)
    runs = tuple(_run_codec(room, codec, *made) for codec, made in chosen.items())
    return BenchRun(
        settings, sets, tasks, shared, collection.left_out, runs, tuple(room.warnings), time.monotonic() - started
    )


def _checked(codec: str, settings: Settings) -> tuple[Encoder, str, tuple[int, ...], Chosen]:
    """The encoder, its preset, the levels it can code, and the methods; what is impossible is told before any work."""
    encoder = get_encoder(codec)
    capabilities = encoder.capabilities()
    preset = settings.preset or encoder.default_preset
    capabilities.require_preset(preset)
    levels = tuple(level for level in settings.levels if capabilities.qp_min <= level <= capabilities.qp_max)
    if len(levels) < 2:
        raise InputError(
            f"--levels: {codec} codes QP {capabilities.qp_min}..{capabilities.qp_max}, and two of them are needed"
        )
    return encoder, preset, levels, choose_methods(settings.methods, encoder, settings.probes, settings.predictor)


def _run_codec(
    room: _Room, codec: str, encoder: Encoder, preset: str, levels: tuple[int, ...], chosen: Chosen
) -> CodecRun:
    settings, collection = room.settings, room.collection
    version = encoder.capabilities().version
    recipe = Recipe(
        room.cache, encoder.name, version, preset, settings.selection.max_side, room.sets, room.machines, chosen.metrics
    )
    flat_codings = tuple(Coding(level) for level in levels)
    maps = _planned_maps(room, chosen, encoder, levels)
    units = [at for at in range(len(collection.units)) if at not in maps.failed]
    wanted = {at: (*flat_codings, *maps.codings.get(at, ())) for at in units}
    phase = f"measuring {codec}"
    found = gather(recipe, wanted, collection.units, room.executor, phase, room.progress, room.on_outcome)
    found.failed |= maps.failed
    left_out = [LeftOut(_name_of(collection, at), reason) for at, reason in found.failed.items()]
    n_columns = max((len(codings) for codings in wanted.values()), default=0)
    table = _table(room, found, levels, n_columns, chosen.metrics)
    table = _valid_items(room, table, left_out)
    prediction: Prediction | None = None
    if chosen.predictor is not None:
        room.progress.phase(f"predicting {codec}")
        table, prediction = _predicted(room, table, encoder, chosen, left_out)
    view = make_view(table, room.sets.choosing, settings.task, prediction, room.sets.known, settings.seed)
    methods = (*chosen.methods, *maps.methods)
    room.progress.phase(f"judging {codec}", len(methods))
    answers = Answers(table, room.sets.judging, room.truth, room.classes)
    judge = Judge(table, room.sets.judging, settings.task, answers)
    unavailable = {**chosen.unavailable, **maps.unavailable}
    runs: list[MethodRun] = []
    flat: FlatCurve | None = None
    for method in methods:
        try:
            points = _sweep(room, table, view, judge, method)
        except VcmError as error:
            unavailable[method.name] = str(error)
            continue
        if flat is None:
            flat = FlatCurve(tuple(point.scores for point in reversed(points)))
        runs.append(_compared(settings, table, flat, method, points))
        room.progress.advance()
    assert flat is not None
    return CodecRun(
        codec, encoder, version, preset, table, flat, tuple(runs), tuple(left_out), unavailable, found.measured
    )


def _planned_maps(room: _Room, chosen: Chosen, encoder: Encoder, levels: Sequence[int]) -> MapPlan:
    if not chosen.objects:
        return MapPlan()
    units, settings = room.collection.units, room.settings
    return plan_maps(
        chosen.objects, units, encoder, levels, room.sets, settings.selection.max_side, settings.seed, room.progress
    )


def _table(room: _Room, found: Gathered, levels: Sequence[int], n_columns: int, metrics: Sequence[str]) -> Table:
    collection = room.collection
    if len({collection.units[at].item for at in found.failed}) == len(collection.items):
        raise InputError(f"no item could be measured; the first: {next(iter(found.failed.values()))}")
    return make_table(
        collection.items, collection.units, levels, n_columns, found, room.settings.thresholds,
        [name for name, _ in room.machines], metrics,
    )  # fmt: skip


def _valid_items(room: _Room, table: Table, left_out: list[LeftOut]) -> Table:
    """Without the items that no choosing or no judging machine has an opinion of."""
    from vcm_ratecontrol.bench.view import unit_smr

    keep = set(range(len(table.items)))
    for names, role in ((room.sets.choosing, "choosing"), (room.sets.judging, "judging")):
        smr, _ = unit_smr(table, names, room.settings.task)
        seen = {unit.item for unit, value in zip(table.units, smr[:, 0].tolist(), strict=True) if value == value}
        for item in sorted(keep - seen):
            left_out.append(LeftOut(table.items[item].name, f"no valid {role} machine: none sees anything in it"))
        keep &= seen
    if not keep:
        raise InputError("no item has a valid choosing and judging machine; give other pictures or more machines")
    return table.of_items(sorted(keep))


def _predicted(
    room: _Room, table: Table, encoder: Encoder, chosen: Chosen, left_out: list[LeftOut]
) -> tuple[Table, Prediction]:
    settings = room.settings
    assert chosen.predictor is not None
    prediction, failed = predict(
        table, chosen.predictor, encoder.codec, room.sets.choosing, settings.task, settings.selection.max_side,
        settings.thresholds.confidence,
    )  # fmt: skip
    if not failed:
        return table, prediction
    left_out += [LeftOut(table.items[item].name, f"prediction: {reason}") for item, reason in failed.items()]
    if len(failed) == len(table.items):
        raise InputError(f"no item could be predicted; the first: {next(iter(failed.values()))}")
    keep = [item for item in range(len(table.items)) if item not in failed]
    rows = [at for at, unit in enumerate(table.units) if unit.item not in failed]
    kept = Prediction(**{name: values[rows] for name, values in vars(prediction).items()})
    return table.of_items(keep), kept


def _sweep(room: _Room, table: Table, view: View, judge: Judge, method: Method) -> tuple[Point, ...]:
    targets = sorted({*SWEEP, *room.settings.targets})
    settings = method.settings(view, targets)
    points = []
    for setting in settings:
        choice: Choice = method.choose(view, setting)
        scores = judge.score(choice.columns)
        seconds = seconds_of(table, choice, method, room.sets.choosing)
        encodes = float(choice.encodes.sum(axis=1).mean())
        points.append(Point(float(setting), scores, encodes, seconds / len(table.items)))
    return tuple(points)


def _compared(
    settings: Settings, table: Table, flat: FlatCurve, method: Method, points: tuple[Point, ...]
) -> MethodRun:
    sweep = [point.scores for point in points]
    seed, n_resamples = settings.seed, settings.n_resamples
    near = {target: saving_near(flat, sweep, target, seed, n_resamples) for target in settings.targets}
    by_setting = {point.setting: at for at, point in enumerate(points)}
    # A tenth of the resamples: these intervals are for orientation, those of `near` are published.
    asked = {
        target: saving_at(flat, by_setting[target], sweep[by_setting[target]], seed, n_resamples // 10)
        for target in settings.targets
        if target in by_setting and method.name != "flat"
    }
    bd = bd_rates(flat, sweep, [item.name for item in table.items], seed)
    return MethodRun(method, points, near, asked, tuple(saving_at_equal_map(flat, one) for one in sweep), bd)


def _name_of(collection: Collection, unit: int) -> str:
    return collection.items[collection.units[unit].item].name


def _known_classes(machines: Sequence[object]) -> dict[str, Sequence[int]]:
    """Detectors that know some of COCO's classes only -> which (index 0..79)."""
    from vcm_ratecontrol.machines.coco import COCO_CATEGORY_IDS

    specs = [machine.spec for machine in machines]  # type: ignore[attr-defined]
    return {
        spec.name: [COCO_CATEGORY_IDS.index(c) for c in spec.eval_categories]
        for spec in specs
        if spec.task == "detection" and spec.eval_categories is not None
    }


def _human_boxes(files: Sequence[Path], items: Sequence[Item]) -> dict[str, TrueBoxes]:
    """Human boxes of the stills among the items, in pixels as coded."""
    from vcm_ratecontrol.bench.detection_metrics import TrueBoxes, human_ground_truth

    scale = {item.name: item.scale for item in items if item.kind == "still"}
    found: dict[str, TrueBoxes] = {}
    for file in files:
        for name, boxes in human_ground_truth(file).items():
            if name in scale:
                found[name] = TrueBoxes(boxes.boxes * scale[name], boxes.classes, boxes.crowd)
    return found
