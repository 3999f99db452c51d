"""Refuses to train where another training's results lie."""

from pathlib import Path
from typing import TYPE_CHECKING

from nnvit.errors import PlansError
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.plan import plans_file
from nnvit.records.json_files import read_json

if TYPE_CHECKING:
    from .trainer import nnUNetTrainer_nnvit


def refuse(trainer: "nnUNetTrainer_nnvit") -> None:
    """Raises PlansError for a folder of another recipe, and for a trained fold that is not being continued."""
    fold, own = Path(trainer.output_folder), trainer.block["hash"]
    other = {trainer.manifest.held_hash(), _hash_of_other_folds(trainer)} - {None, own}
    if other:
        raise PlansError(
            f"{fold.parent} holds another recipe ({', '.join(str(held)[:8] for held in other)}; this one is {own[:8]}) and is "
            "left as it is. Give this recipe plans of its own with `nnvit plan`, or move the folder away."
        )
    found = checkpoint_file.find(fold)
    if found is not None and not trainer.resumed:
        raise PlansError(
            f"{fold} was trained before ({found.name}) and is left as it is. Continue it with --c, validate it with "
            "--val, or move the folder away to start afresh."
        )


def _hash_of_other_folds(trainer: "nnUNetTrainer_nnvit") -> str | None:
    """Of the plans.json that all folds of a results folder are predicted with; starting to train overwrites it."""
    path = Path(trainer.output_folder_base) / "plans.json"
    if not path.is_file():
        return None
    block = plans_file.block_of(read_json(path), trainer.configuration_name)
    return block["hash"] if block else "none"
