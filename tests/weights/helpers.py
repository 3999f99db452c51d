"""Small timm models behind the backbone contract, and the published layouts, made by inverting names."""

import re
from argparse import Namespace

import timm
import torch

from nnvit.types import Backbone, DefaultWeights


class StandIn(Backbone):
    """The part of a backbone that loading reads."""

    def __init__(self, family, model, size="small", default_weights=None):
        super().__init__(model, [], family=family, size=size, default_weights=default_weights)


def dinov3(seed=0, *, name="vit_small_patch16_dinov3", **kwargs):
    return StandIn("dinov3", _model(name, seed, **kwargs))


def dinov2(seed=0, *, name="vit_small_patch14_dinov2", img_size=56, **kwargs):
    return StandIn("dinov2", _model(name, seed, img_size=img_size, **kwargs))


def retfound(seed=0, *, variant="mae", **kwargs):
    name, side = {"mae": ("vit_large_patch16_224", 64), "dinov2": ("vit_large_patch14_dinov2", 56)}[variant]
    return StandIn("retfound", _model(name, seed, **{"img_size": side} | kwargs), size="large")


def visionfm(seed=0):
    return StandIn("visionfm", _model("vit_base_patch16_224", seed, img_size=64), size="base")


def with_default(backbone, **kwargs):
    backbone.default_weights = DefaultWeights(**{"file": "publisher.pth", "licence": "apache-2.0"} | kwargs)
    return backbone


def _model(name, seed, *, depth=2, embed_dim=48, num_heads=3, **kwargs):
    model = timm.create_model(
        name, pretrained=False, num_classes=0, depth=depth, embed_dim=embed_dim, num_heads=num_heads, **kwargs
    )
    return fill(model, seed)


@torch.no_grad()
def fill(model, seed):
    """Random values that all matter for the output; multiples of 1/256, so that sums of two are exact."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(torch.randint(-64, 65, parameter.shape, generator=generator) / 256)
    return model.eval()


@torch.no_grad()
def features(model):
    """The tokens of one random image of four patches a side."""
    size = 4 * model.patch_embed.patch_size[0]
    return model.forward_features(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3)))


def dinov3_hub(model, *, bias_mask=0.0):
    """The layout of facebookresearch/dinov3; biases are zero unless the model has them, and masked by default."""
    hub = {
        "mask_token": torch.ones(1, 48),
        "rope_embed.periods": torch.ones(4),
        "local_cls_norm.weight": torch.ones(48),
    }
    for name, tensor in model.state_dict().items():
        if not name.endswith("_bias"):
            hub[_renamed(name, _DINOV3)] = tensor.clone()
        if name.endswith("qkv.weight"):
            attention = name.removesuffix("qkv.weight")
            hub |= _dinov3_bias(model.state_dict(), attention, len(tensor) // 3, bias_mask)
    return hub


def _dinov3_bias(state, attention, width, bias_mask):
    zero, rest = torch.zeros(width), torch.full((width,), bias_mask)
    query, value = (state.get(f"{attention}{part}_bias", zero) for part in "qv")
    # The key part is arbitrary: the mask takes it out.
    bias, mask = torch.cat([query, zero + 7, value]), torch.cat([rest, zero, rest])
    return {f"{attention}qkv.bias": bias, f"{attention}qkv.bias_mask": mask}


_DINOV3 = [
    (r"^reg_token", "storage_tokens"),
    (r"\.gamma_(\d)", r".ls\1.gamma"),
    (r"\.fc1_g\.", ".w1."),
    (r"\.fc1_x\.", ".w2."),
]


def dinov2_hub(model, *, gated=False, chunks=None):
    """The layout of facebookresearch/dinov2; chunks: blocks per FSDP chunk."""
    hub = {"mask_token": torch.ones(1, 48)} | {key: value.clone() for key, value in model.state_dict().items()}
    if "reg_token" in hub:
        hub["register_tokens"] = hub.pop("reg_token")
        class_position = torch.full((1, 1, 48), 3 / 256)
        hub["cls_token"] = hub["cls_token"] - class_position
        hub["pos_embed"] = torch.cat([class_position, hub["pos_embed"]], dim=1)
    if gated:
        hub = {_renamed(key, [(r"fc1", "w12"), (r"fc2", "w3")]): value for key, value in hub.items()}
    if chunks:
        hub = {
            re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // chunks}.{m[1]}", k): v for k, v in hub.items()
        }
    return hub


def gated_dinov3_hub(model, **kwargs):
    """Does as dinov3_hub, for the models with a gated MLP, whose fc2 is w3."""
    return {key.replace(".fc2.", ".w3."): value for key, value in dinov3_hub(model, **kwargs).items()}


HEADS = {
    f"{head}.{name}": torch.ones(2)
    for head in ("dino_head", "ibot_head")
    for name in ("mlp.0.weight", "mlp.0.bias", "last_layer.weight_g", "last_layer.weight_v")
}


def teacher(hub):
    """The layout of a DINOv2 or DINOv3 training checkpoint (MedDINOv3, RETFound-DINOv2): the teacher and its heads."""
    return {"teacher": {f"backbone.{key}": value for key, value in hub.items()} | HEADS}


def mae_checkpoint(model):
    """The layout of a MAE training checkpoint (RETFound): encoder, decoder and mask token, with the training's state."""
    decoder = {
        "decoder_pos_embed": torch.ones(1, 17, 32),
        "decoder_embed.weight": torch.ones(32, 48),
        "decoder_blocks.0.attn.qkv.weight": torch.ones(96, 32),
        "decoder_norm.weight": torch.ones(32),
        "decoder_pred.weight": torch.ones(768, 32),
    }
    state = {"mask_token": torch.ones(1, 1, 32)} | dict(model.state_dict()) | decoder
    args = Namespace(model="mae_vit_large_patch16", norm_pix_loss=True)
    return {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 799, "scaler": {}, "args": args}


def ibot_checkpoint(model, *, wrapper="teacher", prefix="module."):
    """The layout of VisionFM: iBOT's teacher, with its heads beside the backbone."""
    backbone = {f"{prefix}backbone.{key}": value for key, value in model.state_dict().items()}
    heads = {f"{prefix}head.mlp.0.weight": torch.ones(2), f"{prefix}head.last_layer2.weight_g": torch.ones(2)}
    return {wrapper: backbone | {f"{prefix}backbone.masked_embed": torch.ones(1, 48)} | heads, "epoch": 300}


def full_size(model):
    """The tensors of a model on the meta device as zeros that share one number: files of a few kilobytes."""
    return {name: torch.zeros(1).expand(tensor.shape) for name, tensor in model.state_dict().items()}


def _renamed(name, rules):
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name
