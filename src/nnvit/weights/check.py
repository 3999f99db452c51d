"""`nnvit weights check FILE`: describes a weight file and the backbones that it fills. Executes nothing in the file."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
from .state_dicts import Faults, Unwrapped, describe, listed, not_finite, target_tensors


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A file converted for one backbone, which is on the meta device.

    recipe: the keys that choose the backbone; statistics: mean and std that the recipe applies; converted: None if the family
    refuses the file; why: the reason why the file does not fill the backbone, or ""; matched: tensors that fit; close: these
    are more than half of the backbone's.
    """

    backbone: Backbone
    recipe: str
    statistics: Mapping[str, list[float]]
    sha256: str
    converted: Converted | None = None
    why: str
    matched: int = 0
    close: bool = True

    @property
    def published(self) -> bool:
        """True if the file's hash shows that these are the family's own weights."""
        return self.sha256 == packaged.SHA256 or self.backbone.publishes(self.sha256)

    @property
    def licence(self) -> str:
        """The licence, as in WeightsReport."""
        if self.sha256 == packaged.SHA256:
            return packaged.LICENCE
        return licence_of(self.backbone, published=self.published)

    @property
    def ambiguity(self) -> str:
        """Other possible origins of the file, as in WeightsReport."""
        assert self.converted is not None
        return "" if self.published else self.converted.origins(self.backbone.family, self.sha256)

    def lines(self) -> list[str]:
        """Returns the fit for a terminal."""
        found, licence = self.converted, self.licence
        assert found is not None
        text = f" ({licences.TEXTS[licence]})" if licence in licences.TEXTS else ""
        # weights that pip installed ask for nothing
        asked = ", to be accepted" if licence != packaged.LICENCE and licences.is_restricted(licence) else ""
        numbers = "; ".join(f"{key} {', '.join(f'{x:.4g}' for x in values)}" for key, values in self.statistics.items())
        return [
            f"fits {self.recipe}",
            f"  layout {found.layout}: {len(found.state)} tensors, {found.parameters:,} parameters, none missing",
            *([f"  left out {len(found.dropped)}: {listed(found.dropped)}"] if found.dropped else []),
            f"  licence {licence}{text}{asked}",
            f"  values in 0..1 are standardised with {numbers}",
            f"  origin: {self.ambiguity or 'the publisher’s own file, by its sha256'}",
        ]


@dataclass(frozen=True, kw_only=True)
class _WeightsCheck:
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
    fits: tuple[_Trial, ...]
    nearest: str
    damaged: tuple[str, ...]

    def lines(self) -> list[str]:
        """Returns the answer for a terminal."""
        kinds, damaged = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items()), self.damaged
        return [
            f"file: {self.path}, sha256 {self.sha256}",
            f"container: {self.container}; state dict: {self.place}; tensors: {kinds}",
            f"looks like: {self.description}",
            *(line for fit in self.fits for line in fit.lines()),
            *([f"damaged: {len(damaged)} tensors hold NaN or Inf: {listed(damaged)}"] if damaged else []),
            *([f"fits no backbone of nnvit as it is; nearest: {self.nearest}"] if not self.fits else []),
        ]


def check(path: str | Path) -> _WeightsCheck:
    """Reads a weight file or model directory and tries every backbone with a known size, on the meta device.

    Models of `model.backbone=timm` are too many to try. Raises WeightsError for a file that is absent, damaged, not a
    state dict, or that asks to run code.
    """
    path = Path(path).expanduser()
    raw = read_weights(path)
    try:
        unwrapped = Unwrapped.of(raw)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    digest = weights_sha256(path)
    fits, nearest = _try_all(unwrapped, digest)
    return _WeightsCheck(
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


def _try_all(unwrapped: Unwrapped, sha256: str) -> tuple[tuple[_Trial, ...], str]:
    """Returns the fits, and the closest backbone with the reason why it fails."""
    trials = [trial for family, size in _families() for trial in _try_variants(family, size, unwrapped, sha256)]
    fits: dict[tuple[str, str, str], _Trial] = {}
    for trial in trials:
        if not trial.why:
            # A variant with the same tensors and statistics is the same answer.
            fits.setdefault((trial.backbone.family, trial.backbone.size, str(trial.statistics)), trial)
    nearest = max(trials, key=lambda trial: trial.matched)
    own = tuple(fit for fit in fits.values() if fit.published)
    return own or tuple(fits.values()), f"{nearest.recipe}: {nearest.why}" if nearest.matched else "none"


def _try_variants(family: type[BaseFamily], size: str, unwrapped: Unwrapped, sha256: str) -> Iterator[_Trial]:
    """Tries the defaults, and the other variants if these come close: building takes a second for the large ones."""
    trial = _try(family(), size, unwrapped, sha256)
    if trial is not None:
        yield trial
    if trial is None or trial.close:
        yield from filter(None, (_try(family(**keys), size, unwrapped, sha256) for keys in family.VARIANTS))


def _try(family: BaseFamily, size: str, unwrapped: Unwrapped, sha256: str) -> _Trial | None:
    backbone = _candidate(family, size)
    if backbone is None:
        return None
    defaults = vars(type(family)())
    changed = {key: value for key, value in vars(family).items() if value != defaults[key]}
    keys = [f"model.backbone_args.{key}={str(value).lower()}" for key, value in changed.items()]
    trial = _Trial(
        backbone=backbone,
        recipe=" ".join([f"model.backbone={backbone.family} model.backbone_size={size}", *keys]),
        statistics=family.statistics(size),
        sha256=sha256,
        why="",
    )
    targets = target_tensors(backbone.model)
    try:
        converted = unwrapped.convert(backbone.family, targets)
    except WeightsError as error:
        return replace(trial, why=str(error))
    found = Faults.between(converted.state, targets)
    close = 2 * found.matched > found.wanted
    return replace(trial, converted=converted, why=str(found) if found else "", matched=found.matched, close=close)


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
