"""Offers nnvit's trainers to stock nnU-Net, which imports this file from `nnUNet_extTrainer` (`nnvit shim-path`).

The classes are only re-exported, so that they stay the same however often nnU-Net imports and forgets this file.
"""

from nnvit.nnunet.train.trainer_names import *  # noqa: F403
