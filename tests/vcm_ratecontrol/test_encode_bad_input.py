"""Whatever is wrong with the input, the output or the tools: one clear line, the right exit code, nothing left."""

import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from codec_wrappers.verify import decoded_frames
from tests.codec_wrappers.joining import ffmpeg
from tests.vcm_ratecontrol.encode_runs import (
    FAST,
    Run,
    command,
    digest,
    environment,
    left_in,
    machine_options,
    processes_about,
    vcm_encode,
    wrapper,
)  # fmt: skip
from vcm_ratecontrol.encoding import EncodeRequest, encode_file
from vcm_ratecontrol.media import open_clip


@pytest.fixture(scope="module")
def good(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real picture: 96x72."""
    path = tmp_path_factory.mktemp("good") / "good.png"
    with Image.open(picture("coco/000000465822.jpg")) as image:
        image.convert("RGB").crop((100, 50, 460, 320)).resize((96, 72)).save(path)
    return path


def snapshot(folder: Path) -> dict[str, str]:
    return {name: digest(folder / name) for name in left_in(folder)}


def refused(folder: Path, code: int, *words: str, arguments: tuple[object, ...], **options: Any) -> Run:
    """Run vcm-encode --json and hold it to all that a failure promises. Nothing in `folder` may change."""
    before = snapshot(folder)
    run = vcm_encode(*arguments, "--json", **options)
    assert run.code == code, (run.out, run.err)
    (line,) = run.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in run.out + run.err
    for word in words:
        assert word in line
    assert run.end["status"] == "error"
    assert snapshot(folder) == before
    assert [path for path in folder.rglob(".*") if path.name.startswith(".vcm")] == []
    assert processes_about(folder) == []
    return run


def bad_inputs(folder: Path, good: Path, video: Path, sound: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name of a bad file, made in `folder`, and what must be said of it."""
    data, film = good.read_bytes(), video.read_bytes()
    contents = {
        "empty.png": (b"", "empty"),
        "empty.mp4": (b"", "empty"),
        "cut.png": (data[: len(data) // 2], "truncated"),
        "cut.mp4": (film[: len(film) // 2], "damaged"),
        "cut.mkv": (remuxed(video, folder / "whole.mkv")[:20_000], "damaged"),
        "notes.mp4": (b"dear diary\n" * 200, "neither a picture nor a video"),
        "noise.jpg": (bytes(range(256)) * 40, "neither a picture nor a video"),
        "sound.mp4": (sound.read_bytes(), "no video stream"),
    }
    for name, (content, words) in contents.items():
        (folder / name).write_bytes(content)
        yield name, (words,)
    (folder / "folder.mp4").mkdir()
    yield "folder.mp4", ("is a folder",)
    yield "missing.png", ("no such file",)


def remuxed(video: Path, to: Path) -> bytes:
    ffmpeg("-i", video, "-c", "copy", to)
    content = to.read_bytes()
    to.unlink()
    return content


def test_bad_inputs(good: Path, synthetic_clip: Callable[[str], Path], tmp_path: Path) -> None:
    cases = list(bad_inputs(tmp_path, good, synthetic_clip("plain.mp4"), synthetic_clip("no_video.mp4")))
    assert len(cases) == 10
    before = snapshot(tmp_path)
    from codec_wrappers.errors import InputError

    for name, words in cases:
        with pytest.raises(InputError) as failure:
            encode_file(EncodeRequest(tmp_path / name, tmp_path / "out.mp4", qp=40))
        message = str(failure.value)
        assert message.startswith(f"{tmp_path / name}: ")
        assert all(word in message for word in words), message
        assert "\n" not in message
        assert snapshot(tmp_path) == before
    # And through the command, for one of each kind of failure.
    for name in ("empty.png", "cut.mp4", "notes.mp4", "sound.mp4"):
        refused(tmp_path, 2, name, arguments=(tmp_path / name, "-o", tmp_path / "out.mp4", "--qp", 40))


def test_damage_within_a_clip_is_found_before_anything_is_written(
    synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    """The index is whole, the pictures are not."""
    data = bytearray(synthetic_clip("plain.mp4").read_bytes())
    at = data.find(b"mdat") + 30_000
    data[at : at + 3000] = bytes(3000)
    (tmp_path / "bad.mp4").write_bytes(data)
    arguments = (tmp_path / "bad.mp4", "-o", tmp_path / "out.mp4", "--qp", 40)
    run = refused(tmp_path, 2, "bad.mp4", "damaged", arguments=arguments)
    assert run.end["error"]["type"] == "InputError"


def test_outputs_that_must_not_be_written(good: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    shutil.copy(good, source)
    (tmp_path / "old.mp4").write_text("kept")
    (tmp_path / "link.mp4").symlink_to(source)
    (tmp_path / "full").symlink_to("/dev/full")
    cases: list[tuple[Path, str, tuple[str, ...]]] = [
        (source, "is the input", ("-y",)),
        (tmp_path / "link.mp4", "is the input", ("-y",)),
        (tmp_path / "old.mp4", "exists; replace it with -y", ()),
        (tmp_path / "no" / "out.mp4", "there is no folder", ()),
        (source / "out.mp4", "is not a folder", ()),
        (tmp_path, "is a folder", ("-y",)),
        (tmp_path / "full", "is not a regular file", ("-y",)),
        (tmp_path / "out.avi", "unknown suffix '.avi'", ()),
        (tmp_path / "out", "unknown suffix ''", ()),
        (tmp_path / "out.265", "cannot hold vvc", ()),
        (tmp_path / ("x" * 300 + ".mp4"), "File name too long", ()),
    ]
    from codec_wrappers.errors import InputError, OutputError

    for output, words, more in cases:
        before = snapshot(tmp_path)
        with pytest.raises((InputError, OutputError)) as failure:
            encode_file(EncodeRequest(source, output, qp=40, overwrite="-y" in more))
        assert words in str(failure.value)
        assert str(output) in str(failure.value)
        assert snapshot(tmp_path) == before
    refused(tmp_path, 2, "old.mp4", "-y", arguments=(source, "-o", tmp_path / "old.mp4", "--qp", 40))
    assert vcm_encode(source, "-y", "-o", tmp_path / "old.mp4", "--qp", 40).code == 0
    assert open_clip(tmp_path / "old.mp4").n_frames == 1


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (("--target-smr 1.5", "0..1"), ("--target-smr", "1.5")),
        (("--target-smr -0.1", "0..1"), ("--target-smr", "-0.1")),
        (("--target-smr nan", "0..1"), ("--target-smr", "nan")),
        (("--target-smr", "most"), ("--target-smr", "most")),
        (("--target-smr", "--qp"), ()),
        (("--target-smr", "--qp"), ("--target-smr", "0.9", "--qp", "30")),
        (("h265", "choose one of", "hevc"), ("--qp", "30", "--codec", "h265")),
        (("QP 64", "0..63", "libvvenc"), ("--qp", "64")),
        (("QP 52", "0..51", "libx265"), ("--qp", "52", "--codec", "hevc")),
        (("preset 'warp'", "faster", "libvvenc"), ("--qp", "30", "--preset", "warp")),
        (("--frames",), ("--qp", "30", "--frames", "0")),
        (("--segment-seconds nan", "above 0"), ("--qp", "30", "--segment-seconds", "nan")),
        (("--segment-seconds inf", "above 0"), ("--target-smr", "0.9", "--segment-seconds", "inf")),
        (("--weights", "holds none of", "curve_small.safetensors"), ("--target-smr", "0.9", "--weights", ".")),
        (("map.npz",), ("--qp", "30", "--codec", "hevc-kvazaar", "--qp-map", "map.npz")),
    ],
)
def test_options_that_cannot_be(
    words: tuple[str, ...], arguments: tuple[str, ...], good: Path, machines_dir: Path, tmp_path: Path
) -> None:
    options = (good, "-o", tmp_path / "out.mp4", *arguments, "--machines", machines_dir, "--names", "yolo_fastestv2")
    refused(tmp_path, 2, *words, arguments=options)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (("--names yolox_nano", "--machines DIR"), ("--names", "yolox_nano")),
        (("--names", "holds no name"), ("--names", " ,", "--machines", ".")),
    ],
)
def test_names_need_a_library_to_choose_from(
    words: tuple[str, ...], arguments: tuple[str, ...], good: Path, tmp_path: Path
) -> None:
    """Else the user believes that these machines judged."""
    options = (good, "-o", tmp_path / "out.mp4", "--target-smr", "0.9", *arguments)
    refused(tmp_path, 2, *words, arguments=options)


def test_a_target_without_machines_is_predicted_or_says_what_is_missing(good: Path, tmp_path: Path) -> None:
    from vcm_ratecontrol.ratecontrol.predicted import weights_file

    run = vcm_encode(good, "-o", tmp_path / "out.mp4", "--target-smr", 0.9)
    if weights_file("curve_small", None) is not None:
        assert run.code == 0, run.err
        return
    assert run.code == 7
    assert "--machines" in run.err
    assert list(tmp_path.iterdir()) == []


def test_tools_that_are_missing_or_broken(good: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no program")
    arguments = (good, "-o", tmp_path / "out.mp4", "--qp", 40)
    for named in ("/no/such/ffmpeg", "/bin/true", "/bin/false", str(tmp_path / "notes"), str(tmp_path)):
        refused(tmp_path, 7, named, "VCM_FFMPEG", arguments=arguments, env={"VCM_FFMPEG": named})
    for path in ("/no/such/encoder", str(tmp_path / "notes")):
        refused(tmp_path, 7, path, arguments=(*arguments, "--codec", "hevc-kvazaar", "--encoder-path", path))
    refused(tmp_path, 7, "uvg266", arguments=(*arguments, "--codec", "uvg266"), env={"PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize("how", ["dies", "is killed", "exits well"])
def test_an_encoder_that_fails_is_exit_4(how: str, good: Path, tmp_path: Path) -> None:
    """The real ffmpeg, that fails as soon as it is to code."""
    deed = {"dies": "echo out of luck >&2; exit 9", "is killed": "kill -9 $$", "exits well": "exit 0"}[how]
    broken = wrapper(tmp_path / "ffmpeg", f'case "$*" in *rawvideo*) {deed};; esac')
    (tmp_path / "out.mp4").write_text("an older file")
    options = (good, "-y", "-o", tmp_path / "out.mp4", "--qp", 40)
    words = {"dies": "exit 9; its last words: out of luck", "is killed": "SIGKILL", "exits well": "coded 0 of 1"}[how]
    refused(tmp_path, 4, words, arguments=options, env=broken)


def test_an_encoder_that_fails_while_probing_is_exit_4(
    synthetic_clip: Callable[[str], Path], machines_dir: Path, tmp_path: Path
) -> None:
    """One of several at once, in the middle of its frames."""
    dies = f"if mkdir {tmp_path}/first 2>/dev/null; then head -c 50000 >/dev/null; exit 9; fi"
    broken = wrapper(tmp_path / "ffmpeg", f'case "$*" in *rawvideo*) {dies};; esac')
    options = machine_options(machines_dir, 0.9, ("yolo_fastestv2",))
    source = synthetic_clip("three_scenes.mp4")
    refused(tmp_path, 4, "exit 9", arguments=(source, "-o", tmp_path / "out.mp4", *options, "--workers", 3), env=broken)


@pytest.mark.parametrize("options", [("--qp", 40), ("--target-jrd", 0.75, "--objects", "boxes.json")])
def test_an_anchor_that_cannot_be_coded_costs_no_result(
    options: tuple[object, ...], synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    env = wrapper(tmp_path / "ffmpeg", before='case "$*" in *"-qp 22 "*) exit 9;; esac')
    (tmp_path / "boxes.json").write_text("[]")
    output, source = tmp_path / "out.mp4", synthetic_clip("plain.mp4")
    run = vcm_encode(source, "-o", output, *options, "--json", cache=tmp_path / "cache", env=env, cwd=tmp_path)
    assert (run.code, run.end["anchor"]) == (0, None)
    assert any("anchor at QP 22 could not be coded" in note for note in run.end["notes"])
    assert decoded_frames(output) == run.end["n_frames"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_that_does_not_verify_is_exit_6(
    suffix: str, synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    cut = 'for word; do case "$word" in */final.*) truncate -s 6000 "$word";; esac; done'
    env = wrapper(tmp_path / "ffmpeg", after=cut)
    output = tmp_path / f"out{suffix}"
    output.write_text("an older file")
    arguments = (synthetic_clip("plain.mp4"), "-y", "-o", output, "--qp", 30, "--no-anchor")
    refused(tmp_path, 6, f"out{suffix}", "not kept", arguments=arguments, env=env)


@pytest.mark.parametrize("limit", [500, 6_000])
def test_files_that_cannot_grow_are_a_clear_error(
    limit: int, synthetic_clip: Callable[[str], Path], machines_dir: Path, tmp_path: Path
) -> None:
    """A limit on the size of files, set for the command and all that it starts: in a piece, or in the final file."""
    cache = tmp_path / "cache"
    run = vcm_encode(
        synthetic_clip("plain.mp4"), "-o", tmp_path / "out.mp4", "--qp", 30, "--json", cache=cache,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert run.code in (2, 4), run.err
    (line,) = run.err.splitlines()
    assert "SIGXFSZ" in line or "full" in line or "File too large" in line
    assert run.end["status"] == "error"
    assert list(left_in(tmp_path)) == []
    assert list(tmp_path.glob(".*")) == []


def can_mount() -> bool:
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.mark.skipif(not can_mount(), reason="needs to mount a small file system of its own (unshare -rm)")
@pytest.mark.parametrize("blocks", [3, 8, 16])
def test_a_disk_that_is_full_is_exit_2(blocks: int, synthetic_clip: Callable[[str], Path], tmp_path: Path) -> None:
    """A real file system of few 4 KB blocks, which fills up in a piece, in the joined stream or in the final file."""
    small = tmp_path / "small"
    small.mkdir()
    argv = command(synthetic_clip("plain.mp4"), "-o", small / "out.mp4", "--qp", 22, "--json", "--no-anchor")
    quoted = " ".join(f"'{word}'" for word in argv)
    script = (
        f"mount -t tmpfs -o size={4 * blocks}k none {small} && {{ {quoted}; echo $? > {tmp_path}/code; "
        f"ls -A {small} > {tmp_path}/left; }}"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=120, env=environment()
    )
    if not (tmp_path / "code").exists():
        pytest.skip(f"cannot mount: {done.stderr}")
    run = Run(int((tmp_path / "code").read_text()), done.stdout, done.stderr)
    assert run.code == 2, run.err
    assert "the disk is full; free some space" in run.end["error"]["message"]
    assert run.end["error"]["type"] == "OutputError"
    assert (tmp_path / "left").read_text() == ""


@pytest.fixture
def library(machines_dir: Path, tmp_path: Path) -> Path:
    """A library of two machines, copied to be damaged."""
    folder = tmp_path / "library"
    manifest = json.loads((machines_dir.parent / "manifest.json").read_text())
    manifest["machines"] = [machine for machine in manifest["machines"] if machine["name"] in (FAST[0], FAST[3])]
    for machine in manifest["machines"]:
        target = folder / "machines" / machine["name"]
        target.mkdir(parents=True)
        for path in (machines_dir / machine["name"]).iterdir():
            (target / path.name).write_bytes(path.read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def damage(library: Path, how: str) -> str:
    """Damage a library; returns what must be named."""
    model = library / "machines" / FAST[3] / "yolo_fastestv2.onnx"
    manifest = library / "manifest.json"
    if how == "machine file changed":
        content = bytearray(model.read_bytes())
        content[1000] ^= 1
        model.write_bytes(content)
    elif how == "machine file cut":
        model.write_bytes(model.read_bytes()[:1000])
    elif how == "machine file gone":
        model.unlink()
    elif how == "wrong checksum":
        known = next(m for m in json.loads(manifest.read_text())["machines"] if m["name"] == FAST[3])
        wrong = next(f["sha256"] for f in known["files"] if f["file"] == model.name)
        manifest.write_text(manifest.read_text().replace(wrong, "0" * 64))
    elif how == "manifest cut":
        manifest.write_text(manifest.read_text()[:500])
        return "manifest.json"
    elif how == "manifest gone":
        manifest.unlink()
        return "library"
    elif how == "broken with a right checksum":
        import hashlib

        old = hashlib.sha256(model.read_bytes()).hexdigest()
        model.write_bytes(b"not a network" * 100)
        new = hashlib.sha256(model.read_bytes()).hexdigest()
        manifest.write_text(manifest.read_text().replace(old, new).replace("528889", "1300"))
    return model.name


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("machine file changed", 7),
        ("machine file cut", 7),
        ("machine file gone", 7),
        ("wrong checksum", 7),
        ("broken with a right checksum", 7),
        ("manifest cut", 2),
        ("manifest gone", 2),
    ],
)
def test_damaged_libraries(how: str, code: int, library: Path, good: Path, tmp_path: Path) -> None:
    named = damage(library, how)
    arguments = (good, "-o", tmp_path / "out.mp4", "--target-smr", 0.9, "--machines", library / "machines")
    refused(tmp_path, code, named, arguments=arguments)


def test_names_that_the_library_does_not_have(library: Path, good: Path, tmp_path: Path) -> None:
    arguments = (good, "-o", tmp_path / "out.mp4", "--target-smr", 0.9, "--machines", library / "machines")
    refused(tmp_path, 2, "'resnet'", FAST[3], arguments=(*arguments, "--names", "resnet"))
    refused(tmp_path, 2, "no machine is left", arguments=(*arguments, "--names", FAST[3], "--task", "classification"))


def test_a_bug_is_exit_1_without_a_traceback(good: Path, tmp_path: Path) -> None:
    """A plug-in encoder of somebody else's with a mistake in it."""
    (tmp_path / "others.py").write_text(
        "from codec_wrappers.vvenc import VvencEncoder\n"
        "class Mine(VvencEncoder):\n    name = 'mine'\n    def command(self, job):\n        return 1 / 0\n"
    )
    info = tmp_path / "others-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[codec_wrappers.encoders]\nmine = others:Mine\n")
    env = {"PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = (good, "-o", tmp_path / "out.mp4", "--qp", 40, "--codec", "mine")
    refused(tmp_path, 1, "internal: ZeroDivisionError", "--traceback", arguments=arguments, env=env)
