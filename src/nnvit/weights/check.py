"""`nnvit weights check FILE`: describes a weight file and the backbones that it fills. Executes nothing in the file."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nnvit import registry
from nnvit.errors import ConfigError, WeightsError
from nnvit.types import Backbone, BaseFamily, Converted

from . import licences, packaged
from .safe_reading import read_weights, weights_sha256
from .sources import licence_of
from .state_dicts import Faults, Unwrapped, describe, listed, not_finite, target_tensors, unwrap


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A backbone that the file fills completely. recipe: the keys that choose it; licence, ambiguity: as in WeightsReport."""

    recipe: str
    converted: Converted
    licence: str
    statistics: Mapping[str, list[float]]
    ambiguity: str

    @property
    def restricted(self) -> bool:
        """True if the licence has to be accepted before loading; never for weights that pip installed."""
        return self.licence != packaged.LICENCE and licences.is_restricted(self.licence)

    def lines(self) -> list[str]:
        """Returns the fit for a terminal."""
        found, dropped = self.converted, self.converted.dropped
        text = f" ({licences.TEXTS[self.licence]})" if self.licence in licences.TEXTS else ""
        numbers = "; ".join(f"{key} {', '.join(f'{x:.4g}' for x in values)}" for key, values in self.statistics.items())
        return [
            f"fits {self.recipe}",
            f"  layout {found.layout}: {len(found.state)} tensors, {found.parameters:,} parameters, none missing",
            *([f"  left out {len(dropped)}: {listed(dropped)}"] if dropped else []),
            f"  licence {self.licence}{text}" + (", to be accepted" if self.restricted else ""),
            f"  values in 0..1 are standardised with {numbers}",
            f"  origin: {self.ambiguity or 'the publisher’s own file, by its sha256'}",
        ]


@dataclass(frozen=True, kw_only=True)
class WeightsCheck:
    """The description of a weight file.

    container: the file format; place: the entries and the prefix of the state dict; dtypes: number of tensors of each;
    fits: the backbones that it fills; nearest: if it fills none, the closest one and why that fails; damaged: the tensors
    that hold NaN or Inf, with which it is not loaded.
    """

    path: Path
    sha256: str
    container: str
    place: str
    dtypes: Mapping[str, int]
    description: str
    fits: tuple[_Fit, ...]
    nearest: str
    damaged: tuple[str, ...]

    def lines(self) -> list[str]:
        """Returns the answer for a terminal."""
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
        return [
            f"file: {self.path}, sha256 {self.sha256}",
            f"container: {self.container}; state dict: {self.place}; tensors: {kinds}",
            f"looks like: {self.description}",
            *(line for fit in self.fits for line in fit.lines()),
            *(
                [f"damaged: {len(self.damaged)} tensors hold NaN or Inf: {listed(self.damaged)}"]
                if self.damaged
                else []
            ),
            *([f"fits no backbone of nnvit as it is; nearest: {self.nearest}"] if not self.fits else []),
        ]


