"""Decode heads: one file each, exporting `Config` (ModelConfig plus its own keys) and
`Head(channels, strides, num_classes, **own_keys)`.
"""
