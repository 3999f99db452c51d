"""Stock nnU-Net's predictor of a trained model folder, and a fast one: batched tiles, bf16, and weights loaded once.

The fast one has the same tiles, mirrors and Gaussian; its memory grows with the image, never with the number of tiles. C input
channels, K classes. A tile has the patch's two or three axes; an image has the same axes, preceded by a slice axis if the slices
of a volume are predicted one by one.
"""

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image  # type: ignore[import-untyped]
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import Tensor, nn

from nnvit.model.precision import Precision
from nnvit.nnunet.model_folder import TrainedModel
from nnvit.records.hashes import sha256_of

from .ensemble import Ensemble
from .prediction_options import PredictionOptions

_Place = tuple[slice | int, ...]
"""Index that cuts a tile out of (C, *image) or (K, *image)."""

_CPU_VOXELS = 2**19
"""Voxels of a batch on the CPU, where larger batches are no faster: two tiles of 512 x 512, 32 of 128 x 128."""
_CUDA_VOXELS = 2**24
_CUDA_SHARE = 0.7
"""Largest share of free GPU memory for a batch; the rest allows for fragmentation by other batch sizes."""


class StockPredictor(nnUNetPredictor):
    """Stock nnU-Net's predictor, which calls `on_case` after each case. precision: the fast predictor's."""

    on_case: Callable[[], None] = staticmethod(lambda: None)
    precision: Precision | None = None

    @classmethod
    def of(cls, model: TrainedModel, device: torch.device, options: PredictionOptions) -> Self:
        """Makes a predictor of a model, without the batch size of its tiles."""
        with redirect_stdout(sys.stdout if options.verbose else io.StringIO()):
            predictor = cls(
                tile_step_size=options.step_size,
                use_mirroring=options.mirroring,
                perform_everything_on_device=options.on_device,
                device=device,
                verbose=options.verbose,
                verbose_preprocessing=options.verbose,
                allow_tqdm=False,
            )
            described = model.dataset_json, model.trainer, model.mirroring_axes
            network, plans, configuration = model.network(), model.plans, model.configuration
            predictor.manual_initialization(network, plans, configuration, model.parameters, *described)
        return predictor

    def settings(self, model: TrainedModel) -> dict[str, Any]:
        """Returns the settings that determine a mask: the model, the hashes of its weights, and the predictor's settings."""
        files = [model.folder / f"fold_{fold}" / model.checkpoint for fold in model.folds]
        return {
            "model": str(model.folder.resolve()),
            "folds": list(model.folds),
            "checkpoint": model.checkpoint,
            "checkpoint_sha256": list(map(sha256_of, files)),
            "step_size": self.tile_step_size,
            "mirroring": self.use_mirroring,
            "fast": self.precision.name if self.precision else None,
        }

    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """Predicts logits (K, *image) of a preprocessed image (C, *image) as nnU-Net does."""
        logits = super().predict_logits_from_preprocessed_data(data)
        self.on_case()
        return logits


class FastPredictor(StockPredictor):
    """Stock nnU-Net's predictor with another sliding window; `lines` describes the differences.

    wanted: the precision as in `training.precision`; set it before `manual_initialization`.
    """

    wanted = "auto"
    precision: Precision
    ensemble: Ensemble
    batches: "_TileBatches"

    def manual_initialization(
        self,
        network: nn.Module,
        plans: Any,
        configuration: Any,
        parameters: Sequence[Mapping[str, Tensor]] | None,
        *others: Any,
    ) -> None:
        """Takes nnU-Net's arguments. parameters: one state dict per fold, or None for a copy of the network's own."""
        super().manual_initialization(network, plans, configuration, None, *others)
        network = network if parameters else deepcopy(network)
        self.precision = Precision.choose(self.wanted, self.device)
        self.ensemble = Ensemble(network, parameters or [network.state_dict()]).to(self.device)
        patch = self._noise()
        self.lora_difference = self.ensemble.merge_lora(patch)
        self.ensemble.hold_weights_in(self.precision, patch)
        self.batches = _TileBatches(self._logits, self.device)

    @property
    def lines(self) -> list[str]:
        """Lines for the user: what was chosen, and why."""
        size = f"{self.batches.size} at a time" if self.batches.size else "in batches"
        lines = [f"fast: tiles and mirrors {size}, {self.precision.name} ({self.precision.reason})"]
        if self.ensemble.shared:
            lines.append(f"the {len(self.ensemble)} folds have one backbone, which runs once for all of them")
        if self.lora_difference is not None:
            lines.append(f"LoRA merged in fp32: logits of a patch differ by at most {self.lora_difference:.1e}")
        return lines

    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """(C, *image) -> fp32 logits (K, *image) in main memory: the mean over folds, mirrors and tiles."""
        logits = self.predict_sliding_window_return_logits(data).cpu()
        self.on_case()
        return logits

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """(C, *image) -> fp32 logits (K, *image) on the device where they were collected.

        Raises RuntimeError for logits with NaN or infinity.
        """
        patch = self.configuration_manager.patch_size
        image, kept = pad_nd_image(input_image, patch, "constant", {"value": 0}, True, None)
        places = self._internal_get_sliding_window_slicers(image.shape[1:])
        logits = self._mean(image, _views_of(places, self.allowed_mirroring_axes if self.use_mirroring else None))
        if not torch.isfinite(logits.sum()):
            raise RuntimeError(
                f"the network's logits in {self.precision.name} hold NaN or infinity, so there is no mask; run with --exact "
                "to see whether the precision is the cause."
            )
        return logits[(slice(None), *kept[1:])]

    def _mean(self, image: Tensor, views: "list[_View]") -> Tensor:
        """Collects logits on the device, or in main memory if the user chose that or the device is out of memory."""
        if self.perform_everything_on_device:
            try:
                return self._collected(image.to(self.device), views, self.device)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        return self._collected(image, views, torch.device("cpu"))

    def _collected(self, image: Tensor, views: "list[_View]", where: torch.device) -> Tensor:
        """Adds up the logits of all views on a device, weighted by a Gaussian, and divides them by the weights."""
        patch = tuple(self.configuration_manager.patch_size)
        gaussian = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, device=where).float()
        total = torch.zeros((self.label_manager.num_segmentation_heads, *image.shape[1:]), device=where)
        for view, logits in self.batches.run(image, views):
            total[view.place].addcmul_(view.mirrored(logits).to(where), gaussian)
        dims = gaussian.ndim
        weights = torch.zeros(total.shape[-dims:], device=where)
        one_slice = (), (0,)  # all slices of a volume have the same tiles, so the weights of one slice serve for all
        for view in views:
            if view.place[1:-dims] in one_slice:
                weights[view.place[-dims:]] += gaussian
        return total.div_(weights.mul_(len(self.ensemble)))

    def _logits(self, tiles: Tensor) -> Tensor:
        with torch.inference_mode(), self.precision.autocast(self.device):
            return self.ensemble(tiles)

    def _noise(self) -> Tensor:
        """Returns the same random patch, (1, C, *patch) in 0..1, each time."""
        channels = determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json)
        generator = torch.Generator().manual_seed(0)
        return torch.rand((1, channels, *self.configuration_manager.patch_size), generator=generator).to(self.device)


