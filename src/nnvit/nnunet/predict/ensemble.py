"""The networks of all folds as one. Folds with the same frozen backbone run it once and share its features."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from nnvit.model import Segmenter
from nnvit.model.precision import Precision

_CAST_LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weights autocast would cast at every call."""
_BEFORE_DECODER = ("input.", "backbone.")
"""Prefixes of Segmenter's state-dict names that come before the decoder."""


class Ensemble(nn.Module):
    """Sums the folds' logits: (B, C, *patch) -> (B, K, *patch) in fp32.

    network: the first fold's; folds: one state dict per fold, loaded here once.

    `in_steps`: backbone and decoder can run apart. `shared`: all folds have the same backbone. nnU-Net averages logits;
    resizing them from the decoder's stride to the image's size is linear, so it is done once, on the sum.
    """

    def __init__(self, network: nn.Module, folds: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.in_steps = isinstance(network, Segmenter) and not network.by_tokens
        self.shared = self.in_steps and len(folds) > 1 and _have_one_backbone(folds)
        kept = {id(network.backbone): network.backbone} if self.shared else {}
        self.networks = nn.ModuleList([network, *(deepcopy(network, dict(kept)) for _ in folds[1:])])
        for one, weights in zip(self.networks, folds, strict=True):
            one.load_state_dict(weights)
        self.eval()

    def __len__(self) -> int:
        return len(self.networks)

    def forward(self, image: Tensor) -> Tensor:
        first, *others = self.networks
        if not self.in_steps:
            logits = first(image).float()
            for network in others:
                logits += network(image)
            return logits
        maps, seen = first.features(image)  # type: ignore[operator]
        coarse = first.decode(maps, seen).float()  # type: ignore[operator]
        for network in others:
            if not self.shared:
                maps, seen = network.features(image)  # type: ignore[operator]
            coarse += network.decode(maps, seen)  # type: ignore[operator]
        return Segmenter.resized(coarse, seen, image.shape[-2:])

    def merge_lora(self, patch: Tensor) -> float | None:
        """Merges the adapters of every fold. Returns the largest change of the first fold's logits of a patch.

        None if there are no adapters. Merges in fp32, so call it before `hold_weights_in`.
        """
        first = self.networks[0]
        if not isinstance(first, Segmenter) or not first.adapters():
            return None
        with torch.inference_mode():
            before = first(patch)
            for network in self.networks:
                network.merge_adapters()  # type: ignore[operator]
            return float((first(patch) - before).abs().max())

    def hold_weights_in(self, precision: Precision, patch: Tensor) -> int:
        """Casts once the weights that autocast would cast at every call. Returns the number of layers.

        One pass of a patch finds the layers that only ever run under autocast. Some heads leave autocast, and what they use
        there stays fp32.
        """
        if precision.dtype is None:
            return 0
        met: dict[nn.Module, bool] = {}

        def watch(layer: nn.Module, _: object) -> None:
            met[layer] = met.get(layer, True) and torch.is_autocast_enabled(patch.device.type)

        hooks = [m.register_forward_pre_hook(watch) for m in self.modules() if isinstance(m, _CAST_LAYERS)]
        with torch.inference_mode(), precision.autocast(patch.device):
            self(patch)
        for hook in hooks:
            hook.remove()
        under = [layer for layer, always in met.items() if always]
        for layer in under:
            layer.to(precision.dtype)
        return len(under)


def _have_one_backbone(folds: Sequence[Mapping[str, Tensor]]) -> bool:
    """Compares all weights before the decoder, bit for bit, whatever the recipe says about freezing."""
    first, *others = folds
    names = [name for name in first if name.startswith(_BEFORE_DECODER)]
    return all(torch.equal(first[name], other[name]) for other in others for name in names)
