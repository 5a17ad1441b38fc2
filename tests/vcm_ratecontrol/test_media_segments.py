"""Segments are a partition of the clip within the limits of length; samples and one-decode analysis."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from codec_wrappers.frames import ColorTags
from vcm_ratecontrol.media import (
    Clip,
    FrameView,
    LumaStatistics,
    RGBSampler,
    SceneCuts,
    cut_segments,
    fan_out,
    open_clip,
    sample_indices,
    segments_from_cuts,
)
from vcm_ratecontrol.media.segments import frame_times


def made_up(pts: list[int], rate: Fraction, constant: bool, time_base: Fraction) -> Clip:
    return Clip(
        path=Path("none.mp4"),
        kind="video",
        width=64,
        height=64,
        n_frames=len(pts),
        frame_rate=rate,
        pts=tuple(pts),
        time_base=time_base,
        color=ColorTags(),
        pix_fmt="yuv420p",
        bit_depth=8,
        constant_rate=constant,
    )


rates = st.sampled_from([Fraction(n, d) for n, d in ((3, 1), (25, 2), (24000, 1001), (25, 1), (30000, 1001), (60, 1))])
limits = st.tuples(st.floats(0.2, 10), st.floats(0, 0.5)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@given(st.integers(1, 600), rates, st.sets(st.integers(0, 599), max_size=30), limits)
def test_constant_rate(n_frames: int, rate: Fraction, cuts: set[int], limit: tuple[float, float]) -> None:
    longest, shortest = limit
    clip = made_up(list(range(n_frames)), rate, True, 1 / rate)
    segments = segments_from_cuts(clip, sorted(cuts), longest, shortest)
    assert [frame for segment in segments for frame in segment] == list(range(n_frames))
    for segment in segments:
        seconds = Fraction(len(segment)) / rate
        assert seconds <= longest or len(segment) == 1
        # Rounding to whole frames may take one from each end of a piece.
        whole = len(segment) in (n_frames, 1)
        assert seconds > shortest - 2 / float(rate) or seconds > longest / 2 - 2 / float(rate) or whole
    # Long pieces of a scene are even: no cut, lengths within one frame.
    even = segments_from_cuts(clip, (), longest, shortest)
    assert max(map(len, even)) - min(map(len, even)) <= 1


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=300), st.sets(st.integers(0, 299), max_size=20), limits)
def test_varying_timestamps(steps: list[int], cuts: set[int], limit: tuple[float, float]) -> None:
    longest, shortest = limit
    pts = np.cumsum(steps).tolist()
    rate = Fraction(1000 * (len(pts) - 1), pts[-1] - pts[0]) if len(pts) > 1 else Fraction(25)
    clip = made_up(pts, rate, False, Fraction(1, 1000))
    segments = segments_from_cuts(clip, sorted(cuts), longest, shortest)
    assert [frame for segment in segments for frame in segment] == list(range(len(pts)))
    times = frame_times(clip)
    for segment in segments:
        assert times[segment.stop] - times[segment.start] <= Fraction(longest) or len(segment) == 1


def test_cuts_too_near_are_dropped() -> None:
    clip = made_up(list(range(100)), Fraction(25), True, Fraction(1, 25))
    segments = segments_from_cuts(clip, [5, 20, 30, 95], max_seconds=2, min_seconds=0.5)
    assert [segment.start for segment in segments] == [0, 20, 60]


@pytest.mark.parametrize(("longest", "shortest"), [(0, 0), (-1, 0), (2, 1.5), (2, -0.1), (float("nan"), 0.5)])
def test_limits_that_contradict_each_other(longest: float, shortest: float) -> None:
    clip = made_up([0], Fraction(25), True, Fraction(1, 25))
    with pytest.raises(ValueError, match="at most half"):
        segments_from_cuts(clip, (), longest, shortest)


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_real_scene_cuts(synthetic_clip: Callable[[str], Path], detector: str) -> None:
    clip = open_clip(synthetic_clip("three_scenes.mp4"))
    segments = cut_segments(clip, detector=detector)  # type: ignore[arg-type]
    assert segments == (range(0, 16), range(16, 32), range(32, 48))


def test_agrees_with_pyscenedetect_on_its_own_reader(clip: Callable[[str], Path]) -> None:
    from scenedetect import SceneManager, open_video
    from scenedetect.detectors import AdaptiveDetector

    path = clip("mmaction_demo.mp4")
    manager = SceneManager()
    manager.add_detector(AdaptiveDetector(min_scene_len=14))
    manager.detect_scenes(open_video(str(path), backend="pyav"))
    opened = open_clip(path)
    cuts = SceneCuts(opened)
    fan_out(opened, [cuts])
    assert cuts.cuts == tuple(start.frame_num for start, _ in manager.get_scene_list()[1:])
    assert cuts.cuts


def test_a_still_and_a_single_frame_are_one_segment(tmp_path: Path, synthetic_clip: Callable[[str], Path]) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "still.png")
    for path in (tmp_path / "still.png", synthetic_clip("one_frame.mp4")):
        assert cut_segments(open_clip(path)) == (range(0, 1),)


@given(st.integers(0, 50), st.integers(1, 200), st.integers(1, 20))
def test_samples_are_spread(start: int, length: int, n: int) -> None:
    segment = range(start, start + length)
    chosen = sample_indices(segment, n)
    assert len(chosen) == min(n, length)
    assert list(chosen) == sorted(set(chosen))
    assert all(index in segment for index in chosen)
    mirrored = [segment[0] + segment[-1] - index for index in reversed(chosen)]
    assert all(abs(a - b) <= 1 for a, b in zip(chosen, mirrored, strict=True))


def test_sampling_the_middle() -> None:
    assert sample_indices(range(10, 20), 1) == (15,)
    assert sample_indices(range(0, 48), 3) == (8, 24, 40)
    for segment, n in ((range(0), 1), (range(3), 0), (range(0, 9, 2), 1)):
        with pytest.raises(ValueError, match="cannot sample"):
            sample_indices(segment, n)


def test_one_decode_feeds_all(synthetic_clip: Callable[[str], Path]) -> None:
    clip = open_clip(synthetic_clip("three_scenes.mp4"))
    taken: dict[int, npt.NDArray[np.uint8]] = {}
    luma, cuts = LumaStatistics(), SceneCuts(clip)
    progress: list[tuple[int, int]] = []
    sampler = RGBSampler([3, 20, 47], taken.__setitem__)
    fan_out(clip, [cuts, luma, sampler], on_frame=lambda done, total: progress.append((done, total)))
    assert cuts.cuts == (16, 32)
    assert len(luma.mean) == len(luma.deviation) == len(luma.change) == 48
    assert sorted(np.argsort(luma.change)[-2:].tolist()) == [16, 32]
    assert progress[0] == (1, 48) and progress[-1] == (48, 48)
    for (_, picture), expected in zip(sorted(taken.items()), clip.read_rgb([3, 20, 47]), strict=True):
        np.testing.assert_array_equal(picture, expected)


def test_views_share_their_conversions(synthetic_clip: Callable[[str], Path]) -> None:
    clip = open_clip(synthetic_clip("rotated.mp4"))

    class Look:
        def wants(self, index: int) -> bool:
            return index == 12

        def feed(self, view: FrameView) -> None:
            assert view.index == 12
            assert view.rgb() is view.rgb()
            assert view.rgb().shape == (192, 128, 3)
            assert view.luma().shape == (128, 192)
            assert view.reduced_bgr(96).shape == (64, 96, 3)
            assert view.packed("yuv420p10le") == next(clip.read(12, 13, "yuv420p10le"))

        def finish(self) -> None:
            finished.append(True)

    finished: list[bool] = []
    fan_out(clip, [Look()], start=10, stop=14)
    assert finished == [True]
    with pytest.raises(ValueError, match="not within"):
        fan_out(clip, [], stop=26)


def test_a_still_goes_through_the_same_pass(tmp_path: Path) -> None:
    Image.new("RGB", (66, 70), (255, 255, 255)).save(tmp_path / "white.png")
    luma = LumaStatistics()
    fan_out(open_clip(tmp_path / "white.png"), [luma])
    assert (luma.mean, luma.deviation, luma.change) == ([235.0], [0.0], [0.0])
