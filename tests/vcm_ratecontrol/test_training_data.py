"""Data of training: evidence, splits of machines, pictures found by content, views, buckets, bounded caches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import CacheError, InputError
from tests.vcm_ratecontrol.label_rows import classification, detections, key, line, machine_rows
from tests.vcm_ratecontrol.training_table import HEIGHT, MACHINES, QPS, WIDTH, Made, make_table
from vcm_ratecontrol.labels.dataset import DatasetConfig
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.store import LabelStore
from vcm_ratecontrol.predictors.config import InputSpec
from vcm_ratecontrol.predictors.evidence import (
    MachineEvidence,
    classification_statistics,
    detection_statistics,
    evidence_features,
)
from vcm_ratecontrol.training.buckets import bucket_draws, input_sizes
from vcm_ratecontrol.training.coded import CodedPictures
from vcm_ratecontrol.training.curve_bank import TargetBank, draw_evidence, halves, partitions
from vcm_ratecontrol.training.curve_targets import curve_targets
from vcm_ratecontrol.training.disk_cache import DiskCache
from vcm_ratecontrol.training.label_set import load_label_set, load_label_sets
from vcm_ratecontrol.training.machine_split import split_machines
from vcm_ratecontrol.training.pictures import PictureStore, find_pictures, missing_pictures
from vcm_ratecontrol.training.samples import Samples
from vcm_ratecontrol.training.views import View, random_view


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_table(tmp_path_factory.mktemp("table"), 24)


def test_evidence_is_what_the_predictors_are_given(tmp_path: Path) -> None:
    """Every number of the table's evidence is that of `evidence_features` on the machines' own results."""
    qps = (20, 30, 40)
    first = classification(2, 0.75)
    coded = {ORIGINAL_QP: first, 20: classification(2, 0.5), 30: classification(3, 0.4375), 40: None}
    seen = detections((4, 4, 30, 40, 0.75, 1), (20, 10, 60, 44, 0.375, 2), (0, 0, 8, 8, 0.25, 3))
    less = detections((4, 4, 30, 40, 0.5, 1))
    found = {ORIGINAL_QP: seen, 20: less, 30: detections(), 40: detections()}
    rows = [*machine_rows(key(1), "c0", coded), *machine_rows(key(1), "d0", found)]
    store = LabelStore(str(tmp_path / "labels"))
    store.open(DatasetConfig("vvenc", "vvc", "faster", "still", qps, {"c0": "", "d0": "", "d1": ""}, "1"))
    store.write_part(line(key(1)), rows)
    labels = load_label_set(str(tmp_path / "labels"))
    original = labels.evidence.on_original()[0]
    classifier = classification_statistics([0.75, 0.25 / 9])
    np.testing.assert_allclose(original[0], evidence_features(MachineEvidence("classification", classifier)), atol=4e-3)
    detector = detection_statistics(seen.scores, seen.boxes, 64, 48)
    np.testing.assert_allclose(original[1], evidence_features(MachineEvidence("detection", detector)), atol=1e-6)
    at_20 = labels.evidence.on_coded(1)[0]
    after = MachineEvidence("detection", detector, detection_statistics(less.scores, less.boxes, 64, 48), 2 / 3)
    np.testing.assert_allclose(at_20[1], evidence_features(after), atol=1e-3)
    for machine, column in ((0, 1), (0, 2), (1, 2)):
        features = evidence_features(labels.evidence.machine_evidence(0, machine, column))
        np.testing.assert_allclose(labels.evidence.on_coded(column)[0, machine], features, atol=1e-6)
    assert not labels.evidence.asked[0, 0, 3] and not labels.evidence.on_coded(3)[0, 0, 8:].any()
    boxes_and_scores = labels.originals.of(0, 1)
    assert boxes_and_scores is not None and len(boxes_and_scores[1]) == 3 and labels.originals.of(0, 0) is None


def test_a_label_set_joins_sizes_splits_and_objects(made: Made) -> None:
    labels = load_label_set(str(made.labels))
    assert len(labels) == 24 and labels.qps == QPS and labels.name == "vvc/still"
    assert set(labels.splits) <= {"train", "validation", "test"}
    assert (labels.widths == WIDTH).all() and (labels.heights == HEIGHT).all()
    assert labels.objects.pictures == labels.verdicts.pictures
    assert labels.sha256() == load_label_set(str(made.labels)).sha256()
    assert str(labels.condition("both")) == "vvc/still/both"
    with pytest.raises(InputError, match="two folders are of vvc/still"):
        load_label_sets([str(made.labels), str(made.labels)])
    with pytest.raises(InputError, match="holds no labels"):
        load_label_set(str(made.pictures))


def test_machines_are_divided_by_name_alone() -> None:
    tasks = ["classification" if name.startswith("c") else "detection" for name in MACHINES]
    split = split_machines(MACHINES, tasks)
    assert split.disjoint and set(split.choosing) | set(split.judging) == set(MACHINES)
    assert sum(name.startswith("c") for name in split.judging) == 2 == sum(n.startswith("d") for n in split.judging)
    assert split_machines(MACHINES[::-1], tasks[::-1]).judging == split.judging[::-1]
    assert split_machines(MACHINES, tasks, "same").judging == MACHINES
    assert split_machines(MACHINES, tasks, "c1, d0").judging == ("c1", "d0")
    with pytest.raises(InputError, match="no machine 'x'"):
        split_machines(MACHINES, tasks, "x")
    with pytest.raises(InputError, match="leaves no machine to train with"):
        split_machines(MACHINES, tasks, ",".join(MACHINES))


def test_judges_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "judges.txt"
    file.write_text("# who judges\nc0\nd5\n")
    tasks = ["classification" if name.startswith("c") else "detection" for name in MACHINES]
    assert split_machines(MACHINES, tasks, f"@{file}").judging == ("c0", "d5")
    with pytest.raises(InputError, match="cannot be read"):
        split_machines(MACHINES, tasks, f"@{file}x")


def test_pictures_are_found_by_content_wherever_they_lie(made: Made, tmp_path: Path) -> None:
    labels = load_label_set(str(made.labels))
    other = tmp_path / "elsewhere" / "other name.png"
    other.parent.mkdir()
    other.write_bytes((made.pictures / "003.png").read_bytes())
    store = PictureStore(find_pictures([str(other.parent)]))
    assert store.available(labels).sum() == 1
    assert len(missing_pictures(store, [labels])) == 23
    row = int(np.flatnonzero(store.available(labels))[0])
    assert store.rgb(labels, row).shape == (HEIGHT, WIDTH, 3)
    assert len(Samples.of([labels], store)) == 1
    empty = PictureStore(find_pictures([str(made.pictures / "000.png")]))
    with pytest.raises(InputError, match="no clip of that name"):
        empty.rgb(labels, row)


def test_coded_pictures_are_kept_within_their_bound(made: Made, tmp_path: Path) -> None:
    """Real encodes: the second time comes from the cache and is the same; higher QPs are further off."""
    labels = load_label_set(str(made.labels))
    store = PictureStore(find_pictures([str(made.pictures)]))
    cache = DiskCache(tmp_path / "cache", 1 << 20)
    coded = CodedPictures(store, cache)
    errors = []
    for qp in (20, 50):
        first = coded.rgb(labels, 0, qp)
        np.testing.assert_array_equal(first, coded.rgb(labels, 0, qp))
        errors.append(float(np.abs(first.astype(float) - store.rgb(labels, 0)).mean()))
    assert errors[0] < errors[1] and len(cache) == 2
    assert len(DiskCache(tmp_path / "cache", 1 << 20)) == 2


def test_frames_of_clips_are_coded_as_they_were_annotated(synthetic_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from vcm_ratecontrol.annotate.clips import frame_key
    from vcm_ratecontrol.media import open_clip

    path = synthetic_clip("plain.mp4")
    rgb = next(iter(open_clip(path).read_rgb([4])))
    picture = frame_key(rgb)
    rows = machine_rows(picture, "c0", {qp: classification(1) for qp in (ORIGINAL_QP, 45)})
    store = LabelStore(str(tmp_path / "labels"))
    store.open(DatasetConfig("x265", "hevc", "ultrafast", "inter", (45,), {"c0": ""}, "1"))
    described = {"picture": picture, "source": "plain.mp4#4", "width": 192, "height": 128, "split": "train"}
    store.write_part(described, [{**row, "codec": "hevc", "coding": "inter"} for row in rows])
    labels = load_label_set(str(tmp_path / "labels"))
    cache = DiskCache(tmp_path / "cache", 1 << 24)
    pictures = PictureStore(find_pictures([str(path)]), cache)
    np.testing.assert_array_equal(pictures.rgb(labels, 0), rgb)
    coded = CodedPictures(pictures, cache).rgb(labels, 0, 45)
    assert coded.shape == rgb.shape and 1 < np.abs(coded.astype(float) - rgb).mean() < 40
    np.testing.assert_array_equal(coded, CodedPictures(pictures, cache).rgb(labels, 0, 45))


def test_a_segment_that_vvenc_ends_too_early_is_coded_whole(clip: Callable[[str], Path]) -> None:
    """With one thread VVenC 1.15 codes one picture of these 48 and exits with 0; an annotated frame is the 13th."""
    from vcm_ratecontrol.annotate.clips import coded_segment
    from vcm_ratecontrol.annotate.picture import Spent
    from vcm_ratecontrol.annotate.sources import scaled
    from vcm_ratecontrol.media import open_clip

    film = open_clip(clip("ahmetozlu_pedestrian_survaillance.mp4"))
    frames = [scaled(rgb, 640) for rgb in film.read_rgb(range(194, 242))]
    versions = coded_segment(frames, film.frame_rate, [12], get_encoder("vvenc"), "faster", [32], Spent())
    assert 25 < versions[0][0][0].qp < 45
    assert np.abs(versions[0][0][1].astype(float) - frames[12]).mean() < 6


def test_a_cache_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100)
    cache.put("a", b"1" * 40)
    cache.put("b", b"2" * 40)
    assert cache.get("a") == b"1" * 40
    cache.put("c", b"3" * 40)
    assert cache.get("b") is None and cache.get("a") and cache.get("c")
    cache.put("too large", b"4" * 101)
    assert cache.get("too large") is None and cache.total_bytes == 80
    cache.put("a", b"5")
    assert cache.get("a") == b"5" and cache.total_bytes == 41


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(40, 300), st.integers(40, 300))
def test_boxes_follow_their_view(seed: int, width: int, height: int) -> None:
    """What a box holds in the picture is what its moved box holds in the view."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    view = random_view(rng, width, height, 0.4)
    left, top = int(rng.integers(0, width - 4)), int(rng.integers(0, height - 4))
    right, bottom = int(rng.integers(left + 2, width + 1)), int(rng.integers(top + 2, height + 1))
    boxes, inside = view.boxes(np.array([[left, top, right, bottom]], np.float32))
    part = view.of(picture)
    assert part.shape == (view.height, view.width, 3)
    x1, y1, x2, y2 = (int(value) for value in boxes[0])
    if not inside[0]:
        assert x1 >= x2 or y1 >= y2
        return
    there = part[y1:y2, x1:x2]
    across = slice(max(left, view.left), min(right, view.right))
    down = slice(max(top, view.top), min(bottom, view.bottom))
    wanted = picture[down, across]
    np.testing.assert_array_equal(there, wanted[:, ::-1] if view.flip else wanted)


