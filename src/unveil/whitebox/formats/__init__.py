"""Networks in and out of ONNX, torch and npz."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unveil.keras_graph import ENDINGS
from unveil.outcome import BadInput
from unveil.whitebox.formats.npz import read_npz, write_npz
from unveil.whitebox.formats.onnx_in import read_onnx
from unveil.whitebox.formats.onnx_out import write_onnx
from unveil.whitebox.formats.sklearn import from_sklearn
from unveil.whitebox.formats.torch import from_torch, to_torch
from unveil.whitebox.network import Network, must_be_known

__all__ = ["from_sklearn", "from_torch", "load", "save", "to_torch"]


def load(path: str | Path, output: str | None = None, inputs: Mapping[str, Any] | None = None) -> Network:
    """The network in a file, .onnx, .keras, .h5 or .npz. Nothing in a file is ever executed.

    Args:
        path: An ONNX model, what Keras's `model.save` wrote (read with h5py), or what `save` wrote. Weights of an ONNX
            model in other files must lie in its folder.
        output: Which output of an ONNX model with several; by default probabilities before other numbers before
            labels, and a warning says which.
        inputs: Values of the other inputs of an ONNX model with several, by name, which are held constant.

    Returns:
        Its layers in float64. An ONNX import has been compared with ONNX's reference evaluator on random inputs.

    Raises:
        SourceError: There is no such file, or it is malformed.
        BadInput: It holds something a `Network` cannot represent (max-pooling, say); operator and node are named.

    Examples:
        >>> import tempfile
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     uv.save(network, folder + "/net.onnx")
        ...     again = uv.load(folder + "/net.onnx")
        >>> again.widths
        (2, 1)
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx" or suffix in ENDINGS:
        return read_onnx(path, output, inputs)
    if output is not None or inputs:
        raise BadInput(f"output= and inputs= are about an ONNX file with several; {str(path)!r} is none")
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".safetensors":
        raise BadInput(
            f"{str(path)!r} holds weights, and not what is computed with them; give it the module it belongs to "
            "(unveil.from_torch(module, weights=path)), give the weights to unveil.Network.from_weights, or export the "
            "model to ONNX"
        )
    if suffix in (".pt", ".pth", ".ts", ".jit"):
        raise BadInput(
            f"{str(path)!r} may hold executable code and is not opened; build the module and use unveil.from_torch"
        )
    if not Path(path).exists():
        raise BadInput(f"there is no file {str(path)!r}; expected a network in a file, .onnx or .npz")
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

    Examples:
        >>> import tempfile
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     uv.save(network, folder + "/net.onnx")
        ...     again = uv.load(folder + "/net.onnx")
        >>> again.widths
        (2, 1)
    """
    must_be_known(network)
    suffix = Path(path).suffix.lower()
    if dtype not in ("float64", "float32"):
        raise BadInput(f"dtype must be 'float64' or 'float32', not {dtype!r}")
    if suffix == ".onnx":
        write_onnx(network, path, dtype)
    elif suffix == ".npz":
        write_npz(network, path)
    else:
        raise BadInput(f"cannot tell the format of {str(path)!r}; .onnx and .npz are written")
