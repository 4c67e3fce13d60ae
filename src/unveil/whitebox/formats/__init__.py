"""Networks in and out of ONNX, torch and npz."""

from __future__ import annotations

from pathlib import Path

from unveil.outcome import BadInput
from unveil.whitebox.formats.npz import read_npz, write_npz
from unveil.whitebox.formats.onnx_in import read_onnx
from unveil.whitebox.formats.onnx_out import write_onnx
from unveil.whitebox.formats.torch import from_torch, to_torch
from unveil.whitebox.network import Network

__all__ = ["from_torch", "load", "save", "to_torch"]


def load(path: str | Path) -> Network:
    """The network in a file, .onnx or .npz. Nothing in a file is ever executed.

    Args:
        path: An ONNX model with one input and one output, or what `save` wrote.

    Returns:
        Its layers in float64. An ONNX import has been compared with ONNX's reference evaluator on random inputs.

    Raises:
        SourceError: There is no such file, or it is malformed.
        BadInput: It holds something a `Network` cannot represent (max-pooling, say); operator and node are named.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        return read_onnx(path)
    if suffix == ".npz":
        return read_npz(path)
    if suffix in (".pt", ".pth"):
        raise BadInput(
            f"{str(path)!r} may hold executable code and is not opened; build the module and use unveil.from_torch"
        )
    raise BadInput(f"cannot tell the format of {str(path)!r}; .onnx and .npz are read")


def save(network: Network, path: str | Path, dtype: str = "float64") -> None:
    """Write a network to a file, .onnx or .npz: whole or not at all, readable by the owner only.

    Args:
        network: What to write.
        path: Its suffix chooses the format.
        dtype: "float64" keeps every bit; "float32" makes a smaller ONNX file for runtimes that want it.

    Raises:
        BadInput: Another suffix or dtype, or a network too large for the format.
        DiskFull: There is no room for the file.
    """
    suffix = Path(path).suffix.lower()
    if dtype not in ("float64", "float32"):
        raise BadInput(f"dtype must be 'float64' or 'float32', not {dtype!r}")
    if suffix == ".onnx":
        write_onnx(network, path, dtype)
    elif suffix == ".npz":
        write_npz(network, path)
    else:
        raise BadInput(f"cannot tell the format of {str(path)!r}; .onnx and .npz are written")
