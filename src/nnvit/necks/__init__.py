"""Necks: one file each, exporting `Args` (its own recipe keys) and `Neck(channels, strides, args)`, called as
`neck(maps, image)`.
"""
