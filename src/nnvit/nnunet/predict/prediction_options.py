"""The options of `nnvit predict`, and which of them fit together."""

from dataclasses import dataclass
from pathlib import Path

from nnvit.errors import ConfigError

from .mask_legend import MaskValues


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """Options of `nnvit predict`; those of nnUNetv2_predict have nnU-Net's names.

    For photographs: values, of the labels in masks (None as in `MaskLegend.of`); probabilities: write a picture per label;
    recursive: take the folders inside too. For cases: save_probabilities, npp, nps, prev_stage_predictions. For both: overlay:
    draw the masks; num_parts, part_id: of the sorted inputs take every num_parts-th, starting with number part_id; step_size:
    of the tiles, in patches; on_device: collect logits there; exact: use stock nnU-Net's predictor, whose masks are
    nnUNetv2_predict's to the last pixel; tile_batch: mirrored tiles in one forward pass, None for as many as the device's
    memory holds; verbose: print nnU-Net's messages, and the traceback of a failure; bar: show progress bars on a terminal.
    """

    values: MaskValues | None = None
    probabilities: bool = False
    recursive: bool = False
    save_probabilities: bool = False
    npp: int = 3
    nps: int = 3
    prev_stage_predictions: Path | None = None
    overlay: bool = False
    continue_prediction: bool = False
    num_parts: int = 1
    part_id: int = 0
    step_size: float = 0.5
    mirroring: bool = True
    on_device: bool = True
    exact: bool = False
    tile_batch: int | None = None
    verbose: bool = False
    bar: bool = True

    def check_numbers(self) -> None:
        """Raises ConfigError for numbers out of their range."""
        if not 0 < self.step_size <= 1:
            raise ConfigError(f"-step_size {self.step_size} must be above 0 and at most 1; nnU-Net's own is 0.5.")
        if not 0 <= self.part_id < self.num_parts:
            raise ConfigError(
                f"-part_id {self.part_id} must be from 0 to {self.num_parts - 1} with -num_parts {self.num_parts}."
            )

    def check_kind(self, cases: bool) -> None:
        """Raises ConfigError for options that are not for cases, or not for photographs."""
        if cases and self.probabilities:
            raise ConfigError(
                "--probabilities is for photographs; a folder of nnU-Net's naming has --save_probabilities."
            )
        if cases and (self.recursive or self.values not in (None, MaskValues.LABELS)):
            raise ConfigError(
                "--recursive and --values are for photographs; masks of a folder of nnU-Net's naming are nnU-Net's own. "
                "If the files are photographs, give --as photographs."
            )
        if not cases and self.save_probabilities:
            raise ConfigError(
                "--save_probabilities (nnU-Net's npz) is for a folder of nnU-Net's naming; for photographs --probabilities "
                "writes one 16-bit picture per label."
            )

    def notes_on_existing(self, count: int, total: str) -> list[str]:
        """Returns a line on existing masks, [] if there are none. total: such as "5 cases"."""
        kept = "kept (--continue_prediction)"
        fate = kept if self.continue_prediction else "overwritten; --continue_prediction keeps them"
        return [f"{count} of {total} are predicted already and {fate}"] if count else []
