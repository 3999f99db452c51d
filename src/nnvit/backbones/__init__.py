"""Backbones: one file per family, which holds all that nnvit knows of it (`nnvit.types.Family` names the members).

The file name is the recipe's `model.backbone`. Its layouts, licence, published files and statistics stand in that file alone.
"""
