"""What `nnUNet_extTrainer` points at (`nnvit shim-path`): nnU-Net imports this file and finds nnvit's trainers in it.

It only hands them on, so that the classes are the same however often nnU-Net imports and forgets this file.
"""

from nnvit.nnunet.train.trainer_names import *  # noqa: F403
