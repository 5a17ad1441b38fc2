"""Predicted mode with real encoders and predictors that stand in, without and with machines as judges."""
# ruff: noqa: F811 - fixtures are imported by name

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codec_wrappers.errors import InputError, MissingToolError, NoRoomError, OutputError, TargetMissedError
from codec_wrappers.join import coded_bits
from tests.vcm_ratecontrol.encode_runs import FAST, digest, left_in
from tests.vcm_ratecontrol.predicted_inputs import TWO, film, photos, shaken, weights  # noqa: F401
from tests.vcm_ratecontrol.stand_ins import stand_in
from vcm_ratecontrol import encode
from vcm_ratecontrol.media.segments import FRAMES_PER_SEGMENT


def test_without_probes_each_segment_is_coded_once(film: Path, weights: Path, tmp_path: Path) -> None:
    told: list[str] = []
    report = encode(
        film, tmp_path / "out.mp4", target_smr=0.8, probes=0, weights=weights, cache=None,
        on_event=lambda event, **fields: told.append(event),
    )  # fmt: skip
    assert "probe" not in told
    assert report.probes == 0
    assert report.predicted_smr is not None
    assert report.predicted_smr >= 0.8 - 1e-6


def test_a_higher_target_costs_more_bits_and_a_floor_bounds_the_worst(
    film: Path, weights: Path, tmp_path: Path
) -> None:
    def reports(**options: Any) -> Any:
        return encode(
            film, tmp_path / "out.mp4", probes=0, segment_seconds=0.5, dry_run=True, weights=weights, **options
        )

    low, high, floor = reports(target_smr=0.6), reports(target_smr=0.8), reports(target_smr=0.6, floor=0.59)
    assert sum(s.qp for s in low.segments) > sum(s.qp for s in high.segments)
    assert min(segment.predicted_smr for segment in floor.segments) >= 0.59
    assert list(left_in(tmp_path)) == []


def test_qps_below_all_labels_are_told(film: Path, tmp_path: Path) -> None:
    """With the shipped weights, whose labels of clips begin at QP 17."""
    dear, usual = (
        encode(film, tmp_path / "out.mp4", target_smr=target, probes=0, dry_run=True) for target in (0.95, 0.6)
    )
    assert min(segment.qp for segment in dear.segments) < 17 < min(segment.qp for segment in usual.segments)
    assert any("takes QPs below 17" in note for note in dear.notes)
    assert not any("takes QPs below" in note for note in usual.notes)


def test_the_bits_are_those_of_any_number_of_workers(film: Path, weights: Path, tmp_path: Path) -> None:
    files = set()
    for workers in (1, 2, 4):
        output = tmp_path / f"{workers}.mp4"
        encode(film, output, target_smr=0.8, segment_seconds=0.5, workers=workers, weights=weights)
        files.add(digest(output))
    assert len(files) == 1


@pytest.mark.parametrize("codec", ["hevc", "hevc-kvazaar", "av1"])
def test_other_codecs_are_predicted_by_the_nearest_condition(codec: str, photos: list[Path], tmp_path: Path) -> None:
    stand_in(tmp_path, "curve_small", codecs=("vvc",))
    report = encode(photos[0], tmp_path / "out.mkv", target_smr=0.8, codec=codec, probes=0, weights=tmp_path)
    assert report.pool == "each"
    assert any("those of vvc/still/both are used" in note for note in report.notes)


def test_without_the_scorer_a_probe_tells_bits_alone(photos: list[Path], tmp_path: Path) -> None:
    stand_in(tmp_path, "curve_small")
    stand_in(tmp_path, "smr_small", codecs=())  # instead of the package's: knows no codec
    told: list[dict[str, Any]] = []
    probed = encode(
        photos[0], tmp_path / "a.mp4", target_smr=0.8, weights=tmp_path, probes=2,
        on_event=lambda event, **fields: told.append(fields) if event == "probe" else None,
    )  # fmt: skip
    trusted = encode(photos[0], tmp_path / "b.mp4", target_smr=0.8, weights=tmp_path, probes=0)
    assert [(one["smr"], one["bits"]) for one in told] == [(None, probed.bits)]
    assert (probed.probes, trusted.probes) == (1, 0)
    assert [s.predicted_smr for s in probed.segments] == [s.predicted_smr for s in trusted.segments]
    assert digest(tmp_path / "a.mp4") == digest(tmp_path / "b.mp4")


