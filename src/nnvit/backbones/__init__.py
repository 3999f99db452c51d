"""Backbones: one file per family, whose class `Family` holds all that nnvit knows of it (see `nnvit.types.BaseFamily`).

The file name is the recipe's `model.backbone`. Its layouts, licence, published files and statistics stand in that file alone.
"""
