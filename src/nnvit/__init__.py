"""nnvit: pretrained vision transformers and swappable decode heads in stock nnU-Net, compared fairly."""

import warnings

__version__ = "0.1.0"

# timm and transformers import torchvision, which since torch 2.14 warns about torch's own code on import. Here, so that
# stock nnU-Net's commands and its worker processes are spared it too.
warnings.filterwarnings("ignore", message="`torch.jit.interface` is deprecated", category=FutureWarning)
