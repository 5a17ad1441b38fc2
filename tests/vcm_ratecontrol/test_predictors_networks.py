"""The networks: sizes and key names of the published ones, and the laws that every prediction obeys."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.backbone import (
    Backbone,
    StandIn,
    StandInPrediction,
    confidence_channels,
    copy_backbone,
)
from vcm_ratecontrol.predictors.config import build_network, config_names, load_config
from vcm_ratecontrol.predictors.dtjrd import decode_level, gaussian_soft_labels
from vcm_ratecontrol.predictors.efficientnet import (
    EfficientNetV2Stages,
    efficientnet_b4,
    efficientnet_v2_s,
    from_owjrd_names,
)
from vcm_ratecontrol.predictors.interface import Batch, Condition, CurvePrediction, MapPrediction, SMRPrediction
from vcm_ratecontrol.predictors.jrd_map import levels_at_ratio, to_blocks
from vcm_ratecontrol.predictors.layers import SetEncoder, count_parameters, for_inference
from vcm_ratecontrol.predictors.onnx_export import example_batch
from vcm_ratecontrol.predictors.owjrd import ObjectRecognition
from vcm_ratecontrol.predictors.smr_full_reference import SMRFullReference
from vcm_ratecontrol.predictors.vit import VisionTransformer, resize_position_embedding

SMALL = ["curve_small", "curve_evidence", "smr_small", "owjrd_small", "dtjrd_small", "jrd_map_small", "stand_in"]
PUBLISHED = ["efficientnet_b4", "owjrd", "dtjrd"]


def scattered(name: str) -> nn.Module:
    """The network of a configuration with random weights also where training starts at zero, in evaluation mode."""
    torch.manual_seed(5)
    network = build_network(load_config(name))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {name: scattered(name) for name in SMALL}


def batch_for(name: str, pictures: int = 3) -> Batch:
    return example_batch(load_config(name), pictures=pictures, machines=4, n_conditions=12)


def rows_of(batch: Batch, rows: slice) -> Batch:
    return Batch(**{name: value[rows] for name, value in batch.named().items()})


def test_every_configuration_is_tested_and_builds() -> None:
    assert sorted(SMALL + PUBLISHED) == config_names()
    with torch.device("meta"):
        for name in PUBLISHED:
            build_network(load_config(name))


@pytest.mark.parametrize(
    ("build", "parameters", "entries", "shapes"),
    [
        (
            efficientnet_b4,
            19_341_616,
            706,
            {
                "features.0.0.weight": (48, 3, 3, 3),
                "features.1.0.block.0.0.weight": (48, 1, 3, 3),
                "features.1.0.block.1.fc1.weight": (12, 48, 1, 1),
                "features.1.0.block.2.1.bias": (24,),
                "features.2.0.block.0.0.weight": (144, 24, 1, 1),
                "features.2.0.block.2.fc2.bias": (144,),
                "features.7.1.block.3.1.running_var": (448,),
                "features.8.0.weight": (1792, 448, 1, 1),
                "classifier.1.weight": (1000, 1792),
            },
        ),
        (
            efficientnet_v2_s,
            21_458_488,
            782,
            {
                "features.0.0.weight": (24, 3, 3, 3),
                "features.1.1.block.0.0.weight": (24, 24, 3, 3),
                "features.2.0.block.1.0.weight": (48, 96, 1, 1),
                "features.4.0.block.2.fc1.weight": (16, 256, 1, 1),
                "features.6.14.block.3.0.weight": (256, 1536, 1, 1),
                "features.7.0.weight": (1280, 256, 1, 1),
                "classifier.1.bias": (1000,),
            },
        ),
    ],
)
def test_efficientnets_have_the_published_size_and_torchvision_names(
    build: type, parameters: int, entries: int, shapes: dict[str, tuple[int, ...]]
) -> None:
    with torch.device("meta"):
        network = build()
    state = network.state_dict()
    assert count_parameters(network) == parameters
    assert len(state) == entries
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_vit_has_the_published_size_and_timm_names() -> None:
    with torch.device("meta"):
        trunk = VisionTransformer(size=224, patch=32, width=1024, depth=24, heads=16)
    state = trunk.state_dict()
    assert count_parameters(trunk) == 305_510_400  # ViT-L/32 without its classifier
    assert tuple(state["pos_embed"].shape) == (1, 50, 1024)
    assert tuple(state["blocks.23.attn.qkv.weight"].shape) == (3072, 1024)
    assert {name.split(".")[0] for name in state} == {"cls_token", "pos_embed", "patch_embed", "blocks", "norm"}
    block = {name.removeprefix("blocks.0.") for name in state if name.startswith("blocks.0.")}
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert block == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_position_embedding_grows_from_7_to_12_patches_a_side() -> None:
    across = torch.linspace(0, 1, 7).expand(7, 7)
    embedding = torch.cat([torch.full((1, 1, 2), 9.0), torch.stack([across, across.T], -1).reshape(1, 49, 2)], 1)
    grown = resize_position_embedding(embedding, 144)
    assert tuple(grown.shape) == (1, 145, 2)
    assert torch.equal(grown[:, 0], embedding[:, 0])
    grid = grown[0, 1:].reshape(12, 12, 2)
    torch.testing.assert_close(grid[0, [0, -1], 0], torch.tensor([0.0, 1.0]))  # the corners stay corners
    torch.testing.assert_close(grid[..., 0], grid[..., 1].T)
    with pytest.raises(ValueError, match="squares"):
        resize_position_embedding(embedding[:, :-1], 144)


def test_public_weights_fill_the_trunks() -> None:
    b4, v2_s = efficientnet_b4().state_dict(), efficientnet_v2_s().state_dict()
    smr = SMRFullReference(trunk="efficientnet_b4", hidden=8)
    assert smr.load_public(b4) == ("classifier.1.weight", "classifier.1.bias")
    jrd = ObjectRecognition(trunk="efficientnet_v2_s")
    unused = jrd.load_public(v2_s)
    assert "features.5.0.block.0.0.weight" in unused
    assert not any(name.startswith(("features.0.", "features.4.")) for name in unused)
    with pytest.raises(RuntimeError, match="Missing"):
        smr.load_public(v2_s | {"features.8.0.weight": torch.zeros(1)})


def test_owjrd_trunk_names_translate_to_every_entry_of_the_stages() -> None:
    wanted = EfficientNetV2Stages().state_dict()
    layers = [["project_conv"], ["expand_conv", "project_conv"], ["expand_conv", "project_conv"]]
    layers.append(["expand_conv", "dwconv", "se", "project_conv"])
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    parts = ["conv.weight", *(f"bn.{name}" for name in norm)]
    gate = [f"{part}.{kind}" for part in ("conv_reduce", "conv_expand") for kind in ("weight", "bias")]
    theirs = [f"module.EB.stem.{part}" for part in parts]
    for stage, (depth, names) in enumerate(zip((2, 4, 4, 6), layers, strict=True)):
        for index in range(depth):
            for layer in names:
                theirs += [f"module.EB.blocks{stage}.{index}.{layer}.{p}" for p in (gate if layer == "se" else parts)]
    renamed = from_owjrd_names({name: torch.zeros(1) for name in [*theirs, "module.PH.head.classifier.bias"]})
    assert renamed.keys() == wanted.keys()


@pytest.mark.parametrize("name", SMALL)
def test_shapes_and_repeatability(name: str, networks: dict[str, nn.Module]) -> None:
    batch = batch_for(name)
    with torch.inference_mode():
        first, second = networks[name](batch), networks[name](batch)
    for key, value in first.named().items():
        if isinstance(value, Tensor):
            assert value.shape[0] == 3
            assert torch.isfinite(value).all()
            assert torch.equal(value, second.named()[key])
    assert count_parameters(networks[name]) < 2_300_000


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_gives_what_single_pictures_give_and_folding_changes_nothing(
    name: str, networks: dict[str, nn.Module]
) -> None:
    batch = batch_for(name)
    with torch.inference_mode():
        plain, fast = networks[name](batch), for_inference(networks[name])
        together = fast(batch)
        alone = [fast(rows_of(batch, slice(row, row + 1))) for row in range(3)]
    for key, value in together.named().items():
        if isinstance(value, Tensor):
            single = torch.cat([one.named()[key] for one in alone])
            torch.testing.assert_close(value, single, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(value, plain.named()[key], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["curve_small", "jrd_map_small", "smr_small", "dtjrd_small"])
def test_mixed_precision_stays_near(name: str, networks: dict[str, nn.Module]) -> None:
    batch = batch_for(name, pictures=1)
    with torch.inference_mode():
        exact = networks[name](batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = networks[name](batch)
    for key, value in exact.named().items():
        if key not in ("object_logit", "logits"):
            assert rounded.named()[key].dtype == torch.float32
        torch.testing.assert_close(rounded.named()[key].float(), value, rtol=0.1, atol=0.5)


def test_published_networks_predict() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 64, 64)
    none = torch.full((2,), -1.0)
    batch = Batch(pixels, none.long(), none, none, torch.zeros(2, 1, 16), torch.zeros(2, 1, dtype=torch.bool), none)
    batch = dataclasses.replace(batch, coded=pixels.flip(0))
    with torch.inference_mode():
        smr: SMRPrediction = SMRFullReference(trunk="efficientnet_b4", hidden=16).eval()(batch)
        flags = ObjectRecognition(trunk="efficientnet_v2_s").eval()(batch)
    assert smr.direct is not None
    assert smr.difference is not None
    torch.testing.assert_close(smr.smr, (smr.direct + 1 - smr.difference) / 2)
    assert tuple(flags.logits.shape) == (2, 2)


@pytest.mark.parametrize("heads", ["g", "q"])
def test_heads_of_the_full_reference_stand_alone(heads: str) -> None:
    network = SMRFullReference(trunk="small", heads=heads, hidden=8, conditions=["vvc/still/both"])
    batch = example_batch(load_config("smr_small"), pictures=2, machines=1)
    with torch.inference_mode():
        prediction: SMRPrediction = network.eval()(batch)
    assert (prediction.direct is None) == (heads == "q")
    assert (prediction.difference is None) == (heads == "g")
    # Untrained, both give the mean curve at the level of the coded picture.
    torch.testing.assert_close(prediction.smr, network.pair.curves.smr_at(batch.condition, batch.level))


def test_the_difference_of_two_coded_pictures_starts_at_that_of_the_mean_curve() -> None:
    network = SMRFullReference(trunk="small", heads="q", hidden=8, conditions=["vvc/still/both"])
    batch = example_batch(load_config("smr_small"), pictures=2, machines=1)
    batch = dataclasses.replace(batch, reference_level=torch.tensor([20.0, 30.0]), level=torch.tensor([40.0, 45.0]))
    curves = network.pair.curves
    with torch.inference_mode():
        difference = network.eval()(batch).difference
    expected = curves.smr_at(batch.condition, batch.reference_level) - curves.smr_at(batch.condition, batch.level)
    torch.testing.assert_close(difference, expected)
    assert (difference > 0).all()


@pytest.fixture(scope="module")
def seen(networks: dict[str, nn.Module]) -> StandInPrediction:
    with torch.inference_mode():
        return networks["curve_small"].stand_in(batch_for("curve_small"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 3.0))
def test_curves_fall_whatever_the_weights(seen: StandInPrediction, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    network = build_network(load_config("curve_small")).eval()
    for layer in (network.outputs.shift, network.outputs.bits):
        nn.init.normal_(layer.weight, std=scale)
        nn.init.normal_(layer.bias, std=scale)
    with torch.inference_mode():
        prediction: CurvePrediction = network.predict(batch_for("curve_small"), seen)
    for curve in (prediction.smr, prediction.low, prediction.high, prediction.log2_bits):
        assert (curve.diff(dim=1) <= 1e-5).all()
    assert (prediction.low <= prediction.smr + 1e-6).all()
    assert (prediction.smr <= prediction.high + 1e-6).all()
    assert ((prediction.smr >= 0) & (prediction.smr <= 1)).all()
    assert (prediction.shift.abs() <= prediction.shift_mean.abs()).all()  # shrunk, never stretched


def test_an_untrained_curve_is_the_mean_curve_and_doubt_shrinks(networks: dict[str, nn.Module]) -> None:
    fresh = build_network(load_config("curve_small")).eval()
    batch = batch_for("curve_small")
    with torch.inference_mode():
        prediction: CurvePrediction = fresh(batch)
    torch.testing.assert_close(prediction.smr, fresh.curves.smr[batch.condition])
    torch.testing.assert_close(prediction.log2_bits, fresh.curves.log2_bits[batch.condition], rtol=1e-4, atol=1e-4)
    network = networks["curve_small"]
    with torch.inference_mode():
        sure = network(batch)
        network.outputs.shrinkage.fill_(1e6)
        doubtful = network(batch)
        network.outputs.shrinkage.fill_(1.0)
    assert doubtful.shift.abs().max() < 0.01 < sure.shift.abs().max()


def test_order_and_absence_of_machines(networks: dict[str, nn.Module]) -> None:
    encoder = SetEncoder(16, 8)
    members = torch.randn(2, 5, 16)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    shuffled = [3, 0, 4, 1, 2]
    torch.testing.assert_close(encoder(members, mask), encoder(members[:, shuffled], mask[:, shuffled]))
    torch.testing.assert_close(encoder(members[1:, :2], mask[1:, :2]), encoder(members, mask)[1:])
    assert not encoder(members, torch.zeros(2, 5, dtype=torch.bool)).any()
    batch = batch_for("curve_small")
    without = dataclasses.replace(batch, evidence_mask=torch.zeros_like(batch.evidence_mask))
    with torch.inference_mode():
        assert not torch.allclose(
            networks["curve_small"](batch).shift, networks["curve_small"](without).shift, atol=1e-4
        )


def test_a_known_confidence_map_takes_the_place_of_the_stand_ins_own() -> None:
    given_map = torch.tensor([[[[0.7, -1.0]]]])
    channels = confidence_channels(given_map, torch.zeros(1, 2, 1, 2))
    torch.testing.assert_close(channels, torch.tensor([[[[0.7, 0.25]], [[1.0, 0.0]]]]))


def test_maps_fall_with_the_ratio_and_keep_background_at_the_top(networks: dict[str, nn.Module]) -> None:
    network = networks["jrd_map_small"]
    with torch.inference_mode():
        prediction: MapPrediction = network(batch_for("jrd_map_small", pictures=1))
    assert (prediction.levels.diff(dim=1) <= 0).all()
    assert ((prediction.levels >= 0) & (prediction.levels <= 63)).all()
    at_half = levels_at_ratio(prediction.levels, network.ratios, 0.5)
    assert torch.equal(at_half, prediction.levels[:, 1])
    between = levels_at_ratio(prediction.levels, network.ratios, 0.6)
    assert ((between <= at_half) & (between >= prediction.levels[:, 2])).all()
    with pytest.raises(ValueError, match="ratio"):
        levels_at_ratio(prediction.levels, network.ratios, 1.5)
    nothing = dataclasses.replace(prediction, object_logit=torch.full_like(prediction.object_logit, -9))
    assert (to_blocks(nothing, at_half, 5, 7, 0.5)[0] == 63).all()


def test_a_block_takes_the_lowest_level_of_its_quarters() -> None:
    level = torch.full((1, 4, 4), 50.0)
    level[0, 1, 1] = 20.0
    logit = torch.full((1, 4, 4), 9.0)
    blocks = to_blocks(MapPrediction(logit, level[:, None], torch.ones(1, 4, 4)), level, 2, 2, 0.5)
    torch.testing.assert_close(blocks[0], torch.tensor([[20.0, 50.0], [50.0, 50.0]]))


def test_soft_labels_and_their_reading() -> None:
    labels = gaussian_soft_labels(torch.tensor([0, 30, 63]))
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(labels[1, 33] / labels[1, 30], torch.tensor(0.5).neg().exp())
    assert decode_level(labels.log(), "argmax").tolist() == [0, 30, 63]
    assert decode_level(labels.log(), "median").tolist()[1] == 30
    skewed = torch.full((1, 64), -9.0)
    skewed[0, [10, 40, 41]] = torch.tensor([0.4, 0.3, 0.3]).log()
    assert decode_level(skewed, "argmax").tolist() == [10]
    assert decode_level(skewed, "median").tolist() == [40]


def test_a_predictor_starts_from_a_trained_stand_in(networks: dict[str, nn.Module]) -> None:
    trained = networks["stand_in"]
    for name in ("curve_small", "dtjrd_small"):
        target = build_network(load_config(name))
        copy_backbone(trained, target)
        copied = next(module for module in target.modules() if isinstance(module, Backbone))
        assert torch.equal(copied.stem[0].weight, trained.backbone.stem[0].weight)
    curve = build_network(load_config("curve_small"))
    copy_backbone(trained, curve)
    assert isinstance(curve.stand_in, StandIn)
    assert torch.equal(curve.stand_in.confidence.weight, trained.confidence.weight)


def test_a_frozen_trunk_keeps_its_statistics_while_training() -> None:
    network = ObjectRecognition(trunk="small", freeze_trunk=True).train()
    assert not network.pair.trunk.training
    assert network.pair.merge.training
    assert not any(parameter.requires_grad for parameter in network.pair.trunk.parameters())


def test_bad_configurations_are_refused() -> None:
    with pytest.raises(InputError, match="no predictor configuration"):
        load_config("nonsense")
    config = load_config("curve_small")
    for network in ({"conditions": ["vvc/still/nobody"]}, {"conditions": []}, {"hidden": 3}, {}):
        with pytest.raises(InputError, match=r"\[network\]"):
            build_network(dataclasses.replace(config, network=network))
    assert Condition("vvc") in build_network(config).curves.conditions
