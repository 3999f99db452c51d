"""External weights: checkpoints that leave out their frozen weights and name the file that holds them.

In place of the tensors a state dict has one entry, KEY, with the hash of the file that they came from. The network restores
them as it loads (`restore`), so that a caller of `load_state_dict` need not know of it.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from nnvit.errors import WeightsError
from nnvit.types import State

from . import packaged
from .cache import cache_folder, cached_files, remembered_sha256
from .safe_reading import read_weights, weights_sha256
from .state_dicts import FLOATS, Faults, Unwrapped, target_tensors

KEY = "nnvit_reference"
"""The entry of a state dict that replaces the left-out tensors: JSON as bytes, because a state dict holds tensors."""

_BACKBONE = "backbone.model."
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}


@dataclass(frozen=True, kw_only=True)
class ExternalWeights:
    """Tensors that are left out of a state dict, and the file that holds them.

    file, sha256, size: name, hash and bytes (0 for a directory) of the file; path: where it was last found. spec:
    model.weights; source, licence: as in WeightsReport. family: the backbone family, for the file's layout. shapes: of all
    tensors that the file fills, under the model's own names. dtypes: of the left-out tensors, under the network's names; the
    file's values are cast to them; tensors_sha256: hash of the result.
    """

    file: str
    sha256: str
    size: int = 0
    path: str = ""
    spec: str
    source: str
    licence: str
    family: str
    shapes: dict[str, list[int]]
    dtypes: dict[str, str]
    tensors_sha256: str

    @classmethod
    def of(cls, network: Any, weights: Mapping[str, Any], spec: str) -> Self:
        """Describes a network's frozen tensors by the file that they were loaded from.

        network: a Segmenter; weights: its WeightsReport as a dictionary; spec: model.weights. Raises WeightsError if the
        file is not on this machine, or holds other values than the network; nothing can be left out then.
        """
        state, names = network.state_dict(), _frozen_names(network)
        if not weights.get("sha256") or not names:
            raise WeightsError("nothing in this network is frozen that came from a file.")
        external = cls(
            file=weights["path"],
            sha256=weights["sha256"],
            path=str(Path(spec).expanduser().absolute()) if weights["source"] == "file" else "",
            spec=spec,
            source=weights["source"],
            licence=weights["licence"],
            family=network.backbone.family,
            shapes={name: list(tensor.shape) for name, tensor in target_tensors(network.backbone.model).items()},
            dtypes={name: str(state[name].dtype).removeprefix("torch.") for name in names},
            tensors_sha256=_digest({name: state[name] for name in names}),
        )
        path = external.find()
        size = path.stat().st_size if path.is_file() else 0
        external = replace(external, path=str(path.absolute()), size=size)
        _resolve(external)
        return external

    @classmethod
    def named_in(cls, state: Mapping[str, Any]) -> Self | None:
        """Reads the entry in a state dict; None if the state dict is complete. Raises WeightsError for a damaged entry."""
        if KEY not in state:
            return None
        try:
            external = cls(**json.loads(state[KEY].cpu().numpy().tobytes()))
            external._check_types()
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsError(
                f"this checkpoint leaves its frozen weights out, and its entry for them cannot be read ({error}): it is"
                " damaged, or of a newer nnvit (`pip install -U nnvit`)."
            ) from error
        return external

    def _check_types(self) -> None:
        """Raises TypeError for fields of the wrong type: a checkpoint may come from anybody."""
        fits = {name: isinstance(value, str) for name, value in asdict(self).items()}
        fits["size"] = type(self.size) is int and self.size >= 0
        fits["shapes"] = isinstance(self.shapes, dict) and all(map(_is_shape, self.shapes.values()))
        fits["dtypes"] = isinstance(self.dtypes, dict) and all(
            isinstance(dtype, str) and dtype in _DTYPES for dtype in self.dtypes.values()
        )
        for name, fit in fits.items():
            if not fit:
                raise TypeError(f"its {name} is of another type")

    def file_words(self) -> str:
        """Describes the file for a user who has to look for it."""
        size = f"{self.size:,} bytes, " if self.size else ""
        return f"{self.file} ({size}sha256 {self.sha256}; model.weights={self.spec}, {self.source}, licence {self.licence})"

    def leave_out(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Replaces the tensors that these weights name by one entry, KEY."""
        kept = {name: value for name, value in state.items() if name not in self.dtypes}
        text = json.dumps(asdict(self), separators=(",", ":"))
        return kept | {KEY: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}

    def describes(self, network: nn.Module) -> bool:
        """Returns True if the left-out tensors are just the frozen ones of a network, whatever their precision there."""
        if sorted(self.dtypes) != sorted(_frozen_names(network)):
            return False
        tensors, own = _tensors(self), network.state_dict()
        return all(torch.equal(tensor.float(), own[name].detach().cpu().float()) for name, tensor in tensors.items())

    def find(self) -> Path:
        """Finds the file with this hash on this machine; downloads nothing.

        Looks at its last place, among the packaged weights, in nnvit's cache folder under any name, and in the hub's cache.
        Raises WeightsError that names the file, the places, and what was found there.
        """
        looked: dict[Path, str] = {}
        for path in self._candidates():
            if path not in looked:
                looked[path] = self._why_not(path)
                if not looked[path]:
                    return path
        places = "; ".join(f"{path} ({why})" for path, why in looked.items())
        raise WeightsError(
            "this checkpoint was written with checkpoint.frozen_weights=reference and needs the file of its frozen weights,"
            f" which is not on this machine: {self.file_words()}. Looked at {places}; at every file of its size in"
            f" {cache_folder()}, and in the hub's cache. {self._advice()}, or run `nnvit export` where it was trained, which"
            " writes a model that needs no other file."
        )

    def _candidates(self) -> Iterator[Path]:
        folder = cache_folder()
        if self.path:
            yield Path(self.path)
        if self.sha256 == packaged.SHA256:
            with contextlib.suppress(WeightsError):  # not installed
                yield packaged.locate(packaged.PACKAGED[0])
        yield folder / Path(self.file).name
        if self.size:
            yield from (p for p in sorted(folder.glob("*")) if p.is_file() and p.stat().st_size == self.size)
        yield from cached_files(Path(self.file).name)

    def _why_not(self, path: Path) -> str:
        """Says why this is not the file, "" if it is."""
        try:
            if not path.exists():
                return "absent"
            if not (path.is_file() or path.is_dir()):
                return "a device or pipe"  # reading one may never end
            size = path.stat().st_size
            if path.is_file() and (size == 0 or self.size not in (0, size)):  # 0: also the kernel's virtual files
                return f"another file: {size:,} bytes"
            own = path.is_file() and path.parent == cache_folder()
            digest = remembered_sha256(path) if own else weights_sha256(path)
        except WeightsError as error:  # a directory without weights
            return f"another file: {error}"
        except OSError as error:  # a name too long, or no permission
            return str(error.strerror)
        return "" if digest == self.sha256 else f"another file: sha256 {digest}"

    def _advice(self) -> str:
        if self.sha256 == packaged.SHA256:
            return f"Put it into {cache_folder()}. {packaged.INSTALL.removesuffix('.')}"
        fetch = f", with `nnvit weights fetch hf:{self.source[4:]}`" if self.source.startswith("hub ") else ""
        return f"Put it into {cache_folder()}{fetch}"


