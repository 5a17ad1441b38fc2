"""Frames of clips coded as video: cut, sampled, coded as a whole, decoded to the right frames."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import InputError
from vcm_ratecontrol.annotate.clips import SegmentTask, clip_tasks, coded_segment, frame_key, read_segment
from vcm_ratecontrol.annotate.local import annotate_local
from vcm_ratecontrol.annotate.picture import Spent, StoppedError
from vcm_ratecontrol.annotate.run import Settings, annotate, plan_work
from vcm_ratecontrol.labels.schema import MIN_STORED_CONFIDENCE, ORIGINAL_QP
from vcm_ratecontrol.labels.splits import split_of
from vcm_ratecontrol.labels.store import LabelStore
from vcm_ratecontrol.machines.library import LibraryRef
from vcm_ratecontrol.media import open_clip

SIDE = 96
Clip = Callable[[str], Path]


def psnr(a: np.ndarray, b: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(10 * np.log10(255**2 / np.square(a.astype(np.float64) - b).mean()))


def test_cut_and_sampled(synthetic_clip: Clip) -> None:
    path = synthetic_clip("three_scenes.mp4")
    tasks = clip_tasks(str(path), SIDE, per_segment=2, n_segments=0)
    assert [(task.start, task.stop) for task in tasks] == [(0, 16), (16, 32), (32, 48)]
    assert [frame.index for frame in tasks[1].frames] == [20, 28]
    frames, rate = read_segment(tasks[1], SIDE)
    assert (len(frames), frames[0].shape, rate) == (16, (64, 96, 3), Fraction(25))
    assert [frame_key(frames[frame.index - 16]) for frame in tasks[1].frames] == [f.key for f in tasks[1].frames]
    (middle,) = clip_tasks(str(path), SIDE, per_segment=1, n_segments=1)
    assert (middle.start, [frame.index for frame in middle.frames]) == (16, [24])


def test_coded_as_video_and_decoded_to_the_frames_asked_for(synthetic_clip: Clip) -> None:
    clip = open_clip(synthetic_clip("plain.mp4"))
    frames = list(clip.read_rgb(range(12)))
    spent = Spent()
    first, second = coded_segment(frames, clip.frame_rate, [3, 9], get_encoder("vvc"), "faster", (20, 45), spent)
    for versions, index in ((first, 3), (second, 9)):
        good, bad = versions
        quality = [psnr(good[1], frame) for frame in frames]
        assert quality.index(max(quality)) == index, "not the frame that was asked for"
        assert quality[index] > 30 > psnr(bad[1], frames[index])
        assert (good[0].qp, bad[0].qp) == (20, 45)
        # A frame between the intra pictures is coded at a higher QP, by the hierarchy.
        assert good[0].slice_qp > 20
        assert good[0].bits > bad[0].bits > 0
    assert first[0][0].bits == second[0][0].bits, "the mean of the segment"
    assert spent.encode > 0 < spent.decode


def test_stops_between_two_qps(synthetic_clip: Clip) -> None:
    frames = list(open_clip(synthetic_clip("one_frame.mp4")).read_rgb())
    with pytest.raises(StoppedError):
        coded_segment(frames, Fraction(25), [0], get_encoder("vvc"), "faster", (20,), Spent(), lambda: True)


def test_a_frame_that_is_there_twice_or_done_is_left_out(synthetic_clip: Clip, tmp_path: Path) -> None:
    path = synthetic_clip("three_scenes.mp4")
    twin = tmp_path / "twin.mp4"
    shutil.copy(path, twin)
    settings = Settings("vvc", (30,), coding="inter", max_side=SIDE)
    work = plan_work([str(path), str(twin)], settings, set())
    keys = [frame.key for task in work.tasks if isinstance(task, SegmentTask) for frame in task.frames]
    assert (len(keys), len(set(keys)), work.duplicates) == (6, 6, 6)
    left = plan_work([str(path)], settings, {keys[0], keys[2], keys[3]})
    assert (left.known, len(left.tasks)) == (3, 2)
    first = left.tasks[0]
    assert isinstance(first, SegmentTask)
    assert [frame.key for frame in first.frames] == [keys[1]]


def test_a_picture_is_a_clip_of_one_frame_and_text_is_none(picture: Clip, tmp_path: Path) -> None:
    (task,) = clip_tasks(str(picture("coco/000000052891.jpg")), SIDE, 2, 0)
    assert (task.start, task.stop, len(task.frames)) == (0, 1, 1)
    (tmp_path / "a.mp4").write_text("no clip")
    with pytest.raises(InputError, match=r"a\.mp4"):
        clip_tasks(str(tmp_path / "a.mp4"), SIDE, 2, 0)


def test_annotated_and_resumed(synthetic_clip: Clip, machines_dir: Path, tmp_path: Path) -> None:
    path = synthetic_clip("three_scenes.mp4")
    library = LibraryRef(machines_dir, ("tinymaix_mbnet128_0.25",), min_confidence=MIN_STORED_CONFIDENCE)
    settings = Settings("vvc", (22, 42), coding="inter", max_side=SIDE, segments=2)

    def make(name: str, limit: int = 0) -> int:
        chosen = replace(settings, limit=limit)
        report = annotate(
            [str(path)], str(tmp_path / name), library, chosen,
            lambda recipe, tasks, told: annotate_local(recipe, tasks, 1, told),
        )  # fmt: skip
        assert report.broken == ()
        return report.annotated

    whole = make("whole")
    assert make("parts", limit=1) + make("parts") == whole
    a, b = LabelStore(str(tmp_path / "whole")), LabelStore(str(tmp_path / "parts"))
    assert a.table().equals(b.table())
    lines = a.pictures().to_pylist()
    assert {line["source"].split("#")[0] for line in lines} == {"three_scenes.mp4"}
    (sha256,) = {task.clip_sha256 for task in clip_tasks(str(path), SIDE, 1, 1)}
    assert {line["split"] for line in lines} == {split_of(sha256)}
    rows = [row for row in a.table().to_pylist() if row["qp"] != ORIGINAL_QP]
    assert {row["coding"] for row in rows} == {"inter"}
