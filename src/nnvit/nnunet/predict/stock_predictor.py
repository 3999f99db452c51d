"""Stock nnU-Net's predictor, made from a trained model folder."""

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Self

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnvit.nnunet.model_folder import TrainedModel


class StockPredictor(nnUNetPredictor):
    """Stock nnU-Net's predictor, which calls `on_case` after each case."""

    on_case: Callable[[], None] | None = None

    @classmethod
    def of(
        cls,
        model: TrainedModel,
        device: torch.device,
        *,
        step_size: float = 0.5,
        mirroring: bool = True,
        on_device: bool = True,
        verbose: bool = False,
    ) -> Self:
        """Makes a predictor of a model. step_size: of the tiles, in patches; on_device: collect logits there."""
        with redirect_stdout(sys.stdout if verbose else io.StringIO()):
            predictor = cls(
                tile_step_size=step_size,
                use_mirroring=mirroring,
                perform_everything_on_device=on_device,
                device=device,
                verbose=verbose,
                verbose_preprocessing=verbose,
                allow_tqdm=False,
            )
            predictor.manual_initialization(
                model.network(),
                model.plans,
                model.configuration,
                model.parameters,
                model.dataset_json,
                model.trainer,
                model.mirroring_axes,
            )
        return predictor

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """Predicts logits (K, *image) of a preprocessed image (C, *image) as nnU-Net does."""
        logits = super().predict_logits_from_preprocessed_data(data)
        self._case_done()
        return logits

    def _case_done(self) -> None:
        if self.on_case is not None:
            self.on_case()