def test_a_view_of_everything_changes_nothing() -> None:
    picture = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
    np.testing.assert_array_equal(View(0, 0, 10, 8).of(picture), picture)


def test_batches_have_one_size_and_use_every_picture() -> None:
    spec = InputSpec("area", 128, 128)
    heights, widths = [100] * 30 + [150] * 30 + [40], [150] * 30 + [100] * 30 + [300]
    sizes = input_sizes(heights, widths, spec)
    assert len(set(sizes)) == 2  # the odd one goes to the nearest
    rows = np.arange(61)
    draws = bucket_draws(np.random.default_rng(0), rows, sizes, 40, 8)
    assert len(draws) == 40 and {row for draw in draws for row in draw.rows} == set(range(61))
    assert all(sizes[row] == draw.size for draw in draws for row in draw.rows)


def test_partitions_never_share_a_machine() -> None:
    tasks = ["classification" if name.startswith("c") else "detection" for name in MACHINES]
    for part in [*partitions(MACHINES, tasks, 20, 3), *halves(MACHINES, tasks)]:
        assert not set(part.target) & set(part.evidence)
        assert set(part.target) | set(part.evidence) == set(MACHINES)
        assert {name[0] for name in part.target} == {"c", "d"} == {name[0] for name in part.evidence}
    assert partitions(MACHINES, tasks, 3, 3) == partitions(MACHINES, tasks, 3, 3)
    with pytest.raises(InputError, match="two machines"):
        partitions(["c0"], ["classification"], 1, 0)


