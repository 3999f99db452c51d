"""The networks of all folds as one. Folds that were trained on one frozen backbone run it once and only decode each by itself."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from nnvit.model import Segmenter, lora, resized
from nnvit.model.precision import Precision

GEMM = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weights autocast would cast at every call."""
BACKBONE = ("input.", "backbone.")
"""What lies before the decoder, by the beginnings of Segmenter's state-dict names."""


class Ensemble(nn.Module):
    """network: of the first fold; folds: a state dict each, loaded here once.

    shared: whether all have one backbone; in_steps: whether it can be run apart from the decoder at all.

    Calling it gives the sum of the folds' logits, (B, C, *patch) -> (B, K, *patch) in fp32. nnU-Net averages logits, and from
    the decoder's own stride to the image's size they are only interpolated: what is linear is done once, on the sum.
    """

    def __init__(self, network: nn.Module, folds: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.in_steps = isinstance(network, Segmenter) and not network.by_tokens
        self.shared = self.in_steps and len(folds) > 1 and have_one_backbone(folds)
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
        return resized(coarse, seen, image.shape[-2:])

    def merge_lora(self, patch: Tensor) -> float | None:
        """Merges the adapters of every fold; the largest difference that it makes to the first one's logits of a patch.

        None where there are no adapters. In fp32, so call it before `hold_weights_in`.
        """
        first = self.networks[0]
        if not lora.adapters(first):
            return None
        with torch.inference_mode():
            before = first(patch)
            for network in self.networks:
                lora.merge(network)
            return float((first(patch) - before).abs().max())

    def hold_weights_in(self, precision: Precision, patch: Tensor) -> int:
        """Casts once what autocast would cast at every call; returns the number of layers.

        Which layers these are shows one pass of a patch: those that only ever run under autocast. Some heads leave it, and what
        they use there stays fp32.
        """
        if precision.dtype is None:
            return 0
        under = self._layers_under_autocast(precision, patch)
        for layer in under:
            layer.to(precision.dtype)
        return len(under)

    def _layers_under_autocast(self, precision: Precision, patch: Tensor) -> list[nn.Module]:
        met: dict[nn.Module, bool] = {}

        def watch(layer: nn.Module, _: object) -> None:
            met[layer] = met.get(layer, True) and torch.is_autocast_enabled(patch.device.type)

        hooks = [m.register_forward_pre_hook(watch) for m in self.modules() if isinstance(m, GEMM)]
        with torch.inference_mode(), precision.autocast(patch.device):
            self(patch)
        for hook in hooks:
            hook.remove()
        return [layer for layer, always in met.items() if always]


def have_one_backbone(folds: Sequence[Mapping[str, Tensor]]) -> bool:
    """Whether folds of a Segmenter differ in nothing before the decoder: the numbers are compared, whatever the recipe says."""
    first, *others = folds
    names = [name for name in first if name.startswith(BACKBONE)]
    return all(torch.equal(first[name], other[name]) for other in others for name in names)
