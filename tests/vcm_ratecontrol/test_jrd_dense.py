"""Objects from the dense predictor, alone and beside a detector's; its weights here are random."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vcm_ratecontrol.stand_ins import stand_in
from vcm_ratecontrol.jrd.frame_levels import (
    BACKGROUND,
    CONTRADICTION,
    LEAST_PROBABILITY,
    DenseLevels,
    ObjectLevels,
    laplace_quantile,
    pixels_of,
)
from vcm_ratecontrol.jrd.job import JRDRequest, encode_jrd
from vcm_ratecontrol.jrd.levels import LevelRule, level_rule
from vcm_ratecontrol.jrd.objects import RGB, FrameObjects
from vcm_ratecontrol.jrd.sources import DENSE_WEIGHTS, JRDSettings
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.predictors.inference import JRDMapPredictor, load_predictor
from vcm_ratecontrol.predictors.interface import JRDMap, Sample


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("weights"), DENSE_WEIGHTS)


@pytest.fixture(scope="module")
def predictor(weights: Path) -> JRDMapPredictor:
    found = load_predictor(weights)
    assert isinstance(found, JRDMapPredictor)
    return found


@pytest.fixture(scope="module")
def photo(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    with Image.open(picture("coco/000000465822.jpg")) as image:
        image.convert("RGB").resize((250, 190)).save(path)
    return path


class Boxes:
    """An `ObjectSource` of given objects."""

    notes = ()

    def __init__(self, *confidences: float) -> None:
        boxes = np.array([[20.0 + 70 * at, 30.0, 70.0 + 70 * at, 120.0] for at in range(len(confidences))])
        self.objects = FrameObjects(boxes, ("person",) * len(confidences), np.array(confidences))

    def see(self, rgb: RGB, frame: int) -> FrameObjects:
        return self.objects


def test_blocks_become_pixels_rounded_down() -> None:
    dense = JRDMap(np.array([[30.9, 63.0]], np.float32), np.zeros((1, 2)), np.zeros((1, 2)), 0.75, 20, 10)
    level = pixels_of(dense, dense.level.astype(np.float64))
    assert level.shape == (10, 20)
    assert set(level[:, :16].ravel()) == {30}
    assert set(level[:, 16:].ravel()) == {BACKGROUND}


def test_alone_it_gives_levels_for_every_pixel(predictor: JRDMapPredictor, photo: Path) -> None:
    (rgb,) = open_clip(photo).read_rgb()
    seen = DenseLevels(predictor, level_rule("vvc", 0.75)).look(rgb, 0)
    assert seen.level.shape == rgb.shape[:2]
    assert seen.level.max() <= BACKGROUND
    assert len(seen.objects) == 0


def test_alone_it_codes_by_its_own_quantile_where_levels_are_not_pooled(
    predictor: JRDMapPredictor, photo: Path
) -> None:
    (rgb,) = open_clip(photo).read_rgb()
    cautious, median, bold = (
        DenseLevels(predictor, level_rule("vvc", 0.75, caution, pooling=None)).look(rgb, 0).level.astype(int)
        for caution in (0.1, 0.5, 0.75)
    )
    objects = median < BACKGROUND
    assert objects.any()
    assert (cautious[objects] < median[objects]).all()
    assert (bold[objects] >= median[objects]).all()
    (dense,) = predictor.predict([Sample(rgb)], ratio=0.75, threshold=LEAST_PROBABILITY)
    np.testing.assert_array_equal(median, pixels_of(dense, dense.level.astype(np.float64)))


def test_quantiles_of_a_laplace_distribution() -> None:
    drawn = np.random.default_rng(0).laplace(0, 1 / np.sqrt(2), 200_000)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.mean(drawn < laplace_quantile(share)) == pytest.approx(share, abs=0.005)


def test_beside_a_detector_the_mean_or_where_they_contradict_the_lower(predictor: JRDMapPredictor, photo: Path) -> None:
    (rgb,) = open_clip(photo).read_rgb()
    rule = level_rule("vvc", 0.75, pooling=None)
    boxes = Boxes(0.35, 0.95)
    own = ObjectLevels(boxes, rule).look(rgb, 0).object_levels
    both = ObjectLevels(boxes, rule, predictor=predictor).look(rgb, 0)
    dense = 2 * both.object_levels - own
    apart = np.abs(dense - own) > CONTRADICTION
    assert (both.object_levels[apart] <= own[apart]).all()
    assert (both.object_levels != own).any()
    assert both.contradictions <= len(own)


def test_boxes_without_confidence_take_its_word(predictor: JRDMapPredictor, photo: Path) -> None:
    (rgb,) = open_clip(photo).read_rgb()
    rule = level_rule("vvc", 0.75)
    silent = ObjectLevels(Boxes(float("nan")), rule, predictor=predictor).look(rgb, 0)
    assumed = ObjectLevels(Boxes(float("nan")), rule).look(rgb, 0)
    assert silent.object_levels[0] != assumed.object_levels[0]
    assert assumed.object_levels[0] == ObjectLevels(Boxes(0.5), rule).look(rgb, 0).object_levels[0]


def test_an_empty_box_on_the_edge_has_a_level(predictor: JRDMapPredictor) -> None:
    """A detector's box beyond the edge is clipped to one."""
    source = Boxes(float("nan"))
    source.objects = FrameObjects(np.array([[192.0, 128.0, 192.0, 128.0]]), ("person",), np.array([np.nan]))
    seen = ObjectLevels(source, level_rule("vvc", 0.75), predictor=predictor).look(np.zeros((128, 192, 3), np.uint8), 0)
    assert np.isfinite(seen.object_levels).all()


@pytest.mark.parametrize(("level", "taken"), [(2.0, 2.0), (63.0, None)])
def test_contradictions_are_counted_and_the_lower_level_taken(
    level: float, taken: float | None, predictor: JRDMapPredictor, photo: Path
) -> None:
    """A rule that says the same of every box, far from what the dense predictor says."""
    (rgb,) = open_clip(photo).read_rgb()
    constant = np.array([level, 0, 0, 0, 0])
    rule = LevelRule(0.75, 0.25, constant, constant, pooling=None)
    seen = ObjectLevels(Boxes(0.6), rule, predictor=predictor).look(rgb, 0)
    assert seen.contradictions == 1
    assert seen.object_levels[0] == taken if taken is not None else seen.object_levels[0] < level - CONTRADICTION


def test_an_encode_needs_no_detector(weights: Path, photo: Path, tmp_path: Path) -> None:
    settings = JRDSettings(weights=weights, ratio=0.5)
    report = encode_jrd(JRDRequest(photo, tmp_path / "out.mp4", settings, codec="hevc-kvazaar", anchor=False))
    assert report.objects == 0
    assert report.bits > 0