def test_bits_go_where_they_are_cheap(photos: list[Path], tmp_path: Path) -> None:
    """A second at rest, then one of turning: by its frames alone either looks alike. The shipped weights know no coded
    clips, so probes tell bits alone."""
    source = shaken(photos[0], tmp_path / "shaken.mp4")
    options: dict[str, Any] = {"target_smr": 0.7, "segment_seconds": 1, "overwrite": True}
    trusted, probed = (encode(source, tmp_path / "out.mp4", probes=probes, **options) for probes in (0, 2))
    assert trusted.notes == probed.notes
    rest, motion = (segment.qp for segment in probed.segments)
    assert abs(trusted.segments[0].qp - trusted.segments[1].qp) <= 2
    assert rest + 4 <= motion
    assert probed.bits < trusted.bits
    assert probed.predicted_smr >= 0.7 - 1e-6  # type: ignore[operator]


def test_who_pays_for_the_mean_is_told(film: Path, photos: list[Path], tmp_path: Path) -> None:
    """A picture beside a clip counts as one of 25 frames, and is given up for it."""
    batch = encode([film, photos[0]], tmp_path / "out", target_smr=0.7, probes=0)
    film_smr, photo_smr = (report.predicted_smr for report in batch.reports)
    assert photo_smr < 0.35 < film_smr  # type: ignore[operator]
    assert any("lie below 0.5 of the target" in note and "--floor" in note for note in batch.notes)
    bounded = encode([film, photos[0]], tmp_path / "out", target_smr=0.7, floor=0.6, probes=0, overwrite=True)
    assert min(report.predicted_smr for report in bounded.reports) >= 0.6 - 1e-6  # type: ignore[type-var]
    assert not any("lie below" in note for note in bounded.notes)


def test_several_inputs_are_one_job_under_mean(photos: list[Path], weights: Path, tmp_path: Path) -> None:
    asked = set()

    def on_event(event: str, **fields: Any) -> None:
        if event == "probe":
            asked.add(fields["input"])

    batch = encode(photos, tmp_path / "out", target_smr=0.8, weights=weights, on_event=on_event)
    assert sorted(left_in(tmp_path / "out")) == sorted(f"{photo.stem}.mp4" for photo in photos)
    assert [report.input for report in batch.reports] == photos
    assert {report.pool for report in batch.reports} == {"mean"}
    assert batch.mean("predicted_smr") >= 0.8 - 1e-6  # type: ignore[operator]
    assert batch.reached
    assert asked == set(photos)


def test_a_dry_run_of_several_makes_no_folder(photos: list[Path], weights: Path, tmp_path: Path) -> None:
    for pool in ("mean", "each"):
        options = {"target_smr": 0.8, "pool": pool, "probes": 0, "dry_run": True, "weights": weights}
        batch = encode(photos, tmp_path / "out", **options)  # type: ignore[call-overload]
        assert [report.output for report in batch.reports] == [tmp_path / "out" / f"{p.stem}.mp4" for p in photos]
        for report in batch.reports:
            (line,) = report.commands
            assert line[-1].startswith(f"{tmp_path / 'out' / report.output.stem}.0000000-0000001-")
        assert (batch.bits, batch.file_bytes) == (None, None)
        assert batch.predicted_bits == sum(report.predicted_bits for report in batch.reports) > 0
        assert list(tmp_path.iterdir()) == []


def test_a_picture_that_the_encoder_has_no_room_for_stops_no_other(
    photos: list[Path], weights: Path, machines_dir: Path, tmp_path: Path
) -> None:
    """Noise at QP 0, where the target is out of reach; a QP that was asked for stays an error."""
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 144, 3), np.uint8)).save(noise)
    for probes in (0, 2):
        batch = encode(
            [noise, photos[0]], tmp_path / "out", target_smr=1.0, weights=weights, probes=probes, overwrite=True
        )
        coded, other = (report.segments[0] for report in batch.reports)
        assert coded.qp == coded.intra_qp
        assert 10 < coded.qp < 20
        assert (other.qp, other.intra_qp) == (0, 0)
        assert batch.reports[0].bits == coded_bits(tmp_path / "out" / "noise.mp4")
        assert any(f"noise.png: coded at QP {coded.qp} instead of 0, as" in note for note in batch.notes)
    with pytest.raises(NoRoomError, match=r"noise\.png: vvenc .* take a higher QP"):
        encode(noise, tmp_path / "flat.mp4", qp=0)
    seen = encode(noise, tmp_path / "seen.mp4", target_smr=1.0, machines=machines_dir, names=TWO, cache=None)
    assert seen.bits == coded_bits(tmp_path / "seen.mp4")


