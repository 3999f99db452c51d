"""Backbones: one file per family.

A file `foo.py` exports `Args` (its own recipe keys), `LORA_TARGETS`, `SIZES`, `resolve_taps(size, taps)`,
`statistics(size, args)` and `build(size, taps, args)`; building never downloads and never reads weights. `VARIANTS` names the
keys that `nnvit weights check` tries where one size was published in several forms.
"""