@dataclass(frozen=True)
class _View:
    """A tile of the image, mirrored along `axes`, where axis 0 is the channels."""

    place: _Place
    axes: tuple[int, ...]

    def mirrored(self, tile: Tensor) -> Tensor:
        """Mirrors a tile (C, *patch), or its logits (K, *patch) back."""
        return tile.flip(self.axes) if self.axes else tile


def _views_of(places: Sequence[_Place], mirror_axes: Sequence[int] | None) -> list[_View]:
    """Returns every tile in every mirrored form, in the order of nnU-Net's predictor. mirror_axes: of the patch, from 0."""
    axes = [axis + 1 for axis in mirror_axes or ()]
    forms = [form for count in range(len(axes) + 1) for form in combinations(axes, count)]
    return [_View(place, form) for place in places for form in forms]


class _TileBatches:
    """Runs views through a network in batches; a batch that exceeds the GPU's memory is halved.

    network: (B, C, *patch) -> fp32 logits (B, K, *patch). size: views per batch, None to measure with the first view how many
    the device's memory holds.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], device: torch.device, size: int | None = None) -> None:
        self.network, self.device, self.size = network, device, size

    def run(self, image: Tensor, views: Sequence[_View]) -> Iterator[tuple[_View, Tensor]]:
        """Yields each view of `image` (C, *image) with its logits (K, *patch)."""
        if self.size is None:
            self.size = self._largest_batch(_tiles(image, views[:1], self.device))
        done = 0
        while done < len(views):
            left = len(views) - done
            size = -(-left // -(-left // self.size))  # evenly, so that the last batch is not a small one
            batch = views[done : done + size]
            logits = self._logits(image, batch)
            if logits is not None:
                yield from zip(batch, logits, strict=True)
                done += len(batch)

    def _logits(self, image: Tensor, batch: Sequence[_View]) -> Tensor | None:
        """Returns a batch's logits; None if the GPU's memory was too small, after halving the batch size."""
        try:
            return self.network(_tiles(image, batch, self.device))
        except RuntimeError:  # cuBLAS and cuDNN have their own messages for lack of memory; any other fault comes again
            if len(batch) == 1:
                raise
        self.size = len(batch) // 2
        torch.cuda.empty_cache()
        return None

    def _largest_batch(self, one: Tensor) -> int:
        """Returns how many views fit, from the memory that a single one (1, C, *patch) takes."""
        voxels = one[0, 0].numel()
        if self.device.type != "cuda":
            return max(1, _CPU_VOXELS // voxels)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.network(one)
        each = torch.cuda.max_memory_allocated(self.device) - before + one.nbytes
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - before
        return max(1, min(int(_CUDA_SHARE * free / each), _CUDA_VOXELS // voxels))


def _tiles(image: Tensor, batch: Sequence[_View], device: torch.device) -> Tensor:
    """Copies the mirrored tiles of a batch to `device`: (B, C, *patch)."""
    shape = (len(batch), *image[batch[0].place].shape)
    tiles = torch.empty(shape, dtype=torch.float32, device=device)
    for tile, view in zip(tiles, batch, strict=True):
        tile.copy_(view.mirrored(image[view.place]))
    return tiles