def test_under_mean_a_bad_input_is_told_before_anything_is_coded(
    photos: list[Path], weights: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(InputError, match=r"bad\.png"):
        encode([photos[0], bad], tmp_path / "mean", target_smr=0.8, weights=weights)
    assert list(left_in(tmp_path / "mean")) == []
    with pytest.raises(OutputError, match="would hold both"):
        encode([photos[0], photos[0]], tmp_path / "mean", target_smr=0.8, weights=weights)


def test_machines_prove_the_mean_over_pictures(
    photos: list[Path], machines_dir: Path, weights: Path, tmp_path: Path
) -> None:
    batch = encode(
        photos, tmp_path / "out", target_smr=0.7, machines=machines_dir, names=FAST, anchor=False, verify_smr=True,
        weights=weights, cache=None,
    )  # fmt: skip
    assert batch.reached
    assert batch.mean("smr") >= 0.7 - 1e-9  # type: ignore[operator]
    for report in batch.reports:
        assert report.mode == "measured"
        # The file that was written is what was measured.
        assert report.verified is not None
        assert report.verified.smr == pytest.approx(report.smr)
        assert report.predicted_smr is not None


def test_machines_each_and_verification_of_a_clip(
    film: Path, machines_dir: Path, weights: Path, tmp_path: Path
) -> None:
    report = encode(
        film, tmp_path / "out.mp4", target_smr=0.5, pool="each", machines=machines_dir, names=TWO, anchor=False,
        verify_smr=True, weights=weights, cache=None,
    )  # fmt: skip
    assert all(segment.probes <= 3 for segment in report.segments)
    assert report.verified is not None
    # More frames than chose: the true mean is near, and not the same.
    assert report.verified.frames == (2 * FRAMES_PER_SEGMENT + 1) * len(report.segments)
    assert report.verified.smr == pytest.approx(report.smr, abs=0.3)


def test_machines_without_probes_only_sharpen_the_curve(
    photos: list[Path], machines_dir: Path, weights: Path, tmp_path: Path
) -> None:
    report = encode(
        photos[0], tmp_path / "out.mp4", target_smr=0.8, machines=machines_dir, names=TWO, probes=0, weights=weights
    )
    assert (report.mode, report.probes, report.smr) == ("predicted", 0, None)


def test_a_picture_that_no_machine_knows_counts_in_no_mean(
    photos: list[Path], machines_dir: Path, weights: Path, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (144, 112)).save(tmp_path / "black.png")
    batch = encode(
        [*photos, tmp_path / "black.png"], tmp_path / "out", target_smr=0.6, machines=machines_dir,
        names=("yolo_fastestv2",), anchor=False, weights=weights, cache=None,
    )  # fmt: skip
    black = batch.reports[-1]
    assert (black.smr, black.predicted_smr, black.probes) == (None, None, 0)
    assert any("without a valid machine" in note for note in black.notes)
    assert batch.mean("smr") >= 0.6 - 1e-9  # type: ignore[operator]


def test_targets_that_every_level_or_no_level_reaches(photos: list[Path], tmp_path: Path) -> None:
    stand_in(tmp_path, "curve_small", spread=0.0, ceiling=0.9)
    output = tmp_path / "out.mp4"
    every = encode(photos[0], output, target_smr=0, probes=0, dry_run=True, weights=tmp_path)
    assert every.segments[0].qp == 63
    assert any("every QP reaches SMR 0" in note for note in every.notes)
    missed = encode(photos[0], output, target_smr=0.999, probes=0, dry_run=True, weights=tmp_path)
    assert missed.reached is False
    assert any("no QP was found that reaches SMR 0.999" in note for note in missed.notes)
    with pytest.raises(TargetMissedError, match=r"0\.999 is not reached"):
        encode(photos[0], output, target_smr=0.999, probes=0, strict=True, weights=tmp_path)
    assert not output.exists()


def test_neither_weights_nor_machines_are_a_clear_error(photos: list[Path], tmp_path: Path) -> None:
    from vcm_ratecontrol.ratecontrol.predicted import weights_file

    if weights_file("curve_small", None) is not None:
        pytest.skip("the package has weights")
    with pytest.raises(MissingToolError, match="--machines"):
        encode(photos[0], tmp_path / "out.mp4", target_smr=0.9)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_kind_are_refused(photos: list[Path], weights: Path, tmp_path: Path) -> None:
    (tmp_path / "curve_small.safetensors").write_bytes((weights / "smr_small.safetensors").read_bytes())
    with pytest.raises(InputError, match="predicts no SMR curves"):
        encode(photos[0], tmp_path / "out.mp4", target_smr=0.9, weights=tmp_path)
