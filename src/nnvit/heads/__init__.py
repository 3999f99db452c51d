"""Decode heads: one file each, which exports `Config` (ModelConfig plus the head's own keys) and `Head`, a
`nnvit.types.BaseHead`, built as `Head(channels, strides, num_classes, config)`.

The file name is the recipe's `model.head`. A key that the plans of an older release lack takes its default in `Config`, so
that default must do what that release did.
"""
