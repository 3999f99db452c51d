"""`nnvit shim-path`: the folder by which nnU-Net finds nnvit's trainers."""

from pathlib import Path

import nnvit

from .options import new_app

app = new_app()


@app.command("shim-path", epilog="Example: export nnUNet_extTrainer=$(nnvit shim-path)")
def _shim_path() -> None:
    """Print the folder that nnUNet_extTrainer needs, for `nnUNetv2_train … -tr nnUNetTrainer_segformer`."""
    print(Path(nnvit.__file__).parent / "nnunet" / "train" / "shim")
