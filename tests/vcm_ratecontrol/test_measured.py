"""The measured search on real pictures with real machines, held against measurements on another way."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from codec_wrappers.encoder import get_encoder
from codec_wrappers.plan import Segment
from codec_wrappers.still import StillSource, decode_still, encode_still
from tests.codec_wrappers.joining import ffmpeg
from tests.vcm_ratecontrol.encode_runs import FAST
from tests.vcm_ratecontrol.probers import prober_of
from vcm_ratecontrol.machines import MachineLibrary
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.ratecontrol.measured import SegmentChoice, choose_all, choose_segment, level_prior
from vcm_ratecontrol.ratecontrol.planning import Target
from vcm_ratecontrol.ratecontrol.probing import Probe, Prober
from vcm_ratecontrol.satisfaction import smr, verdict


@pytest.fixture(scope="module")
def library(machines_dir: Path) -> MachineLibrary:
    return MachineLibrary.load(machines_dir, FAST)


@pytest.fixture(scope="module")
def photos(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two real photographs, made small."""
    folder, made = tmp_path_factory.mktemp("photos"), []
    for name in ("coco/000000465822.jpg", "coco/000000098261.jpg"):
        with Image.open(picture(name)) as image:
            small = image.convert("RGB").resize((192, 144))
        made.append(folder / f"{Path(name).stem}.png")
        small.save(made[-1])
    return made


@pytest.fixture(scope="module")
def prober(
    photos: list[Path], library: MachineLibrary, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Prober]:
    """Probers that share a cache for the module."""
    folder = tmp_path_factory.mktemp("probing")
    opened = {}

    def make(photo: Path) -> Prober:
        if photo not in opened:
            context = prober_of(photo, library, folder / photo.stem, cache=folder / "cache")
            opened[photo] = (context, context.__enter__())
        return opened[photo][1]

    return make


def measurer(photo: Path, library: MachineLibrary) -> Callable[[int], float | None]:
    """SMR at a QP on a way of its own: raw bitstream in memory, machines one by one, plain arithmetic."""
    rgb = next(iter(open_clip(photo).read_rgb()))
    before = {machine.name: machine.run([rgb])[0] for machine in library}
    source, encoder = StillSource(rgb), get_encoder("vvc")

    @cache
    def measure(qp: int) -> float | None:
        decoded = decode_still(encode_still(source, qp, encoder))
        judged = [verdict(machine.name, before[machine.name], machine.run([decoded])[0]) for machine in library]
        return smr(judged).value

    return measure


@pytest.mark.parametrize("number", [0, 1])
def test_the_chosen_qp_meets_the_target_and_the_next_does_not(
    number: int, photos: list[Path], library: MachineLibrary, prober: Callable[..., Prober]
) -> None:
    photo = photos[number]
    measure = measurer(photo, library)
    chosen, exact = [], 0
    for target in (0.4, 0.6, 0.8):
        probes: list[Probe] = []
        choice = choose_segment(range(1), prober(photo), Target(target), (0, 63), probes.append)
        told = {probe.segment.qp: probe.smr("both") for probe in probes}
        assert len(told) == len(probes) == choice.probes <= 7
        qp = choice.segment.qp
        chosen.append(qp)
        assert choice.search is not None
        assert choice.search.smr == told[qp] == choice.probe.smr("both")  # type: ignore[union-attr]
        # Measured again, on the other way.
        assert measure(qp) == pytest.approx(told[qp])
        if not choice.reached:
            assert max(value or 0 for value in told.values()) < target
            continue
        assert measure(qp) >= target  # type: ignore[operator]
        if choice.search.lasting:
            assert all(value >= target for probed, value in told.items() if probed <= qp and value is not None)
        if choice.search.exact and qp < 63:
            exact += 1
            assert qp + 1 in told
            assert measure(qp + 1) == pytest.approx(told[qp + 1])
            assert measure(qp + 1) < target  # type: ignore[operator]
    assert exact >= 1
    assert chosen == sorted(chosen, reverse=True)  # a higher target costs more bits


