"""Pretrained weights: finds them, checks their licence, reads them safely, and loads all of them or none."""

from .load import WeightsReport, load_backbone
from .safe_reading import safe_load
from .sources import WeightsFile, find_weights, pin

__all__ = ["WeightsFile", "WeightsReport", "find_weights", "load_backbone", "pin", "safe_load"]
