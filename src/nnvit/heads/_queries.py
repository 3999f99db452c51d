"""Base of heads whose decoder layers each predict a set of masks: their semantic map, and the loss that matches the set.

B batch, Q queries, K classes, C = K + 1 classes and "no object", H W the image's height and width, h w the masks'.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from nnvit.errors import ConfigError
from nnvit.types import BaseHead

_EPSILON = 1e-6
"""Smallest probability that a logit is computed from."""
_TERM_WEIGHTS = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
"""Factors on the terms of the set loss, Mask2Former's."""


class _SetLoss(nn.Module):
    """Mask2Former's loss (arXiv 2112.01527) of every decoder layer: transformers' Mask2FormerLoss on nnU-Net's targets.

    Each class or region in an image, background included, is one mask. The Hungarian algorithm assigns it a query; the other
    queries learn "no object" (weight 0.1).

    stride: of the masks; regions: the targets are 0/1 maps instead of labels.
    """

    def __init__(self, num_classes: int, stride: float, *, regions: bool) -> None:
        super().__init__()
        self.stride, self.regions, self.num_classes = stride, regions, num_classes
        config = Mask2FormerConfig(num_labels=num_classes)  # type: ignore[call-arg]
        self.criterion = Mask2FormerLoss(config, _TERM_WEIGHTS)

    def forward(self, outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
        """[logits, classes, masks, classes, masks, …] and [(B, 1, H, W) labels or (B, R, H, W) regions, …] -> scalar."""
        return torch.stack(list(self.terms(outputs, targets).values())).sum()

    def terms(self, outputs: list[Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
        """Returns the weighted terms, `loss_mask` for the last layer and `loss_mask_0` … for the others in order."""
        device = outputs[1].device
        layers = [
            {"class_queries_logits": classes.float(), "masks_queries_logits": masks.float()}
            for classes, masks in zip(outputs[1::2], outputs[2::2], strict=True)
        ]
        masks, classes = self._split(self._padded(targets[0].to(device), layers[-1]["masks_queries_logits"]))
        with torch.autocast(device.type, enabled=False):
            terms: dict[str, Tensor] = self.criterion.to(device)(
                **layers[-1], mask_labels=masks, class_labels=classes, auxiliary_predictions=layers[:-1]
            )
        return {
            name: value * next(weight for kind, weight in _TERM_WEIGHTS.items() if name.startswith(kind))
            for name, value in terms.items()
        }

    def _padded(self, target_BRHW: Tensor, masks_BQhw: Tensor) -> Tensor:
        """Pads the target to the size of the image that the masks were made from; Segmenter repeats the image's edge."""
        whole = [round(side * self.stride) for side in masks_BQhw.shape[-2:]]
        bottom, right = (max(0, b - a) for a, b in zip(target_BRHW.shape[-2:], whole, strict=True))
        return pad(target_BRHW.float(), (0, right, 0, bottom), mode="replicate")

    def _split(self, target_BRHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Returns per image the masks (P, H, W) of the classes or regions in it, and their numbers (P,)."""
        if not self.regions:
            labels = torch.arange(self.num_classes, device=target_BRHW.device).view(-1, 1, 1)
            target_BRHW = (target_BRHW == labels).float()
        present = [(image != 0).flatten(1).any(1).nonzero().flatten() for image in target_BRHW]
        return [image[found] for image, found in zip(target_BRHW, present, strict=True)], present


class QueryHead(BaseHead):
    """Base of heads with Mask2Former's semantic map and set loss.

    stride: of the masks against the image; regions: one sigmoid per class instead of a softmax over them.
    """

    by_queries: ClassVar[bool] = True
    regions: bool = False

    def __init__(self, num_classes: int, stride: float) -> None:
        super().__init__()
        self.num_classes, self.stride = num_classes, stride

    def layers(self, source: Any, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns one (classes (B, Q, C), masks (B, Q, h, w)) per decoder layer; the last is the prediction."""
        raise NotImplementedError

    def logits(self, classes_BQC: Tensor, masks_BQhw: Tensor) -> Tensor:
        """Queries -> logits (B, K, h, w) of Mask2Former's semantic map p = sum over queries of P(class) P(mask), in fp32.

        A sum over queries may exceed 1 (by far in a new network), and clamping it to 1 would leave no gradient.
        Labels: log of p normalised over the classes and clamped to [1e-6, 1 - 1e-6], so that a softmax returns that value.
        Regions cannot be normalised: log p - log(1 - p), both clamped from below, so that a sigmoid returns p if p is below 1,
        and an approximation otherwise. Always finite.
        """
        with torch.autocast(masks_BQhw.device.type, enabled=False):
            share_BQK = classes_BQC.float().softmax(-1)[..., :-1]
            p = torch.einsum("bqk,bqhw->bkhw", share_BQK, masks_BQhw.float().sigmoid())
            if self.regions:
                return p.clamp(min=_EPSILON).log() - (1 - p).clamp(min=_EPSILON).log()
            normalised = p / p.sum(1, keepdim=True).clamp(min=_EPSILON)
            return normalised.clamp(_EPSILON, 1 - _EPSILON).log()

    def native_loss(self, ignore_label: int | None) -> nn.Module:
        """Returns the set loss of every layer. Raises ConfigError if the data set has an ignore label."""
        if ignore_label is not None:
            raise ConfigError(
                f"training.loss=native compares whole masks at sampled points, and cannot leave out the pixels of this data "
                f"set's ignore label {ignore_label}; set training.loss=nnunet."
            )
        return _SetLoss(self.num_classes, self.stride, regions=self.regions)