def test_the_bounds_of_the_range_are_found(photos: list[Path], prober: Callable[..., Prober]) -> None:
    assert choose_segment(range(1), prober(photos[0]), Target(0.0), (0, 63), lambda probe: None).segment.qp == 63
    choice = choose_segment(range(1), prober(photos[0]), Target(0.0), (20, 40), lambda probe: None)
    assert (choice.segment.qp, choice.reached) == (40, True)


def test_tasks_are_searched_apart(photos: list[Path], prober: Callable[..., Prober]) -> None:
    for task in ("classification", "detection"):
        choice = choose_segment(range(1), prober(photos[1]), Target(0.5, task), (0, 63), lambda probe: None)
        assert choice.probe is not None
        value = choice.probe.smr(task)
        assert value is not None
        assert (value >= 0.5) == choice.reached


def test_one_probe_is_enough_for_an_answer(photos: list[Path], prober: Callable[..., Prober]) -> None:
    for probes in (1, 2, 3):
        choice = choose_segment(range(1), prober(photos[1]), Target(0.6), (0, 63), lambda probe: None, probes)
        assert 1 <= choice.probes <= probes
        assert choice.probe is not None


def test_where_no_machine_sees_anything_the_mean_curve_decides(machines_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "black.png"
    Image.new("RGB", (96, 96)).save(source)
    detectors = MachineLibrary.load(machines_dir, FAST[3:])
    with prober_of(source, detectors, tmp_path / "pieces") as prober:
        qps = []
        for target in (0.5, 0.9, 1.0):
            choice = choose_segment(range(1), prober, Target(target), (0, 63), lambda probe: None)
            assert (choice.search, choice.probe, choice.probes, choice.reached) == (None, None, 1, True)
            prior = level_prior(0, 63, "both")
            assert prior[choice.segment.qp] >= min(target, prior[0])
            qps.append(choice.segment.qp)
        assert qps == sorted(qps, reverse=True)


def test_segments_in_parallel_are_as_one_by_one(
    clip: Callable[[str], Path], machines_dir: Path, tmp_path: Path
) -> None:
    source = tmp_path / "street.mkv"
    ffmpeg(
        "-i", clip("intel_car-detection.mp4"), "-frames:v", "15", "-vf", "scale=160:120", "-an", "-c:v", "ffv1", source
    )
    library = MachineLibrary.load(machines_dir, ("mobilenet_v1_0.25_128_quant", "yolo_fastestv2"))
    segments = (range(0, 4), range(4, 9), range(9, 15))
    found = []
    for workers in (1, 3):
        with prober_of(source, library, tmp_path / str(workers)) as prober:
            told: list[SegmentChoice] = []
            choices = choose_all(segments, prober, Target(0.7), (0, 63), workers, lambda probe: None, told.append, 3)
            assert sorted(told, key=lambda choice: choice.segment.start) == choices
            # Of each segment only the accepted piece is kept on the disk.
            assert [piece.name for piece in sorted((tmp_path / str(workers)).iterdir())] == [
                f"{c.segment.start:07d}-{c.segment.stop:07d}-{c.segment.qp:02d}" for c in choices
            ]
        found.append([(choice.segment, choice.probe) for choice in choices])
    assert found[0] == found[1]
    assert [(segment.start, segment.stop) for segment, _ in found[0]] == [(r.start, r.stop) for r in segments]


def test_a_failing_probe_ends_the_search_and_kills_the_others(
    photos: list[Path], library: MachineLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codec_wrappers.errors import EncoderError
    from tests.vcm_ratecontrol.encode_runs import wrapper

    breaks = wrapper(tmp_path / "ffmpeg", 'case "$*" in *rawvideo*) exit 9;; esac')
    monkeypatch.setenv("VCM_FFMPEG", breaks["VCM_FFMPEG"])
    with prober_of(photos[0], library, tmp_path / "pieces") as prober, pytest.raises(EncoderError, match="exit 9"):
        choose_all((range(1),), prober, Target(0.5), (0, 63), 2, lambda probe: None, lambda choice: None)
    with pytest.raises(EncoderError, match="not started"):  # the group is closed
        prober.pieces.get(Segment(0, 1, 30))
