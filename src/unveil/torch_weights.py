"""Weights in a file of their own, put into the torch module that they belong to. Nothing in a file is executed."""

from __future__ import annotations

import copy
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from unveil.outcome import BadInput, SourceError

# What the pickle of a state dictionary names, besides which nothing is made when it is read.
OF_WEIGHTS = ("torch", "torch._utils", "torch.nn.parameter", "collections")
ENDINGS = (".safetensors", ".pt", ".pth", ".bin")


def with_weights(module: Any, path: str | Path) -> Any:
    """A module with the weights of a file.

    Args:
        module: A torch module, which is copied, or a class of one that takes no arguments.
        path: A `.safetensors` file, or a state dictionary that torch saved (read with `weights_only=True`).

    Raises:
        BadInput: The file is of another kind, the class wants arguments, or the weights do not fit the module.
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
    if path.suffix.lower() not in ENDINGS:
        raise BadInput(f"cannot read weights from {str(path)!r}; expected {', '.join(ENDINGS)}")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError:
        raise
    except FileNotFoundError:
        raise SourceError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        why = f"{type(error).__name__}: {error!s:.200}"
        raise SourceError(f"{path.name} holds no weights that can be read: {why}") from None
    try:
        made.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split())
        raise BadInput(f"the weights in {path.name} do not fit {type(made).__name__}: {first:.300}") from None
    return made.eval()


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