def check(path: str | Path) -> WeightsCheck:
    """Reads a weight file or model directory and tries every backbone with a known size, on the meta device.

    Models of `model.backbone=timm` are too many to try. Raises WeightsError for a file that is absent, damaged, not a
    state dict, or that asks to run code.
    """
    path = Path(path).expanduser()
    raw = read_weights(path)
    try:
        unwrapped = unwrap(raw)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    digest = weights_sha256(path)
    fits, nearest = _try_all(unwrapped, digest)
    return WeightsCheck(
        path=path,
        sha256=digest,
        container=_container(path),
        place=_place(unwrapped),
        dtypes=Counter(str(tensor.dtype).removeprefix("torch.") for tensor in unwrapped.state.values()),
        description=describe(unwrapped.state),
        fits=fits,
        nearest=nearest,
        damaged=not_finite(unwrapped.state),
    )


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A file converted for one backbone, which is on the meta device.

    recipe: the keys that choose it; statistics: mean and std that the recipe applies; converted: None if the family refuses
    the file; why: the reason why it does not fit, or ""; matched: tensors that do; close: these are more than half.
    """

    backbone: Backbone
    recipe: str
    statistics: Mapping[str, list[float]]
    converted: Converted | None = None
    why: str
    matched: int = 0
    close: bool = True


def _families() -> list[tuple[type[BaseFamily], str]]:
    """Returns every family and size that the registry can list."""
    families = [registry.family(name) for name in registry.names("backbone")]
    return [(family, size) for family in families for size in family.SIZES]


class _WithoutInit(TorchFunctionMode):
    """Skips the arithmetic of initial values, which meta tensors do not have; building is then five times as fast."""

    in_place = frozenset(
        getattr(Tensor, f"{name}_") for name in ("normal", "uniform", "erfinv", "mul", "add", "clamp", "fill", "zero")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.in_place and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def _candidate(family: BaseFamily, size: str) -> Backbone | None:
    """Builds a backbone on the meta device; None if the family was not published in this form."""
    try:
        with torch.device("meta"), _WithoutInit():
            return family.build(size, family.resolve_taps(size, None))
    except ConfigError:
        return None


def _try_all(unwrapped: Unwrapped, sha256: str) -> tuple[tuple[_Fit, ...], str]:
    """Returns the fits, and the closest backbone with the reason why it fails."""
    trials = [trial for family, size in _families() for trial in _try_variants(family, size, unwrapped)]
    fits: dict[tuple[str, str, str], _Fit] = {}
    for trial in trials:
        if trial.converted is not None and not trial.why:
            # A variant with the same tensors and statistics is the same answer.
            key = (trial.backbone.family, trial.backbone.size, str(trial.statistics))
            fits.setdefault(key, _fit(trial, trial.converted, sha256))
    nearest = max(trials, key=lambda trial: trial.matched)
    own = tuple(fit for fit in fits.values() if not fit.ambiguity)
    return own or tuple(fits.values()), f"{nearest.recipe}: {nearest.why}" if nearest.matched else "none"


def _try_variants(family: type[BaseFamily], size: str, unwrapped: Unwrapped) -> Iterator[_Trial]:
    """Tries the defaults, and the other variants if these come close: building takes a second for the large ones."""
    trial = _try(family(), size, unwrapped)
    if trial is not None:
        yield trial
    if trial is None or trial.close:
        yield from filter(None, (_try(family(**keys), size, unwrapped) for keys in family.VARIANTS))


def _try(family: BaseFamily, size: str, unwrapped: Unwrapped) -> _Trial | None:
    backbone = _candidate(family, size)
    if backbone is None:
        return None
    defaults = vars(type(family)())
    changed = {key: value for key, value in vars(family).items() if value != defaults[key]}
    keys = [f"model.backbone_args.{key}={str(value).lower()}" for key, value in changed.items()]
    recipe = " ".join([f"model.backbone={backbone.family} model.backbone_size={size}", *keys])
    statistics, targets = family.statistics(size), target_tensors(backbone.model)
    try:
        converted = unwrapped.convert(backbone.family, targets)
    except WeightsError as error:
        return _Trial(backbone=backbone, recipe=recipe, statistics=statistics, why=str(error))
    found = Faults.between(converted.state, targets)
    return _Trial(
        backbone=backbone,
        recipe=recipe,
        statistics=statistics,
        converted=converted,
        why=str(found) if found else "",
        matched=found.matched,
        close=2 * found.matched > found.wanted,
    )


def _fit(trial: _Trial, converted: Converted, sha256: str) -> _Fit:
    is_packaged = sha256 == packaged.SHA256
    published = is_packaged or trial.backbone.publishes(sha256)
    return _Fit(
        recipe=trial.recipe,
        converted=converted,
        licence=packaged.LICENCE if is_packaged else licence_of(trial.backbone, published=published),
        statistics=trial.statistics,
        ambiguity="" if published else converted.origins(trial.backbone.family, sha256),
    )


def _container(path: Path) -> str:
    if path.is_dir():
        return "model directory of transformers"
    with path.open("rb") as stream:
        start = stream.read(2)
    if path.suffix in (".safetensors", ".onnx"):
        return path.suffix.removeprefix(".")
    return "torch archive (zip)" if start == b"PK" else "torch file from before version 1.6 (pickle)"


def _place(unwrapped: Unwrapped) -> str:
    wrappers = "".join(f"['{wrapper}']" for wrapper in unwrapped.wrappers) or "at the top"
    return wrappers + (f", prefix '{unwrapped.prefix}'" if unwrapped.prefix else "")
