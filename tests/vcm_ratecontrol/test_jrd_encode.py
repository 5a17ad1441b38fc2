"""Coding per object as a user asks for it: `vcm-encode --target-jrd`, and `encode(..., target_jrd=...)`."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

import pytest
from PIL import Image

from codec_wrappers.errors import InputError, OutputError, UnsupportedError
from codec_wrappers.join import coded_bits
from codec_wrappers.verify import decoded_frames
from tests.codec_wrappers.joining import ffmpeg
from tests.vcm_ratecontrol.encode_runs import Run, left_in
from tests.vcm_ratecontrol.test_events import check_event
from vcm_ratecontrol import encode, plan
from vcm_ratecontrol.cli.common import run_command
from vcm_ratecontrol.cli.encode import main
from vcm_ratecontrol.jrd.batch import JRDBatchReport
from vcm_ratecontrol.jrd.job import JRDReport
from vcm_ratecontrol.options import JRDArguments, jrd_request_of
from vcm_ratecontrol.report import EncodeReport

Encode = Callable[..., Run]

FLAGS = ("--target-jrd", 0.75, "--codec", "hevc-kvazaar", "--background-qp", 51, "--no-anchor", "--json")
FLAT: JRDArguments = {"target_jrd": 0.75, "codec": "hevc-kvazaar", "background_qp": 51, "anchor": False}
DETECTORS = ("yolo_fastestv2", "fastestdet")


@pytest.fixture
def vcm_encode(capfd: pytest.CaptureFixture[str]) -> Encode:
    """The command in this process: what it prints and how it ends."""

    def run(*arguments: object) -> Run:
        capfd.readouterr()
        code = run_command(main, [str(argument) for argument in arguments])
        return Run(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def photos(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photographs, made small: 300x220."""
    folder, made = tmp_path_factory.mktemp("photos"), []
    for name in ("000000465822", "000000052891"):
        made.append(folder / f"{name}.png")
        with Image.open(picture(f"coco/{name}.jpg")) as image:
            image.convert("RGB").resize((300, 220)).save(made[-1])
    return made


