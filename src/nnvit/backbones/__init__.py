"""Backbones: one file per family.

A file `foo.py` exports `Args` (its own recipe keys), `LORA_TARGETS`, `resolve_taps(size, taps)`,
`statistics(size, args)` and `build(size, taps, args)`; building never downloads and never reads weights.
"""
