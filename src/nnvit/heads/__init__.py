"""Decode heads: one file each, exporting `Config` (ModelConfig plus its own keys) and
`Head(channels, strides, num_classes, **own_keys)`, called as `head(maps, image)`. Every own key has a default in `Head`
too: plans of an older release may lack it, and the default then says what that release did.
"""
