"""Probes: what machines are shown is what the final file holds, and the cache tells what differs apart."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec_wrappers.pipeline import EncodeOptions, guarded_group
from codec_wrappers.plan import Segment
from codec_wrappers.vvenc import VvencEncoder
from tests.codec_wrappers.joining import PRESETS, encode_clip, ffmpeg
from tests.vcm_ratecontrol.encode_runs import FAST
from tests.vcm_ratecontrol.probers import prober_of
from vcm_ratecontrol.machines import MachineLibrary
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.ratecontrol.pieces import Pieces
from vcm_ratecontrol.ratecontrol.probing import Probe, Prober, decoded_like
from vcm_ratecontrol.satisfaction import Thresholds, verdict
from vcm_ratecontrol.true_size import cropped_to


@pytest.fixture(scope="module")
def library(machines_dir: Path) -> MachineLibrary:
    return MachineLibrary.load(machines_dir, FAST)


@pytest.fixture(scope="module")
def photo(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    with Image.open(picture("coco/000000465822.jpg")) as image:
        image.convert("RGB").crop((100, 50, 462, 292)).resize((181, 121)).save(path)
    return path


@pytest.fixture(scope="module")
def street(clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("street") / "street.mp4"
    options = ("-frames:v", "12", "-vf", "scale=160:120", "-an", "-c:v", "libx264", "-crf", "10")
    ffmpeg("-i", clip("intel_car-detection.mp4"), *options, path)
    return path


SOURCES: dict[str, tuple[str, ...]] = {
    "untagged": ("-c:v", "libx264", "-crf", "12"),
    "full range": ("-vf", "setparams=range=pc:colorspace=bt470bg", "-c:v", "libx264", "-crf", "12"),
    "wide gamut": ("-vf", "setparams=colorspace=bt2020nc:color_primaries=bt2020", "-c:v", "libx264", "-crf", "12"),
    "odd": ("-vf", "scale=175:97", "-c:v", "ffv1", "-pix_fmt", "yuv444p"),
    "grey": ("-c:v", "ffv1", "-pix_fmt", "gray"),
    "rgb": ("-c:v", "ffv1", "-pix_fmt", "bgr0"),
    "ten bit": ("-c:v", "ffv1", "-pix_fmt", "yuv420p10le"),
}


@pytest.mark.parametrize("codec", PRESETS)
def test_machines_are_shown_what_players_show_of_the_final_file(
    codec: str, synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    sources = {}
    for name, options in SOURCES.items():
        sources[name] = tmp_path / f"{name}.mkv"
        ffmpeg("-i", synthetic_clip("plain.mp4"), "-an", "-frames:v", "3", *options, sources[name])
    sources["turned"] = synthetic_clip("rotated.mp4")
    for name, source in sources.items():
        output = tmp_path / f"{name}-{codec}.mp4"
        encode_clip(source, output, [30], codec)
        original, coded = open_clip(source), open_clip(output)
        wanted = [0, 2]
        seen = list(decoded_like(original, output, wanted))
        shown = list(cropped_to(coded, original).read_rgb(wanted))
        truth = list(original.read_rgb(wanted))
        for ours, players, before in zip(seen, shown, truth, strict=True):
            assert ours.shape == before.shape == (original.upright_size[1], original.upright_size[0], 3)
            assert np.array_equal(ours, players), name
            assert np.abs(ours.astype(int) - before).mean() < 10, name


def expected(path: Path, library: MachineLibrary, prober: Prober, segment: Segment) -> dict[int, dict[str, bool]]:
    """The verdicts, come to on a plain way: frame by frame, machine by machine. Frame -> machine -> satisfied."""
    clip, piece = open_clip(path), prober.pieces.get(segment)
    found: dict[int, dict[str, bool]] = {}
    for index in range(segment.start, segment.stop):
        (before,) = clip.read_rgb([index])
        (after,) = decoded_like(clip, piece.piece, [index - segment.start])
        found[index] = {}
        for machine in library:
            judged = verdict(machine.name, machine.run([before])[0], machine.run([after])[0])
            if judged.valid:
                found[index][machine.name] = judged.satisfied
    return found


@pytest.mark.parametrize("qp", [24, 40])
def test_a_probe_is_the_mean_over_sampled_frames_of_satisfied_by_valid(
    qp: int, street: Path, library: MachineLibrary, tmp_path: Path
) -> None:
    segment = Segment(2, 12, qp)
    with prober_of(street, library, tmp_path / "pieces", frames=2) as prober:
        probe = prober.probe(segment)
        plain = expected(street, library, prober, segment)
        assert prober.pieces.get(segment).bits == probe.bits
    assert [frame.index for frame in probe.frames] == [4, 9]  # the middles of 2..6 and 7..11
    for frame in probe.frames:
        judged = {v.machine: v.satisfied for v in frame.verdicts if v.valid}
        assert judged == plain[frame.index]
        assert frame.failed == ()
    smrs = [sum(plain[at].values()) / len(plain[at]) for at in (4, 9)]
    assert probe.smr("both") == pytest.approx(sum(smrs) / 2)
    classifiers = [plain[at][name] for at in (4, 9) for name in FAST[:3]]
    assert probe.smr("classification") == pytest.approx(sum(classifiers) / len(classifiers))
    assert len(probe.margins("both")) == sum(len(plain[at]) for at in (4, 9))
    assert all((margin >= 0) == v.satisfied for margin, v in zip(probe.margins("both"), _valid(probe), strict=True))


def _valid(probe: Probe) -> list:  # type: ignore[type-arg]
    return [v for frame in probe.frames for v in frame.verdicts if v.valid]


def test_the_cache_answers_for_the_same_question_only(
    photo: Path, library: MachineLibrary, machines_dir: Path, tmp_path: Path
) -> None:
    cache, segment = tmp_path / "cache", Segment(0, 1, 38)
    runs: list[Probe] = []
    two = MachineLibrary.load(machines_dir, FAST[:2])

    def stored() -> int:
        return len(list(cache.rglob("*.json")))

    questions = [
        {},
        {"preset": "fast"},
        {"codec": "hevc"},
        {"thresholds": Thresholds(score=0.75)},
        {"frames": 1},
    ]
    for number, question in enumerate(questions):
        with prober_of(photo, library, tmp_path / f"a{number}", cache=cache, **question) as prober:  # type: ignore[arg-type]
            runs.append(prober.probe(segment))
            assert stored() == number + 1
            # Asked again: from memory of the disk, nothing is coded.
            prober.pieces.keep_only(Segment(0, 1, 0))
            assert prober.probe(segment) == runs[-1]
            assert prober.pieces._made == {}
    with prober_of(photo, two, tmp_path / "b", cache=cache) as prober:
        prober.probe(segment)
        assert stored() == len(questions) + 1
        prober.probe(Segment(0, 1, 39))
        assert stored() == len(questions) + 2
    other = tmp_path / "other.png"
    with Image.open(photo) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    with prober_of(other, library, tmp_path / "c", cache=cache) as prober:
        prober.probe(segment)
    assert stored() == len(questions) + 3
    # The same picture under another name and in another folder is the same question.
    copy = tmp_path / "deep" / "copy.png"
    copy.parent.mkdir()
    copy.write_bytes(photo.read_bytes())
    with prober_of(copy, library, tmp_path / "deep" / "d", cache=cache) as prober:
        assert prober.probe(segment) == runs[0]
        assert prober.pieces._made == {}
    assert stored() == len(questions) + 3


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"bits": 1}', '{"bits": "x", "frames": []}', "12", '{"bits":1,"frames":[{}]}']
)
def test_foreign_content_in_the_cache_is_measured_anew(
    content: str, photo: Path, library: MachineLibrary, tmp_path: Path
) -> None:
    cache, segment = tmp_path / "cache", Segment(0, 1, 45)
    with prober_of(photo, library, tmp_path / "a", cache=cache) as prober:
        probe = prober.probe(segment)
    (path,) = cache.rglob("*.json")
    path.write_text(content)
    with prober_of(photo, library, tmp_path / "b", cache=cache) as prober:
        assert prober.probe(segment) == probe
    assert path.read_text() != content


def test_a_settled_segment_can_be_coded_at_any_qp_again(photo: Path, library: MachineLibrary, tmp_path: Path) -> None:
    """The anchor may want a QP whose probe was dropped."""
    with prober_of(photo, library, tmp_path / "pieces") as prober:
        first = {qp: prober.probe(Segment(0, 1, qp)) for qp in (22, 37)}
        prober.settle(Segment(0, 1, 37))
        assert prober.pieces.get(Segment(0, 1, 37)).piece.exists()
        again = prober.pieces.get(Segment(0, 1, 22))
        assert again.piece.exists()
        assert again.bits == first[22].bits


def test_pieces_without_room_yield_to_the_next_that_fit(tmp_path: Path) -> None:
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save(noise)
    with guarded_group() as group:
        options = EncodeOptions("faster", "still")
        pieces = Pieces(open_clip(noise), VvencEncoder(), options, tmp_path / "pieces", group, yielding=True)
        low, lower = (pieces.get(Segment(0, 1, qp)) for qp in (12, 10))
        assert low is lower
        assert 12 < low.segments[0].qp < 24
        pieces.get(Segment(0, 1, 40))
        pieces.keep_only(Segment(0, 1, 10))
        assert low.piece.exists()
        assert pieces.get(Segment(0, 1, 12)) is low
        pieces.keep_only(Segment(0, 1, 40))
        assert not low.piece.exists()


def test_what_is_planned_is_what_is_done(street: Path, library: MachineLibrary, tmp_path: Path) -> None:
    with prober_of(street, library, tmp_path / "pieces") as prober:
        planned = prober.pieces.command(Segment(0, 12, 40))
        assert list((tmp_path / "pieces").iterdir()) == []
        assert prober.pieces.get(Segment(0, 12, 40)).argv == planned
        recipe = prober.pieces.recipe(Segment(0, 12, 40))
        assert str(tmp_path) not in " ".join(recipe)
        assert recipe != prober.pieces.recipe(Segment(0, 12, 41))
