"""EoMT on a timm ViT against transformers' EomtForUniversalSegmentation, on the same weights."""

from collections.abc import Mapping

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import EomtConfig, EomtForUniversalSegmentation

from nnvit import registry
from nnvit.backbones._timm_vit import TimmViT
from nnvit.errors import ConfigError
from nnvit.heads.eomt import Config, Head

CLASSES, QUERIES, BLOCKS, DEPTH, WIDTH = 3, 7, 2, 4, 32


def reference() -> EomtForUniversalSegmentation:
    torch.manual_seed(0)
    config = EomtConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        num_blocks=BLOCKS,
        num_queries=QUERIES,
        num_register_tokens=4,
        layerscale_value=0.5,
        num_labels=CLASSES,
    )
    model = EomtForUniversalSegmentation(config)
    for parameter in model.parameters():  # so that no position, bias or scale is at its neutral initial value
        nn.init.normal_(parameter, std=0.15)
    return model.eval()


def backbone(theirs: EomtForUniversalSegmentation) -> TimmViT:
    """transformers' encoder, which is DINOv2's, as timm's."""
    vit = VisionTransformer(
        img_size=64,
        patch_size=16,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=2,
        num_classes=0,
        global_pool="",
        reg_tokens=4,
        no_embed_class=True,
        init_values=0.5,
        dynamic_img_size=True,
    )
    vit.load_state_dict(to_timm(theirs.state_dict()), strict=True)
    return TimmViT(vit, [DEPTH - 1], family="tiny", size="vit").eval()


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {
        "cls_token": state["embeddings.cls_token"],
        "reg_token": state["embeddings.register_tokens"],
        "pos_embed": state["embeddings.position_embeddings.weight"][None],
    }
    for kind in ("weight", "bias"):
        out[f"patch_embed.proj.{kind}"] = state[f"embeddings.patch_embeddings.projection.{kind}"]
        out[f"norm.{kind}"] = state[f"layernorm.{kind}"]
        for i in range(DEPTH):
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"blocks.{i}.{name}.{kind}"] = state[f"layers.{i}.{name}.{kind}"]
            qkv = [state[f"layers.{i}.attention.{part}_proj.{kind}"] for part in "qkv"]
            out[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(qkv)
            out[f"blocks.{i}.attn.proj.{kind}"] = state[f"layers.{i}.attention.out_proj.{kind}"]
    for i in range(DEPTH):
        for j in (1, 2):
            out[f"blocks.{i}.ls{j}.gamma"] = state[f"layers.{i}.layer_scale{j}.lambda1"]
    return out


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the head's state dict from transformers' EomtForUniversalSegmentation; the encoder and the loss are left out.

    Raises KeyError where the mapping holds no such head.
    """
    inner = {"conv1": "0", "conv2": "2", "layernorm2d": "3"}
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        part, *rest = name.split(".")
        if part == "query":
            out["queries.weight"] = value
        elif part == "class_predictor":
            out[f"classifier.{rest[0]}"] = value
        elif part == "mask_head":
            out[f"mask_embedding.{2 * (int(rest[0].removeprefix('fc')) - 1)}.{rest[1]}"] = value
        elif part == "upscale_block":
            out[f"upscale.{rest[1]}.{inner[rest[2]]}.{rest[3]}"] = value
    _ = out["classifier.weight"]
    return out


def ours(theirs: EomtForUniversalSegmentation) -> Head:
    head = Head([WIDTH], [16.0], CLASSES, Config(num_queries=QUERIES, num_blocks=BLOCKS))
    head.load_state_dict(_from_transformers(theirs.state_dict()), strict=True)
    return head.eval()


def image() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def their_layers(theirs: EomtForUniversalSegmentation, masked: list[float]) -> list[tuple[Tensor, Tensor]]:
    """Classes and masks of every layer, the last of which transformers returns; masked: share per block."""
    seen = []

    def predict(tokens: Tensor) -> tuple[Tensor, Tensor]:
        masks, classes = type(theirs).predict(theirs, tokens)
        seen.append((classes, masks))
        return masks, classes

    theirs.predict = predict
    theirs.attn_mask_probs.copy_(torch.tensor(masked))
    theirs(image())
    return seen


@pytest.mark.parametrize(
    ("training", "progress", "masked"),
    [
        (False, 0.0, [1e-30, 1e-30]),  # almost none; at exactly 0, transformers skips the intermediate predictions
        (True, 0.0, [1.0, 1.0]),
        (True, 0.5, [1e-30, 1.0]),  # the first block's mask is gone, the last one's still whole
        (True, 1.0, [1e-30, 1e-30]),
    ],
)
def test_classes_and_masks_of_every_layer_equal_transformers(
    training: bool, progress: float, masked: list[float]
) -> None:
    theirs = reference()
    head, encoder = ours(theirs).train(training), backbone(theirs)
    head.progress = progress
    layers, expected = head.layers(encoder, image()), their_layers(theirs, masked)
    assert len(layers) == len(expected) == BLOCKS + 1
    for (classes, masks), (their_classes, their_masks) in zip(layers, expected, strict=True):
        torch.testing.assert_close(classes, their_classes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(masks, their_masks, rtol=1e-4, atol=1e-5)


def test_masking_matters_in_that_comparison() -> None:
    theirs = reference()
    free, masked = (their_layers(theirs, [share, share])[-1][0] for share in (1e-30, 1.0))
    assert (free - masked).abs().max() > 1e-3


def test_the_loss_equals_transformers() -> None:
    theirs, target = reference(), torch.randint(0, 2, (2, 1, 64, 64)).float()
    head, encoder = ours(theirs), backbone(theirs)
    theirs.attn_mask_probs.fill_(1e-30)
    masks = [torch.cat([target[i] == 0, target[i] == 1]).float() for i in range(2)]

    def reseeded(criterion: nn.Module) -> None:
        """Each layer's points from one seed: transformers goes through the layers in another order."""
        matcher = criterion.matcher.forward

        def forward(*args: object, **kwargs: object) -> object:
            torch.manual_seed(3)
            return matcher(*args, **kwargs)

        criterion.matcher.forward = forward

    loss = head.native_loss(None)
    reseeded(theirs.criterion)
    reseeded(loss.criterion)
    expected = theirs(image(), mask_labels=masks, class_labels=[torch.tensor([0, 1])] * 2).loss
    layers = head.layers(encoder, image())
    outputs = [head.logits(*layers[-1]), *(part for layer in layers for part in layer)]
    torch.testing.assert_close(loss(outputs, [target]), expected, rtol=1e-4, atol=1e-6)


def test_the_published_schedules_of_masking_are_met() -> None:
    """coco_panoptic_eomt_large_640 fades four blocks in steps of a sixth; …_small_640 three, with pauses between."""
    for blocks, starts in ((4, [14782, 29564, 44346, 59128]), (3, [14782, 36955, 59128])):
        head = Head([WIDTH], [16.0], CLASSES, Config(num_blocks=blocks)).train()
        for joint, start in enumerate(starts):
            for step, share in ((start, 1.0), (start + 14782 / 2, 0.5**0.9), (start + 14782, 0.0)):
                head.progress = step / (6 * 14782)
                assert head._masked_share(joint) == pytest.approx(share, abs=1e-3)
        assert head.eval()._masked_share(0) == 0.0


def test_the_share_of_masked_queries_is_drawn() -> None:
    theirs = reference()
    head, encoder = ours(theirs), backbone(theirs)
    tokens = torch.cat([encoder.embed(image())[0], head.queries.weight.expand(2, -1, -1)], dim=1)
    nowhere = torch.full((2, QUERIES, 16, 16), -1.0)
    draws = torch.stack([head._attention(encoder, tokens, image(), nowhere, 0.3) for _ in range(200)])
    hidden = draws[..., -QUERIES:, 5:-QUERIES].isinf()
    assert hidden.all(-1).float().mean() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(hidden.all(-1), hidden.any(-1))
    assert hidden.sum() == draws.isinf().sum()


@pytest.mark.parametrize("size", ["vit", "vit14", "eva"])
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_every_parameter_of_head_and_encoder_learns_from_the_logits(size: str, progress: float) -> None:
    encoder, head = tiny(size)
    head.train().progress = progress
    head(encoder, wide(encoder)).square().mean().backward()
    parameters = [*encoder.named_parameters(), *head.named_parameters()]
    assert [n for n, p in parameters if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("size", ["vit", "vit14", "eva"])
def test_the_queries_learn_through_frozen_blocks(size: str) -> None:
    encoder, head = tiny(size)
    encoder.requires_grad_(False)
    layers = head.layers(encoder, wide(encoder))
    layers[-1][0].square().mean().backward()
    through = head.queries.weight.grad
    assert through is not None
    assert through.abs().min() > 0
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize("size", ["vit", "vit14", "eva"])
def test_it_exports_and_a_sample_does_not_depend_on_its_batch(size: str) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = tiny(size)

        def forward(self, image_BCHW: Tensor) -> Tensor:
            return self.head(self.encoder, image_BCHW)

    network = Network().eval()
    given = wide(network.encoder)
    both = network(given)
    assert both.shape == (2, CLASSES, 4 * 3, 4 * 5)
    exported = torch.export.export(network, (given,)).module()
    torch.testing.assert_close(exported(given), both, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network(given[:1]), both[:1], rtol=1e-4, atol=1e-5)
    assert torch.equal(both, network.head.logits(*network.head.layers(network.encoder, given)[-1]))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_masked_training_runs_under_autocast(checkpointing: bool) -> None:
    encoder, head = tiny("eva")
    encoder.set_grad_checkpointing(checkpointing)
    head.train().progress = 0.0
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(encoder, wide(encoder))
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in [*head.parameters(), *encoder.parameters()])


def test_more_joint_blocks_than_the_encoder_has_are_refused() -> None:
    encoder, _ = tiny("vit")
    with pytest.raises(ConfigError, match=r"model\.num_blocks=5 is more than the 4 blocks"):
        Head(encoder.channels, encoder.strides, CLASSES, Config(num_blocks=5)).check(encoder)
    Head(encoder.channels, encoder.strides, CLASSES, Config(num_blocks=4)).check(encoder)


def test_it_builds_without_memory() -> None:
    with torch.device("meta"):
        head = Head([1024], [16.0], CLASSES, Config())
    assert all(p.is_meta for p in head.parameters())


def tiny(size: str) -> tuple[TimmViT, Head]:
    torch.manual_seed(0)
    encoder = registry.family("tiny")().build(size, [0, 1, 2, 3])
    return encoder, Head(encoder.channels, encoder.strides, CLASSES, Config(num_queries=QUERIES, num_blocks=BLOCKS))


def wide(encoder: TimmViT) -> Tensor:
    return torch.randn(2, 3, 3 * encoder.grid, 5 * encoder.grid, generator=torch.Generator().manual_seed(1))
