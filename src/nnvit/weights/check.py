"""What a weight file is, and which backbones it would fill: `nnvit weights check FILE`. Nothing in the file is executed."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from nnvit.errors import WeightsError

from . import licences, packaged
from .directories import digest_of
from .layouts import Converted, Unwrapped, convert, unwrap
from .load import ambiguity, not_finite, read
from .mismatch import faults
from .possible_backbones import Candidate, candidate, families
from .sources import inherited_licence, is_published, own_licence
from .state_dict_summary import describe, listed
from .target import target_tensors


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A backbone that the file fills whole. recipe: the keys that choose it; the rest as in WeightsReport."""

    recipe: str
    layout: str
    loaded: int
    parameters: int
    dropped: tuple[str, ...]
    licence: str
    statistics: Mapping[str, list[float]]
    ambiguity: str

    @property
    def restricted(self) -> bool:
        """Whether loading asks for the licence to be accepted; weights that come by pip ask for nothing."""
        return self.licence != packaged.LICENCE and licences.is_restricted(self.licence)

    def lines(self) -> list[str]:
        """The fit for a terminal."""
        text = f" ({licences.TEXTS[self.licence]})" if self.licence in licences.TEXTS else ""
        numbers = "; ".join(f"{key} {', '.join(f'{x:.4g}' for x in values)}" for key, values in self.statistics.items())
        return [
            f"fits {self.recipe}",
            f"  layout {self.layout}: {self.loaded} tensors, {self.parameters:,} parameters, none missing",
            *([f"  left out {len(self.dropped)}: {listed(self.dropped)}"] if self.dropped else []),
            f"  licence {self.licence}{text}" + (", to be accepted" if self.restricted else ""),
            f"  values in 0..1 are standardised with {numbers}",
            f"  origin: {self.ambiguity or 'the publisher’s own file, by its sha256'}",
        ]


@dataclass(frozen=True, kw_only=True)
class WeightsCheck:
    """container: how the bytes are kept; place: the entries and the prefix that hold the state dict; dtypes: tensors of each.

    fits: what it fills; nearest: where it fills nothing, what it comes closest to and why that fails; damaged: the
    tensors that hold NaN or Inf, for which loading refuses it.
    """

    path: Path
    sha256: str
    container: str
    place: str
    dtypes: Mapping[str, int]
    description: str
    fits: tuple[Fit, ...]
    nearest: str
    damaged: tuple[str, ...]

    def lines(self) -> list[str]:
        """The answer for a terminal."""
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
    """Reads a weight file or model directory and tries every backbone that nnvit knows by size, without memory for any of them.

    Models of `model.backbone=timm` are too many to try. Raises WeightsError for a file that is absent, damaged, no state
    dict, or that asks to run code.
    """
    path = Path(path).expanduser()
    raw = read(path)
    try:
        unwrapped = unwrap(raw)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    digest = digest_of(path)
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
class Trial:
    """What a candidate's layout makes of the file. why: the reason why it does not fit, or ""; matched: tensors that do."""

    candidate: Candidate
    converted: Converted | None
    why: str
    matched: int
    close: bool


def _try_all(unwrapped: Unwrapped, sha256: str) -> tuple[tuple[Fit, ...], str]:
    """The fits, and the candidate that came closest, with the reason why it fails."""
    trials = [trial for module, size in families() for trial in _try_variants(module, size, unwrapped)]
    fits: dict[tuple[str, str, str], Fit] = {}
    for trial in trials:
        if trial.converted is not None and not trial.why:
            fit, backbone = _fit(trial.candidate, trial.converted, sha256), trial.candidate.backbone
            # A variant that changes neither what is loaded nor the statistics is no other answer.
            fits.setdefault((backbone.family, backbone.size, str(fit.statistics)), fit)
    nearest = max(trials, key=lambda trial: trial.matched)
    own = tuple(fit for fit in fits.values() if not fit.ambiguity)
    return own or tuple(fits.values()), f"{nearest.candidate}: {nearest.why}" if nearest.matched else "none"


def _try_variants(module: ModuleType, size: str, unwrapped: Unwrapped) -> Iterator[Trial]:
    """The default variant, and the others where it comes close: building takes a second for the large ones."""
    first, *others = getattr(module, "VARIANTS", ({},))
    trial = _try(candidate(module, size, first), unwrapped)
    if trial is not None:
        yield trial
    if trial is None or trial.close:
        trials = (_try(candidate(module, size, args), unwrapped) for args in others)
        yield from (trial for trial in trials if trial is not None)


def _try(candidate: Candidate | None, unwrapped: Unwrapped) -> Trial | None:
    if candidate is None:
        return None
    targets = target_tensors(candidate.backbone.model)
    try:
        converted = convert(unwrapped, candidate.backbone.family, targets)
    except WeightsError as error:
        return Trial(candidate=candidate, converted=None, why=str(error), matched=0, close=True)
    found = faults(converted.state, targets)
    close = 2 * found.matched > found.wanted
    return Trial(
        candidate=candidate, converted=converted, why=str(found) if found else "", matched=found.matched, close=close
    )


def _fit(candidate: Candidate, converted: Converted, sha256: str) -> Fit:
    backbone = candidate.backbone
    published = is_published(sha256, backbone) or sha256 == packaged.SHA256
    licence = own_licence(backbone) if published else inherited_licence(backbone)
    return Fit(
        recipe=str(candidate),
        layout=converted.layout,
        loaded=len(converted.state),
        parameters=sum(tensor.numel() for tensor in converted.state.values()),
        dropped=converted.dropped,
        licence=packaged.LICENCE if sha256 == packaged.SHA256 else licence,
        statistics=candidate.statistics,
        ambiguity="" if published else ambiguity(converted, backbone.family, sha256),
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