def _frozen_names(network: nn.Module) -> list[str]:
    """Returns the frozen parameters that pretrained weights fill. Buffers are not among them, because they may change."""
    parameters = [(name, p) for name, p in network.named_parameters() if name.startswith(_BACKBONE)]
    return [name for name, p in parameters if not p.requires_grad and ".lora_" not in name]


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(side) is int and side >= 0 for side in value)


def filled(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state dict with the tensors that it leaves out; a complete one is returned as it is.

    Raises WeightsError that names the file, the places searched and what to do, if the file is not on this machine or is
    another one.
    """
    external = ExternalWeights.named_in(state)
    if external is None:
        return dict(state)
    return {name: value for name, value in state.items() if name != KEY} | _tensors(external)


def restore(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hook of `load_state_dict` that does this in place. Torch passes it a copy of the caller's dictionary."""
    if f"{prefix}{KEY}" not in state_dict:
        return
    whole = filled({KEY: state_dict.pop(f"{prefix}{KEY}")})
    state_dict.update({f"{prefix}{name}": value for name, value in whole.items()})


_held: dict[str, tuple[int, State]] = {}
"""The tensors restored last: stock nnU-Net loads the folds of a model again for each image."""


def forget() -> None:
    """Frees the memory of the tensors restored last."""
    _held.clear()


@torch.inference_mode(mode=False)  # in which stock nnU-Net loads folds; its tensors do not count their changes
def _tensors(external: ExternalWeights) -> State:
    """Returns the left-out tensors; reads the file once, and again if the tensors were changed since."""
    key = f"{external.sha256} {external.tensors_sha256}"
    versions, tensors = _held.get(key, (-1, {}))
    if versions != _versions(tensors):
        tensors = _resolve(external)
        forget()
        _held[key] = (_versions(tensors), tensors)
    return tensors


def _versions(tensors: State) -> int:
    """Sums torch's counts of changes of the tensors."""
    return sum(tensor._version for tensor in tensors.values())


def _resolve(external: ExternalWeights) -> State:
    path = external.find()
    targets = {name: torch.empty(shape, device="meta") for name, shape in external.shapes.items()}
    converted = Unwrapped.of(read_weights(path, Path(external.file).suffix)).convert(external.family, targets)
    if found := Faults.between(converted.state, targets):
        raise WeightsError(f"{path} is the file that the checkpoint names, but does not fill its network: {found}")
    tensors = {}
    for name, dtype in external.dtypes.items():
        tensor = converted.state[name.removeprefix(_BACKBONE).replace(".base_layer.", ".")]
        # through fp32, in which networks are built and loaded
        tensors[name] = tensor.float().to(_DTYPES[dtype]).contiguous()
    if _digest(tensors) != external.tensors_sha256:
        raise WeightsError(
            f"the {len(tensors)} frozen tensors read from {path} are not those that the checkpoint was trained with"
            " (another sha256), so that nothing was loaded: they were changed after they had been loaded, or this nnvit"
            " reads the file in another way than the one that trained. Use `nnvit export` where it was trained."
        )
    return tensors


def _digest(tensors: State) -> str:
    """Returns the sha256 of names, precisions, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
