"""Neck `reassemble` and head `dpt` against transformers' DPT, on the same weights, in double precision."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from transformers import DepthAnythingConfig, DPTConfig, DPTForSemanticSegmentation
from transformers.models.depth_anything.modeling_depth_anything import DepthAnythingFeatureFusionStage
from transformers.models.dpt.modeling_dpt import DPTNeck, DPTReassembleStage, DPTSemanticSegmentationHead

from nnvit.errors import ConfigError
from nnvit.heads import dpt
from nnvit.necks import reassemble

WIDTHS, HIDDEN, FUSED, CLASSES = [8, 12, 16, 24], 20, 12, 5
NEAR = {"rtol": 1e-8, "atol": 1e-10}


def config(use_batch_norm: bool = False) -> DPTConfig:
    return DPTConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        backbone_out_indices=[0, 1, 2, 3],
        readout_type="ignore",
        neck_hidden_sizes=WIDTHS,
        fusion_hidden_size=FUSED,
        use_batch_norm_in_fusion_residual=use_batch_norm,
        semantic_classifier_dropout=0.0,
        num_labels=CLASSES,
    )


def reference(use_batch_norm: bool = False) -> nn.ModuleDict:
    """transformers' neck and head, with random statistics, named as in the whole model."""
    torch.manual_seed(0)
    parts = {"neck": DPTNeck(config(use_batch_norm)), "head": DPTSemanticSegmentationHead(config(use_batch_norm))}
    for module in parts["neck"].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return nn.ModuleDict(parts).double()


def _head_from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the head's state dict from that of transformers' DPTForSemanticSegmentation.

    Its backbone, reassemble stage, auxiliary head and the residual unit that it never calls are left out. Raises KeyError
    where the mapping holds no such model.
    """
    renamed = {
        "head.head.0.": "conv.",
        "head.head.1.": "norm.",
        "head.head.4.": "classifier.",
        "neck.convs.": "projections.",
    }
    units = {"residual_layer1": "join", "residual_layer2": "refine", "projection": "project"}
    fusions = "neck.fusion_stage.layers."
    coarsest = max((int(name.split(".")[3]) for name in state if name.startswith(fusions)), default=0)
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(fusions):
            index, unit, rest = name.removeprefix(fusions).split(".", 2)
            if (index, unit) != ("0", "residual_layer1"):  # theirs count from the coarsest
                rest = rest.replace("convolution", "conv").replace("batch_norm", "norm")
                out[f"fusions.{coarsest - int(index)}.{units[unit]}.{rest}"] = value
        for theirs, ours in renamed.items():
            if name.startswith(theirs):
                out[ours + name.removeprefix(theirs)] = value
    _ = out["classifier.weight"]
    return out


def _neck_from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the neck's state dict from transformers' DPTReassembleStage, or from a whole DPT that ignores its readout token.

    Raises KeyError where the mapping holds neither.
    """
    renamed = {"projection": "projections", "resize": "resamplings"}
    whole = any("reassemble_stage." in name for name in state)
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if whole and "reassemble_stage." not in name:
            continue
        _, index, part, kind = name.split("reassemble_stage.")[-1].split(".")
        out[f"{renamed[part]}.{index}.{kind}"] = value
    _ = out["projections.0.weight"]
    return out


def build_neck(theirs: nn.Module) -> reassemble.Neck:
    neck = reassemble.Neck([HIDDEN] * 4, [16.0] * 4, reassemble.Args(out_channels=WIDTHS)).double()
    neck.load_state_dict(_neck_from_transformers(theirs.state_dict()), strict=True)
    return neck


def build_head(theirs: nn.Module, use_batch_norm: bool = False) -> dpt.Head:
    keys = {"fusion_hidden_size": FUSED, "use_batch_norm": use_batch_norm, "dropout": 0.0}
    head = dpt.Head(WIDTHS, [4, 8, 16, 32], CLASSES, dpt.Config(**keys)).double()
    head.load_state_dict(_head_from_transformers(theirs.state_dict()), strict=True)
    return head


def tokens(height: int, width: int) -> list[Tensor]:
    """Four taps of a class token and height x width patches."""
    generator = torch.Generator().manual_seed(1)
    taps = [torch.randn(2, 1 + height * width, HIDDEN, generator=generator) for _ in range(4)]
    return [tap.double().requires_grad_() for tap in taps]


def as_maps(taps: list[Tensor], height: int, width: int) -> list[Tensor]:
    return [tap[:, 1:].transpose(1, 2).unflatten(2, (height, width)) for tap in taps]


def image(height: int, width: int, patch: int = 16) -> Tensor:
    return torch.zeros(2, 3, patch * height, patch * width)


def pyramid(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, c, *size, generator=generator) for c, size in zip(WIDTHS, sizes, strict=True)]
    return [map_BChw.double().requires_grad_() for map_BChw in maps]


def assert_same_gradients(got: Tensor, expected: Tensor, inputs: list[Tensor], their_inputs: list[Tensor]) -> None:
    target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * target).mean().backward()
    (got * target).mean().backward()
    for mine, theirs in zip(inputs, their_inputs, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, **NEAR)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 2)])
