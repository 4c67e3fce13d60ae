"""Networks as numpy archives: arrays only, nothing that could be executed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from scipy import sparse

from unveil.outcome import BadInput, SourceError
from unveil.whitebox.activation import activation
from unveil.whitebox.blocks import repeated
from unveil.whitebox.convolution import Convolution
from unveil.whitebox.network import Layer, Network
from unveil.writing import written

LARGEST_FILE = 8 * 10**9


def write_npz(network: Network, path: str | Path) -> None:
    """Write the arrays of a network, in float64, compressed."""
    arrays: dict[str, np.ndarray] = {
        "activations": np.array([layer.activation.name for layer in network.layers]),
        "shape": np.array(network.shape),
        "softmax": np.array(network.softmax),
    }
    for i, layer in enumerate(network.layers):
        arrays[f"bias_{i}"] = layer.bias
        if layer.convolution is not None:
            c = layer.convolution
            arrays[f"kernel_{i}"] = c.kernel
            arrays[f"geometry_{i}"] = np.array([*c.input_shape, *c.stride, *c.padding, *c.dilation, c.groups])
        elif sparse.issparse(layer.weights):
            w = sparse.csr_array(layer.weights)
            arrays |= {f"data_{i}": w.data, f"indices_{i}": w.indices, f"pointers_{i}": w.indptr}
            arrays[f"size_{i}"] = np.array(w.shape)
        else:
            arrays[f"weights_{i}"] = layer.dense()
    with written(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_npz(path: str | Path) -> Network:
    """Read what `write_npz` wrote.

    Raises:
        SourceError: The file is missing, damaged, not ours, or holds pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_FILE:
                raise SourceError(f"{str(path)!r} unpacks to more than {LARGEST_FILE:,} bytes and is not opened")
        with np.load(path, allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["activations"]]
            layers = tuple(_layer(arrays, i, name) for i, name in enumerate(names))
            return Network(layers, tuple(int(d) for d in arrays["shape"]), bool(arrays["softmax"]))
    except FileNotFoundError as error:
        raise SourceError(f"there is no file {str(path)!r}") from error
    except BadInput as error:
        raise BadInput(f"{str(path)!r}: {error}") from error
    except SourceError:
        raise
    except Exception as error:  # a damaged archive fails in as many ways as there are bytes
        raise SourceError(f"{str(path)!r} is not a network written by unveil.save: {error}") from error


def _layer(arrays: np.lib.npyio.NpzFile, i: int, name: str) -> Layer:
    bias, phi = arrays[f"bias_{i}"], activation(name)
    if f"kernel_{i}" in arrays:
        g = [int(v) for v in arrays[f"geometry_{i}"]]
        shape, stride, padding, dilation = tuple(g[:3]), tuple(g[3:5]), tuple(g[5:9]), tuple(g[9:11])
        convolution = Convolution(arrays[f"kernel_{i}"], shape, stride, padding, dilation, g[11])  # type: ignore[arg-type]
        return Layer(repeated(convolution.matrix()), bias, phi, convolution)
    if f"data_{i}" in arrays:
        parts = (arrays[f"data_{i}"], arrays[f"indices_{i}"], arrays[f"pointers_{i}"])
        matrix = sparse.csr_array(parts, shape=tuple(int(d) for d in arrays[f"size_{i}"]))
        matrix.check_format(full_check=True)
        return Layer(matrix, bias, phi)
    return Layer(arrays[f"weights_{i}"], bias, phi)
