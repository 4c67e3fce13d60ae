"""Weights in a file of their own, put into the torch module that they belong to. Nothing in a file is executed."""

from __future__ import annotations

import copy
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unveil.outcome import BadInput, SourceError

# What the pickle of a state dictionary names, besides which nothing is made when it is read.
OF_WEIGHTS = ("torch", "torch._utils", "torch.nn.parameter", "collections")
WEIGHT_FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
# What to do about a file of torch that cannot be asked as it is, after "NAME holds ...".
WHAT_TO_DO = {
    "weights": ", and not what is computed with them; give the module they belong to, or its class: module= (--module "
    "FILE.PY:NAME)",
    "a whole module": " as a pickle, which can run anything and is never opened; if you trust it, load it yourself and "
    "pass the module, save it as TorchScript (torch.jit.script(...).save), or save its weights alone "
    "(module.state_dict()) and give its class: module= (--module FILE.PY:NAME)",
}
# How deep in a checkpoint weights are looked for.
CHECKPOINT_DEPTH = 3


def with_weights(module: Any, path: str | Path) -> Any:
    """A module with the weights of a file.

    Args:
        module: A torch module, which is copied, or a class of one that takes no arguments.
        path: A `.safetensors` file, or a state dictionary that torch saved (read with `weights_only=True`), by itself
            or in a checkpoint, where names may stand before all of its own (`module.`).

    Raises:
        BadInput: The file is of another kind, the class wants arguments, or the weights do not fit the module, or it
            holds them more than once.
        SourceError: The file cannot be read.
    """
    import torch

    path = Path(path)
    try:
        made = module() if isinstance(module, type) else copy.deepcopy(module)
    except TypeError as error:
        raise BadInput(
            f"{module.__name__} cannot be made without arguments ({error}); pass a module, or a function's result"
        ) from None
    if not isinstance(made, torch.nn.Module):
        raise BadInput(f"module= must be a torch module or its class; got a {type(made).__name__}")
    if path.suffix.lower() not in WEIGHT_FILE_SUFFIXES:
        raise BadInput(f"cannot read weights from {str(path)!r}; expected {', '.join(WEIGHT_FILE_SUFFIXES)}")
    weights = _weights(_read(path), made, path)
    try:
        made.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split())
        raise BadInput(f"the weights in {path.name} do not fit {type(made).__name__}: {first:.300}") from None
    return made.eval()


def _read(path: Path) -> Any:
    """What a file holds. Raises SourceError: it cannot be read."""
    import torch

    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError:
        raise
    except FileNotFoundError:
        raise SourceError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        if saved_by_torch(path) == "a whole module":
            raise SourceError(f"{path.name} holds a whole module{WHAT_TO_DO['a whole module']}") from None
        why = f"{type(error).__name__}: {error!s:.200}" if str(error) else type(error).__name__
        raise SourceError(
            f"{path.name} holds no weights that can be read; it is damaged, or no file of weights "
            f"({why.replace(chr(27), '')})"
        ) from None


def _weights(read: Any, module: Any, path: Path) -> Any:
    """Those of a module in what a file holds: itself, or the one part of a checkpoint that has the module's names.

    Wrappers put a name before all others (`module.`, `_orig_mod.`, `model.`), which is taken off. Where no part has the
    names, the one that has most of them is returned, for an error that tells of it.

    Raises:
        BadInput: Several parts have the module's names.
    """
    wanted, first = set(module.state_dict()), next(iter(module.state_dict()), "")
    fitting, nearest = {}, (0, read)
    for place, part in _parts(read):
        names = [name for name in part if isinstance(name, str)]
        if place and (shared := len(wanted.intersection(names))) > nearest[0]:
            nearest = shared, part
        # What stands before the module's first name, and before all: a part of a larger module could fit by chance.
        for prefix in {name[: -len(first)] for name in names if first and ("." + name).endswith("." + first)}:
            if len(part) == len(wanted) and set(names) == {prefix + name for name in wanted}:
                fitting[f"{place}{prefix}"] = {name: part[prefix + name] for name in wanted}
    if len(fitting) > 1:
        shown = ", ".join(repr(place) for place in sorted(fitting))
        raise BadInput(
            f"{path.name} holds weights of {type(module).__name__} more than once (under {shown}); save those that are "
            "meant in a file of their own"
        )
    return next(iter(fitting.values()), nearest[1])


def _parts(read: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dictionary in a checkpoint, and under which names it stands."""
    if not isinstance(read, Mapping) or depth > CHECKPOINT_DEPTH:
        return
    yield place, read
    for name, value in read.items():
        yield from _parts(value, f"{place}{name}/", depth + 1)


def saved_by_torch(path: Path) -> str:
    """What `torch.save` put into a file: "weights", "a whole module", or "" where it is none of its files.

    The pickle inside is looked through, never run.
    """
    try:
        with zipfile.ZipFile(path) as file:
            inside = {Path(name).name: name for name in file.namelist()}
            if "data.pkl" not in inside or "constants.pkl" in inside:
                return ""
            named = [
                str(arg).split()[0]
                for code, arg, _ in pickletools.genops(file.read(inside["data.pkl"]))
                if code.name == "GLOBAL"
            ]
    except (OSError, ValueError, zipfile.BadZipFile):
        return ""
    return "weights" if all(each in OF_WEIGHTS for each in named) else "a whole module"