@pytest.fixture(scope="module")
def street(clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street, made small: 192x144, 8 frames."""
    path = tmp_path_factory.mktemp("street") / "street.mp4"
    source = clip("intel_car-detection.mp4")
    ffmpeg("-i", source, "-frames:v", "8", "-vf", "scale=192:144", "-an", "-c:v", "libx264", "-crf", "10", path)
    return path


def boxes(folder: Path, images: dict[str, int], **more: Any) -> Path:
    """A file in COCO's format with so many boxes for each image."""
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for number, (name, count) in enumerate(images.items()):
        content["images"].append({"id": number, "file_name": name, **more})
        content["annotations"] += [
            {"image_id": number, "bbox": [70.0 * at, 70.0, 40.0, 50.0], "category_id": 1, "score": 0.6}
            for at in range(count)
        ]
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def test_the_command_and_the_library_write_the_same_file(
    vcm_encode: Encode, photos: list[Path], tmp_path: Path
) -> None:
    objects = boxes(tmp_path, {photos[0].name: 2})
    run = vcm_encode(photos[0], "-o", tmp_path / "a.mp4", *FLAGS, "--objects", objects)
    assert run.code == 0, run.err
    for event in run.events:
        check_event(event)
    end = run.end
    assert (end["mode"], end["ratio"], end["method"], end["background_qp"]) == ("per-object", 0.75, "map", 51)
    assert (end["objects"], end["looked"], end["lost"], end["anchor"]) == (2, 1, None, None)
    assert end["qp_levels"][0] == end["lowest_qp"] < end["qp_levels"][-1] == 51
    options: JRDArguments = {**FLAT, "objects": str(objects)}
    report = encode(photos[0], str(tmp_path / "b.mp4"), **options)
    assert_type(report, JRDReport)
    assert (report.bits, report.qp_levels) == (end["bits"], tuple(end["qp_levels"]))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_plan_holds_the_qps_of_the_encode_and_writes_nothing(photos: list[Path], tmp_path: Path) -> None:
    """With VVenC, by pre-coding."""
    objects = boxes(tmp_path, {photos[0].name: 1})
    planned = plan(photos[0], target_jrd=0.75, objects=objects, workers=2)
    assert_type(planned, JRDReport)
    assert list(left_in(tmp_path)) == ["boxes.json"]
    done = encode(photos[0], tmp_path / "out.mp4", target_jrd=0.75, objects=objects, workers=2, anchor=False)
    assert (planned.method, planned.bits, planned.file_bytes) == ("pre-coding", None, None)
    assert (planned.qp_levels, planned.lowest_qp) == (done.qp_levels, done.lowest_qp)
    qps = reversed(planned.qp_levels)
    assert [line[-1] for line in planned.commands] == [f"./plan.0000000-0000001-{qp:02d}.piece.mp4" for qp in qps]


def test_several_go_into_a_folder_and_one_that_fails_stops_no_other(
    vcm_encode: Encode, photos: list[Path], street: Path, tmp_path: Path
) -> None:
    bad, unnamed = tmp_path / "bad.png", tmp_path / "unnamed.png"
    bad.write_bytes(b"")
    unnamed.write_bytes(photos[0].read_bytes())
    named = {photos[0].name: 2, bad.name: 1, photos[1].name: 0, street.name: 1, "stranger.png": 1}
    objects = boxes(tmp_path, named, frame_index=0)
    inputs = (photos[0], bad, street, unnamed, photos[1])
    run = vcm_encode(*inputs, "-o", tmp_path / "coded", *FLAGS, "--objects", objects)
    assert run.code == 2
    for event in run.events:
        check_event(event)
    coded = [photos[0], street, photos[1]]
    assert sorted(left_in(tmp_path / "coded")) == sorted(f"{source.stem}.mp4" for source in coded)
    end = run.end
    assert end["mode"] == "per-object"
    assert [file["input"] for file in end["files"]] == [str(source) for source in coded]
    assert [file["objects"] for file in end["files"]] == [2, 1, 0]
    assert [file["lowest_qp"] is None for file in end["files"]] == [False, False, True]
    for file in end["files"]:
        assert file["bits"] == coded_bits(Path(file["output"]))
    assert end["bits"] == sum(file["bits"] for file in end["files"])
    assert [entry["input"] for entry in end["failed"]] == [str(bad), str(unnamed)]
    assert "unnamed.png; add it to `images`" in end["failed"][1]["message"]
    assert end["error"]["type"] == "InputError"
    assert "2 of 5 inputs failed, the first: " in end["error"]["message"]
    assert any("boxes of 1 pictures that are no input were left out" in note for note in end["notes"])
    assert [event["input"] for event in run.of("file")] == [str(source) for source in coded]
    assert [event["input"] for event in run.of("failed")] == [str(bad), str(unnamed)]
    # An input that cannot be read is told before anything is looked for in it.
    assert {event["input"] for event in run.of("objects")} == {str(source) for source in coded}


def test_several_in_the_library(photos: list[Path], machines_dir: Path, tmp_path: Path) -> None:
    """Machines are opened once for all, and look at the results."""
    told: list[tuple[str, object]] = []
    options: JRDArguments = {
        **FLAT, "machines": machines_dir, "names": DETECTORS, "detector": "yolo_fastestv2", "verify_jrd": True,
        "jrd_caution": 0.9, "on_event": lambda event, **fields: told.append((event, fields["input"])),
    }  # fmt: skip
    batch = encode(photos, tmp_path / "coded", **options)
    assert_type(batch, JRDBatchReport)
    assert (len(batch.reports), batch.failed) == (2, ())
    for report, photo in zip(batch.reports, photos, strict=True):
        assert (report.input, report.output) == (photo, tmp_path / "coded" / f"{photo.stem}.mp4")
        assert decoded_frames(report.output) == 1
        assert report.lost is not None
        assert report.checked > 0
    assert batch.file_bytes == sum(report.output.stat().st_size for report in batch.reports)
    assert [entry for entry in told if entry[0] == "objects"] == [("objects", photo) for photo in photos]
    assert {photo for event, photo in told if event == "lost"} == {r.input for r in batch.reports if r.lost}


def test_the_summary_of_several(vcm_encode: Encode, photos: list[Path], machines_dir: Path, tmp_path: Path) -> None:
    library = ("--machines", machines_dir, "--names", ",".join(DETECTORS), "--verify-jrd")
    run = vcm_encode(*photos, "-o", tmp_path, *FLAGS[:-1], *library)
    assert run.code == 0, run.err
    lines = run.out.splitlines()
    assert lines[0].split() == [
        "output",
        "object",
        "QP",
        "background",
        "QP",
        "object",
        "blocks",
        "bits",
        "saving",
        "lost",
    ]
    assert [Path(line.split()[0]).name for line in lines[1:3]] == [f"{photo.stem}.mp4" for photo in photos]
    assert all(" 51 " in line and " of " in line for line in lines[1:3])
    assert lines[3].startswith("all 2")


def test_a_single_input_goes_into_a_folder_that_is_there(
    vcm_encode: Encode, photos: list[Path], tmp_path: Path
) -> None:
    """One picture alone may have any name in the file of boxes."""
    objects = boxes(tmp_path, {"renamed.png": 1})
    (tmp_path / "coded").mkdir()
    run = vcm_encode(photos[0], "-o", tmp_path / "coded", *FLAGS, "--objects", objects)
    assert run.code == 0, run.err
    assert list(left_in(tmp_path / "coded")) == [f"{photos[0].stem}.mp4"]


def test_a_single_input_has_its_own_boxes_of_a_file_for_many(
    vcm_encode: Encode, photos: list[Path], tmp_path: Path
) -> None:
    objects = boxes(tmp_path, {photos[0].name: 1, photos[1].name: 2})
    for photo, count in zip(photos, (1, 2), strict=True):
        run = vcm_encode(photo, "-o", tmp_path / f"{count}.mp4", *FLAGS, "--objects", objects)
        assert (run.code, run.end["objects"]) == (0, count), run.err
        assert any("boxes of 1 pictures that are no input were left out" in note for note in run.end["notes"])
    stranger = tmp_path / "stranger.png"
    stranger.write_bytes(photos[0].read_bytes())
    run = vcm_encode(stranger, "-o", tmp_path / "out.mp4", *FLAGS, "--objects", objects)
    assert run.code == 2
    assert f"names {photos[0].name} and 1 more images, and none stranger.png" in run.end["error"]["message"]


def test_a_dry_run_of_several_makes_no_folder(vcm_encode: Encode, photos: list[Path], tmp_path: Path) -> None:
    objects = boxes(tmp_path, {photo.name: 1 for photo in photos})
    run = vcm_encode(*photos, "-o", tmp_path / "coded", *FLAGS[:-1], "--objects", objects, "--dry-run")
    assert run.code == 0, run.err
    lines = [shlex.split(line) for line in run.out.splitlines()]
    assert all(Path(line[0]).name.startswith("ffmpeg") for line in lines)
    assert [Path(line[-1]).parent for line in lines] == [tmp_path / "coded"] * 2
    assert [Path(line[-1]).name.split(".")[0] for line in lines] == [photo.stem for photo in photos]
    assert list(left_in(tmp_path)) == ["boxes.json"]
    assert not (tmp_path / "coded").exists()


@pytest.mark.parametrize(
    ("more", "error", "told"),
    [
        ({"codec": "h265"}, InputError, "choose one of"),
        ({"preset": "warp"}, UnsupportedError, "preset 'warp'"),
        ({"background_qp": 60}, UnsupportedError, "QP 60"),
        ({"objects": "none.json"}, InputError, "none.json: cannot be read"),
    ],
)
def test_what_is_wrong_with_all_is_told_once(
    more: dict[str, Any], error: type[Exception], told: str, photos: list[Path], tmp_path: Path
) -> None:
    objects = boxes(tmp_path, {photo.name: 1 for photo in photos})
    options: dict[str, Any] = {**FLAT, "objects": objects, **more}
    with pytest.raises(error, match=told):
        encode(photos, tmp_path / "coded", **options)
    assert not (tmp_path / "coded").exists()


def test_two_inputs_of_one_name(photos: list[Path], tmp_path: Path) -> None:
    options: JRDArguments = {**FLAT, "objects": boxes(tmp_path, {photos[0].name: 1})}
    with pytest.raises(OutputError, match="would hold both"):
        encode([photos[0], photos[0].with_suffix(".jpg")], tmp_path / "coded", **options)
    assert not (tmp_path / "coded").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"target_smr": 0.9}, "--target-smr does not go with --target-jrd"),
        ({"floor": 0.5}, "--floor does not go with"),
        ({"qp": 30}, "--qp does not go with"),
        ({"qp_map": "m.npz"}, "--qp-map does not go with"),
        ({"probes": 0}, "--probes does not go with"),
        ({"verify_smr": True}, "--verify-smr does not go with"),
        ({"strict": True}, "--strict does not go with"),
        ({"task": "classification"}, "--task classification does not go with"),
        ({"verify_jrd": True}, "--verify-jrd needs machines"),
        ({"detector": "yolox_nano"}, "--detector yolox_nano: give the library"),
        ({"weights": "/no/such/folder"}, "--weights /no/such/folder: no such folder"),
        ({"target_jrd": 0.0}, "--target-jrd 0.0: must be above 0"),
        ({"caution": 0.1}, "no such option: caution"),
    ],
)
def test_options_that_do_not_go_together(more: dict[str, Any], told: str, photos: list[Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {**FLAT, **more}
    for sources, output in ((photos[0], tmp_path / "out.mp4"), (photos, tmp_path / "coded")):
        with pytest.raises(InputError, match=told):
            encode(sources, output, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--target-jrd", 0.75, "--strict"), "--strict does not go with --target-jrd"),
        (("--target-jrd", 0.75, "--verify-jrd"), "--verify-jrd needs machines"),
        (("--qp", 40, "--objects", "boxes.json"), "--objects needs --target-jrd"),
        (("--target-smr", 0.9, "--verify-jrd"), "--verify-jrd needs --target-jrd"),
        (("--target-smr", 0.9, "--jrd-caution", 0.1), "--jrd-caution needs --target-jrd"),
    ],
)
def test_the_command_refuses_the_same(
    arguments: tuple[object, ...], told: str, vcm_encode: Encode, photos: list[Path], tmp_path: Path
) -> None:
    run = vcm_encode(photos[0], "-o", tmp_path / "out.mp4", *arguments)
    assert run.code == 2
    assert told in run.err
    assert len(run.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_own_weights_where_the_folder_has_some(tmp_path: Path) -> None:
    own = tmp_path / "jrd_map_small.safetensors"
    assert jrd_request_of("a.png", "b.mp4", {"target_jrd": 0.5, "weights": tmp_path}).settings.weights == own.stem
    own.touch()
    assert jrd_request_of("a.png", "b.mp4", {"target_jrd": 0.5, "weights": tmp_path}).settings.weights == own


def test_the_other_targets_are_typed_as_before(photos: list[Path], tmp_path: Path) -> None:
    report = encode(photos[0], tmp_path / "flat.mp4", qp=45, codec="hevc-kvazaar", anchor=False, target_jrd=None)  # type: ignore[call-overload]
    assert_type(plan(photos[0], qp=45), EncodeReport)
    assert isinstance(report, EncodeReport)