def test_the_neck_equals_transformers_reassemble_stage(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = DPTReassembleStage(config()).double()
    mine, taps, their_taps = build_neck(theirs), tokens(*grid), tokens(*grid)
    expected = theirs(their_taps, *grid)
    got = mine(as_maps(taps, *grid), image(*grid))
    for my_map, their_map, width in zip(got, expected, mine.channels, strict=True):
        assert my_map.shape[1] == width
        torch.testing.assert_close(my_map, their_map, **NEAR)
    flat = [torch.cat([map_BChw.flatten() for map_BChw in maps]) for maps in (got, expected)]
    assert_same_gradients(*flat, taps, their_taps)
    gradients = _neck_from_transformers({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], **NEAR)


@pytest.mark.parametrize("use_batch_norm", [False, True])
@pytest.mark.parametrize("grid", [(4, 4), (2, 6)])
def test_neck_and_head_equal_transformers_in_eval_mode(grid: tuple[int, int], use_batch_norm: bool) -> None:
    theirs = reference(use_batch_norm).eval()
    neck, head = build_neck(theirs).eval(), build_head(theirs, use_batch_norm).eval()
    expected = theirs["head"](theirs["neck"](tokens(*grid), *grid))
    got = head(neck(as_maps(tokens(*grid), *grid), image(*grid)), image(*grid))
    torch.testing.assert_close(got, expected, **NEAR)


@pytest.mark.parametrize("use_batch_norm", [False, True])
def test_logits_statistics_and_gradients_equal_transformers_in_train_mode(use_batch_norm: bool) -> None:
    theirs = reference(use_batch_norm).train()
    mine = build_head(theirs, use_batch_norm).train()
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    maps, their_maps = pyramid(*sizes), pyramid(*sizes)
    convolved = [conv(map_BChw) for conv, map_BChw in zip(theirs["neck"].convs, their_maps, strict=True)]
    expected = theirs["head"](theirs["neck"].fusion_stage(convolved))
    got = mine(maps, image(4, 6))
    torch.testing.assert_close(got, expected, **NEAR)
    torch.testing.assert_close(mine.state_dict(), _head_from_transformers(theirs.state_dict()), **NEAR)
    assert_same_gradients(got, expected, maps, their_maps)
    gradients = _head_from_transformers({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], **NEAR)
    unread = {name for name, p in theirs["neck"].fusion_stage.named_parameters() if p.grad is None}
    assert unread == {n for n, _ in theirs["neck"].fusion_stage.named_parameters() if "layers.0.residual_layer1" in n}


@pytest.mark.parametrize("sizes", [[(12, 20), (6, 10), (3, 5), (2, 3)], [(7, 9), (4, 5), (2, 3), (1, 2)], [(3, 5)] * 4])
def test_odd_maps_are_fused_as_in_depth_anything(sizes: list[tuple[int, int]]) -> None:
    theirs = reference().eval()
    mine = build_head(theirs).eval()
    fusion = DepthAnythingFeatureFusionStage(
        DepthAnythingConfig(neck_hidden_sizes=WIDTHS, fusion_hidden_size=FUSED, reassemble_factors=[4, 2, 1, 0.5])
    ).double()
    fusion.load_state_dict(theirs["neck"].fusion_stage.state_dict(), strict=True)
    maps, (height, width) = pyramid(*sizes), sizes[0]
    convolved = [conv(map_BChw) for conv, map_BChw in zip(theirs["neck"].convs, maps, strict=True)]
    expected = theirs["head"](fusion(convolved))
    torch.testing.assert_close(mine(maps, image(height, width, 4)), expected, **NEAR)


def test_weights_are_found_in_a_whole_dpt() -> None:
    torch.manual_seed(0)
    theirs = DPTForSemanticSegmentation(config()).double()
    assert build_head(theirs).classifier.weight.equal(theirs.head.head[4].weight)
    assert build_neck(theirs).projections[3].weight.equal(theirs.neck.reassemble_stage.layers[3].projection.weight)


@pytest.mark.parametrize("use_batch_norm", [False, True])
@pytest.mark.parametrize("strides", [[4, 8, 16, 32], [3.5, 7, 14, 28], [16] * 4, [16]])
def test_every_parameter_learns_and_logits_have_the_images_size(strides: list[float], use_batch_norm: bool) -> None:
    height, width = (84, 56) if 14 in strides else (64, 96)
    torch.manual_seed(0)
    head = dpt.Head(
        [8] * len(strides), strides, CLASSES, dpt.Config(fusion_hidden_size=8, use_batch_norm=use_batch_norm)
    )
    maps = [torch.randn(1, 8, -int(-height // s), -int(-width // s)) for s in strides]
    logits = head(maps, torch.zeros(1, 3, height, width))
    assert logits.shape == (1, CLASSES, height, width)
    logits.square().mean().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_one_image_on_a_single_patch_trains_with_batch_norm() -> None:
    head = dpt.Head([8] * 4, [4, 8, 16, 32], CLASSES, dpt.Config(fusion_hidden_size=8, use_batch_norm=True))
    maps = [torch.randn(1, 8, side, side) for side in (4, 2, 1, 1)]
    assert head.train()(maps, torch.zeros(1, 3, 16, 16)).isfinite().all()


def test_the_neck_says_the_strides_that_it_makes() -> None:
    assert reassemble.Neck([HIDDEN] * 4, [14.0] * 4, reassemble.Args()).strides == [3.5, 7.0, 14.0, 28.0]


@pytest.mark.parametrize(
    ("channels", "strides", "out_channels", "message"),
    [
        ([8] * 3, [16] * 3, WIDTHS, "4 maps of one stride.*3 maps.*feature_layers"),
        (WIDTHS, [4, 8, 16, 32], WIDTHS, r"strides \[4, 8, 16, 32\].*same_scale"),
        ([8] * 4, [16] * 4, [8, 8, 8], r"out_channels=\[8, 8, 8\] must be 4 widths"),
        ([8] * 4, [16] * 4, [8, 8, 8, 0], "at least 1"),
    ],
)
def test_what_the_neck_cannot_take_is_refused(
    channels: list[int], strides: list[int], out_channels: list[int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        reassemble.Neck(channels, strides, reassemble.Args(out_channels=out_channels))