def test_evidence_is_drawn_from_the_candidates_alone() -> None:
    rng = np.random.default_rng(0)
    candidates = rng.random((200, 9)) < 0.6
    for count in (0, 1, 3, 1 << 16):
        mask = draw_evidence(rng, candidates, count)
        assert not (mask & ~candidates).any()
        np.testing.assert_array_equal(mask.sum(axis=1), np.minimum(candidates.sum(axis=1), count))
    assert set(draw_evidence(rng, candidates, (1, 2)).sum(axis=1)) <= {0, 1, 2}


def test_targets_find_the_hidden_shifts(made: Made) -> None:
    labels = load_label_set(str(made.labels))
    targets = curve_targets(labels, labels.machines_at(MACHINES), np.arange(len(labels)))
    hidden = np.array([made.shifts[name] for name in labels.verdicts.pictures])
    assert np.corrcoef(targets.shift, hidden)[0, 1] > 0.95
    assert abs(targets.deviation - hidden.std()) < 2
    with pytest.raises(InputError, match="valid machines"):
        curve_targets(labels, labels.machines_at(["c0"]), np.arange(len(labels)))
    bank = TargetBank.of([labels], halves(MACHINES, labels.verdicts.tasks))
    shifts = bank.shifts(np.zeros(24, np.int64), np.arange(24))
    assert shifts.shape == (2, 3, 24) and np.isfinite(shifts[:, 2]).all()
    allowed = bank.evidence(12)
    assert (allowed.sum(axis=2) == 6).all() and not (allowed[0] & allowed[1]).any()


def test_a_picture_of_another_size_is_refused(made: Made) -> None:
    from dataclasses import replace

    labels = load_label_set(str(made.labels))
    store = PictureStore(find_pictures([str(made.pictures)]))
    with pytest.raises(CacheError, match="annotate it again"):
        store.rgb(replace(labels, widths=labels.widths + 1), 0)
