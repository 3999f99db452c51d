"""The token view of timm's ViTs against their own forward pass, stochastic depth and gradient checkpointing."""

from collections.abc import Callable

import pytest
import torch
from timm.layers import DropPath
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from nnvit.backbones._timm_vit import TimmViT

COMMON = {
    "img_size": 64,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 0,
    "global_pool": "",
    "dynamic_img_size": True,
}
MODELS: dict[str, Callable[..., VisionTransformer | Eva]] = {
    "vit": lambda **more: VisionTransformer(**COMMON, **more),
    "dinov2": lambda **more: VisionTransformer(**COMMON, reg_tokens=4, no_embed_class=True, init_values=0.1, **more),
    "pre-norm": lambda **more: VisionTransformer(**COMMON, pre_norm=True, class_token=False, **more),
    "eva02": lambda **more: Eva(**COMMON, use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True, **more),
    "dinov3": lambda **more: Eva(
        **COMMON,
        rope_type="dinov3",
        rope_rotate_half=True,
        use_rot_pos_emb=True,
        use_abs_pos_emb=False,
        num_reg_tokens=4,
        init_values=0.1,
        **more,
    ),
    "mixed rotations": lambda **more: Eva(
        **COMMON, rope_type="mixed", attn_type="rope", use_rot_pos_emb=True, use_abs_pos_emb=False, **more
    ),
    "no rotations": lambda **more: Eva(**COMMON, **more),
}
ROTARY = ["eva02", "dinov3", "mixed rotations"]


def build(kind: str, **more: float) -> TimmViT:
    torch.manual_seed(0)
    return TimmViT(MODELS[kind](**more), [0, 2], family="tiny", size=kind)


def image(height: int = 48, width: int = 80) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def by_tokens(backbone: TimmViT) -> Tensor:
    """The last map, through the token view."""
    tokens, positions = backbone.embed(image())
    for index in range(backbone.num_layers):
        tokens = backbone.run_block(index, tokens, positions)
    return backbone.to_map(backbone.norm(tokens), image())


@pytest.mark.parametrize("kind", MODELS)
def test_all_blocks_through_the_token_view_equal_the_last_tap(kind: str) -> None:
    backbone = build(kind).eval()
    assert torch.equal(by_tokens(backbone), backbone(image())[-1])


@pytest.mark.parametrize("kind", ROTARY)
def test_extra_tokens_are_not_rotated(kind: str) -> None:
    """timm rotates no prefix token: with the extra tokens among the prefix, its block gives the same."""
    backbone, extra = build(kind).eval(), torch.randn(2, 5, 32)
    tokens, positions = backbone.embed(image())
    prefix, block = backbone.model.num_prefix_tokens, backbone.model.blocks[1]
    got = backbone.run_block(1, torch.cat([tokens, extra], dim=1), positions, extra=5)
    block.attn.num_prefix_tokens = prefix + 5
    rope = positions[1] if kind == "mixed rotations" else positions
    expected = block(torch.cat([tokens[:, :prefix], extra, tokens[:, prefix:]], dim=1), rope=rope)
    torch.testing.assert_close(got[:, -5:], expected[:, prefix : prefix + 5], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[:, prefix:-5], expected[:, prefix + 5 :], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_tokens_that_a_mask_hides_change_nothing(kind: str, fused: bool) -> None:
    backbone, extra = build(kind).eval(), torch.randn(2, 5, 32)
    tokens, positions = backbone.embed(image())
    backbone.model.blocks[1].attn.fused_attn = fused
    together = torch.cat([tokens, extra], dim=1)
    mask = torch.zeros(2, 1, together.shape[1], together.shape[1])
    mask[..., -5:] = float("-inf")
    got = backbone.run_block(1, together, positions, extra=5, attn_mask=mask)
    torch.testing.assert_close(got[:, :-5], backbone.run_block(1, tokens, positions), rtol=1e-5, atol=1e-6)
    assert got.isfinite().all()


@pytest.mark.parametrize("kind", MODELS)
def test_drop_path_is_what_timm_builds_and_renames_nothing(kind: str) -> None:
    def rates(backbone: TimmViT) -> dict[str, float]:
        return {n: m.drop_prob for n, m in backbone.named_modules() if isinstance(m, DropPath)}

    backbone, built = build(kind), build(kind, drop_path_rate=0.3)
    names = list(backbone.state_dict())
    backbone.set_drop_path(0.3)
    assert rates(backbone) == rates(built)
    assert max(rates(backbone).values()) == pytest.approx(0.3)
    assert list(backbone.state_dict()) == names
    assert not torch.equal(backbone.train()(image())[-1], backbone(image())[-1])
    backbone.set_drop_path(0.0)
    assert rates(backbone) == {}


@pytest.mark.parametrize("read", [lambda backbone: backbone(image())[-1], by_tokens], ids=["taps", "tokens"])
@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_checkpointing_runs_blocks_twice_and_leaves_gradients_as_they_are(
    kind: str, read: Callable[[TimmViT], Tensor]
) -> None:
    def gradients(enabled: bool) -> tuple[int, dict[str, Tensor]]:
        backbone, runs = build(kind), []
        backbone.set_grad_checkpointing(enabled)
        for block in backbone.model.blocks:
            block.norm1.register_forward_hook(lambda module, args, output: runs.append(module))
        read(backbone).square().sum().backward()
        return len(runs), {name: p.grad for name, p in backbone.named_parameters()}

    (plain_runs, plain), (runs, checkpointed) = gradients(False), gradients(True)
    assert (plain_runs, runs) == (3, 6)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-6, atol=1e-7)


def test_gradients_pass_frozen_blocks_to_extra_tokens() -> None:
    backbone = build("dinov3").requires_grad_(False).eval()
    extra = nn.Parameter(torch.randn(1, 5, 32))
    tokens, positions = backbone.embed(image())
    together = torch.cat([tokens, extra.expand(2, -1, -1)], dim=1)
    backbone.run_block(2, together, positions, extra=5)[:, :-5].square().sum().backward()
    assert extra.grad is not None
    assert extra.grad.abs().min() > 0
