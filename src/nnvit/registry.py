"""The file name is the registry key: `heads/foo.py` is head `foo`. Listing imports no component."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from .errors import ConfigError, did_you_mean

KINDS = {"backbone": "backbones", "neck": "necks", "head": "heads"}


def names(kind: str) -> list[str]:
    """Returns the sorted names of the components of one kind ("backbone", "neck" or "head")."""
    package = import_module(f"nnvit.{KINDS[kind]}")
    return sorted(module.name for module in iter_modules(package.__path__) if not module.name.startswith("_"))


def module(kind: str, name: str) -> ModuleType:
    """Imports the module of one component. Raises ConfigError that names the nearest legal one."""
    known = names(kind)
    if name not in known:
        raise ConfigError(
            f"model.{kind}='{name}' is not a {kind} of nnvit; use one of {', '.join(known)}."
            + did_you_mean(name, known)
        )
    return import_module(f"nnvit.{KINDS[kind]}.{name}")


def family(name: str) -> Any:
    """Returns the class of a backbone family, a BaseFamily. Raises ConfigError as `module` does."""
    return module("backbone", name).Family


def build_backbone(name: str, size: str, taps: list[int], args: Mapping[str, Any]) -> Any:
    """Builds a backbone with random weights from plain data. Raises ConfigError for an unknown one."""
    return family(name)(**args).build(size, taps)
