"""Necks: one file each, which exports `Args` (its own recipe keys) and `Neck`, a `nnvit.types.BaseNeck`.

The file name is the recipe's `model.neck`.
"""
