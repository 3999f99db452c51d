"""nnU-Net's predictor with the same tiles, mirrors and Gaussian, but tiles in batches, bf16 and weights that are loaded once."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image  # type: ignore[import-untyped]
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import Tensor, nn

from nnvit.model import precision

from .ensemble import Ensemble
from .model_folder import Predictor
from .tiles import Batches, TiledSum, View, views_of


class FastPredictor(Predictor):
    """Stock nnU-Net's predictor but for its sliding window; `lines` says what it does otherwise.

    wanted: the precision, as of `training.precision`; to be set before `manual_initialization`.
    """

    wanted = "auto"

    ensemble: Ensemble
    batches: Batches

    def manual_initialization(
        self,
        network: nn.Module,
        plans_manager: Any,
        configuration_manager: Any,
        parameters: Sequence[Mapping[str, Tensor]] | None,
        dataset_json: dict[str, Any],
        trainer_name: str,
        inference_allowed_mirroring_axes: tuple[int, ...] | None,
    ) -> None:
        """As nnU-Net's. parameters: one state dict per fold; None for the network's own, of which a copy is taken."""
        super().manual_initialization(
            network,
            plans_manager,
            configuration_manager,
            None,
            dataset_json,
            trainer_name,
            inference_allowed_mirroring_axes,
        )
        network = network if parameters else deepcopy(network)
        self.precision = precision.choose(self.wanted, self.device)
        self.ensemble = Ensemble(network, parameters or [network.state_dict()]).to(self.device)
        patch = self._noise()
        self.lora_difference = self.ensemble.merge_lora(patch)
        self.ensemble.hold_weights_in(self.precision, patch)
        self.batches = Batches(self._logits, self.device)

    def take(self, tile_batch: int | None) -> None:
        """So many mirrored tiles in one forward pass, None for as many as the device takes."""
        self.batches.size = tile_batch

    @property
    def lines(self) -> list[str]:
        """For the user: what was taken, and why."""
        size = f"{self.batches.size} at a time" if self.batches.size else "in batches"
        lines = [f"fast: tiles and mirrors {size}, {self.precision.name} ({self.precision.reason})"]
        if self.ensemble.shared:
            lines.append(f"the {len(self.ensemble)} folds have one backbone, which runs once for all of them")
        if self.lora_difference is not None:
            lines.append(f"LoRA merged in fp32: logits of a patch differ by at most {self.lora_difference:.1e}")
        return lines

    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """(C, *image) -> logits (K, *image), fp32, in main memory: the mean over folds, mirrors and tiles."""
        logits = self.predict_sliding_window_return_logits(data).cpu()
        self._tell()
        return logits

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """(C, *image) -> logits (K, *image), fp32, where they were collected."""
        patch = self.configuration_manager.patch_size
        image, kept = pad_nd_image(input_image, patch, "constant", {"value": 0}, True, None)
        places = self._internal_get_sliding_window_slicers(image.shape[1:])
        views = views_of(places, self.allowed_mirroring_axes if self.use_mirroring else None)
        logits = self._mean(image, views)
        if not torch.isfinite(logits.sum()):
            raise RuntimeError(
                f"the network gave logits that are no numbers, in {self.precision.name}, so that there is no mask; --exact "
                "shows whether the precision is to blame."
            )
        return logits[(slice(None), *kept[1:])]

    def _mean(self, image: Tensor, views: list[View]) -> Tensor:
        """Collected on the device or, where its memory does not suffice or the user says so, in main memory."""
        if self.perform_everything_on_device:
            try:
                return self._collected(image.to(self.device), views, self.device)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        return self._collected(image, views, torch.device("cpu"))

    def _collected(self, image: Tensor, views: list[View], where: torch.device) -> Tensor:
        patch = tuple(self.configuration_manager.patch_size)
        gaussian = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, device=where)
        total = TiledSum(self.label_manager.num_segmentation_heads, image.shape[1:], gaussian, where)
        for view, logits in self.batches.run(image, views):
            total.add(view, logits)
        return total.mean(views, len(self.ensemble))

    def _logits(self, tiles: Tensor) -> Tensor:
        with torch.inference_mode(), self.precision.autocast(self.device):
            return self.ensemble(tiles)

    def _noise(self) -> Tensor:
        """(1, C, *patch) in 0..1, always the same."""
        channels = determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json)
        generator = torch.Generator().manual_seed(0)
        return torch.rand((1, channels, *self.configuration_manager.patch_size), generator=generator).to(self.device)
