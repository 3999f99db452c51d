"""nnvit: pretrained vision transformers and swappable decode heads in stock nnU-Net, compared fairly."""

__version__ = "0.1.0"
