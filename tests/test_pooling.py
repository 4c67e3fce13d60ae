"""Rooms of the formats: what a node of a graph says, averages and windows of pictures, archives of arrays."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy import sparse

from unveil.outcome import BadInput, SourceError
from unveil.whitebox.activation import activation
from unveil.whitebox.convolution import Convolution
from unveil.whitebox.formats.affine import Value
from unveil.whitebox.formats.npz import read_npz, write_npz
from unveil.whitebox.formats.onnx_step import OURS, Step
from unveil.whitebox.formats.pooling import average, pooled, widen
from unveil.whitebox.network import Layer, Network

SEEDS = range(5)


def picture(*shape: int) -> Value:
    return Value(None, np.zeros(int(np.prod(shape))), (1, *shape))


def step(operator: str, operands: list, domain: str = "", **attributes: object) -> Step:
    node = onnx.helper.make_node(operator, ["x"], ["y"], domain=domain)
    return Step(node, operands, attributes, 17)


def pooled_by_hand(x: np.ndarray, taps: tuple[int, int], stride: int, pads: list[int], how) -> np.ndarray:
    """`how` over each window of x (c, h, w), without what lies outside."""
    c, h, w = x.shape
    rows = range(-pads[0], h + pads[2] - taps[0] + 1, stride)
    columns = range(-pads[1], w + pads[3] - taps[1] + 1, stride)
    out = np.empty((c, len(rows), len(columns)))
    for a, i in enumerate(rows):
        for b, j in enumerate(columns):
            window = x[:, max(i, 0) : max(i + taps[0], 0), max(j, 0) : max(j + taps[1], 0)]
            out[:, a, b] = how(window.reshape(c, -1), axis=1)
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_pools_are_those_of_their_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (2, int(rng.integers(4, 7)), int(rng.integers(4, 7)))
    taps, stride = (int(rng.integers(2, 4)), int(rng.integers(2, 4))), int(rng.integers(1, 3))
    pads = [int(p) for p in rng.integers(0, 2, 4)]
    value, x = picture(*shape), rng.standard_normal(shape)
    said = {"kernel_shape": list(taps), "strides": [stride, stride], "pads": pads}
    mean = average(step("AveragePool", [value], **said), value)
    want = pooled_by_hand(x, taps, stride, pads, np.mean)
    assert mean.shape == (1, *want.shape)
    np.testing.assert_allclose(mean.operator() @ x.ravel(), want.ravel())
    counted = average(step("AveragePool", [value], count_include_pad=1, **said), value)
    total = pooled_by_hand(x, taps, stride, pads, np.sum) / np.prod(taps)
    np.testing.assert_allclose(counted.operator() @ x.ravel(), total.ravel())
    parts, made = pooled(step("MaxPool", [value], **said), value)
    most = np.max([part.operator() @ x.ravel() for part in parts], axis=0)
    assert made == (1, *want.shape)
    np.testing.assert_allclose(most, pooled_by_hand(x, taps, stride, pads, np.max).ravel())
    everywhere, made = pooled(step("GlobalMaxPool", [value]), value)
    assert made == (1, 2, 1, 1)
    np.testing.assert_allclose(
        np.max([part.operator() @ x.ravel() for part in everywhere], axis=0), x.reshape(2, -1).max(axis=1)
    )


def test_geometry_is_as_onnx_states_it() -> None:
    value = picture(1, 5, 8)
    upper = widen(step("Conv", [value], auto_pad=b"SAME_UPPER", strides=[2, 3]), value, np.ones((1, 1, 2, 4)))
    lower = widen(step("Conv", [value], auto_pad=b"SAME_LOWER", strides=[2, 3]), value, np.ones((1, 1, 2, 4)))
    # As many places as strides fit; the odd row of padding comes last of SAME_UPPER.
    assert upper.output_shape == lower.output_shape == (1, 3, 3)
    assert (upper.padding, lower.padding) == ((0, 1, 1, 1), (1, 1, 0, 1))
    line = picture(3, 9)
    flat = widen(step("Conv", [line], pads=[2, 1], strides=[2], dilations=[3]), line, np.ones((4, 3, 2)))
    assert (flat.padding, flat.stride, flat.dilation) == ((0, 2, 0, 1), (1, 2), (1, 3))
    assert flat.output_shape == (4, 1, 5)
    with pytest.raises(BadInput, match="auto_pad"):
        widen(step("Conv", [value], auto_pad=b"ALL"), value, np.ones((1, 1, 2, 2)))
    for wrong in ({"ceil_mode": 1, "kernel_shape": [2, 2]}, {"kernel_shape": [2, 2]}):
        with pytest.raises(BadInput, match=r"ceil_mode|channels"):
            average(step("AveragePool", [value], **wrong), value if "ceil_mode" in wrong else picture(4))


def test_a_node_s_operands_and_attributes() -> None:
    value, number = picture(4), np.array([2.0])
    one = step("Add", [number, value])
    assert one.widest() is value
    assert one.constant(0) is number
    assert one.constant(5, "none") == "none"
    for ask in (lambda: one.value, lambda: one.constant(1), lambda: step("Add", [number]).widest()):
        with pytest.raises(BadInput, match="node Add"):
            ask()
    assert step("Elu", [value], alpha=0.3).alpha(1.0) == 0.3
    assert step("Elu", [value]).alpha(1.0) == 1.0
    assert step("Elu", [value, number], domain=OURS, alpha=0.3).alpha(1.0) == 2.0
    assert step("Clip", [value, np.array(0.0), None]).clip() is activation("relu")
    between = step("Clip", [value], min=-1.0, max=2.0).clip()
    np.testing.assert_array_equal(between.value(np.array([-3.0, 0.5, 5.0])), [-1.0, 0.5, 2.0])
    open_below = step("Clip", [value, None, np.array(1.0)]).clip()
    np.testing.assert_array_equal(open_below.value(np.array([-9.0, 9.0])), [-9.0, 1.0])
    assert step("Gelu", [value], approximate=b"tanh").gelu().name == "gelu_tanh"
    assert step("Gelu", [value]).gelu().name == "gelu"
    slopes = step("PRelu", [value, np.array([0.5, 0.5, -1.0, 0.0])]).prelu()
    np.testing.assert_array_equal(slopes.value(-np.ones((1, 4))), [[-0.5, -0.5, 1.0, 0.0]])
    assert step("Squeeze", [value, np.array([0, 2])]).integers("axes", 1) == [0, 2]
    assert step("Squeeze", [value], axes=[1]).integers("axes", 1) == [1]
    assert step("Squeeze", [value]).integers("axes", 1) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_an_archive_gives_back_every_kind_of_layer(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    kernel = Convolution(rng.standard_normal((4, 1, 2, 3)), (2, 5, 6), (2, 1), (1, 0, 0, 2), (1, 2), 2)
    first = Layer(kernel.matrix(), rng.standard_normal(kernel.output_size), activation("relu"), kernel)
    thin = sparse.random_array((5, kernel.output_size), density=0.1, rng=rng, format="csr")
    layers = (
        first,
        Layer(thin, rng.standard_normal(5), activation("leaky_relu(0.25)")),
        Layer(rng.standard_normal((3, 5)), rng.standard_normal(3), activation("identity")),
    )
    network = Network(layers, (2, 5, 6), bool(seed % 2))
    write_npz(network, tmp_path / "a.npz")
    again = read_npz(tmp_path / "a.npz")
    assert (again.shape, again.softmax) == (network.shape, network.softmax)
    for one, two in zip(again.layers, layers, strict=True):
        np.testing.assert_array_equal(one.dense(), two.dense())
        np.testing.assert_array_equal(one.bias, two.bias)
        assert one.activation.name == two.activation.name
    assert again.layers[0].convolution is not None
    assert again.layers[0].convolution.groups == 2
    assert sparse.issparse(again.layers[1].weights)
    x = rng.standard_normal((3, network.n))
    np.testing.assert_array_equal(again(x), network(x))


def test_archives_that_are_not_ours_say_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file"):
        read_npz(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", weights=np.eye(2))
    held = io.BytesIO()
    np.savez(held, activations=np.array(["relu"], dtype=object), allow_pickle=True)
    (tmp_path / "pickled.npz").write_bytes(held.getvalue())
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04" + bytes(20))
    for name in ("other", "pickled", "torn"):
        with pytest.raises(SourceError, match="not a network written by"):
            read_npz(tmp_path / f"{name}.npz")
    with zipfile.ZipFile(tmp_path / "large.npz", "w") as archive:
        archive.writestr("a.npy", b"")
    text = (tmp_path / "large.npz").read_bytes()
    # What the directory says of its size is believed before anything is unpacked.
    at = text.index(b"PK\x01\x02") + 24
    (tmp_path / "large.npz").write_bytes(text[:at] + (2**32 - 2).to_bytes(4, "little") + text[at + 4 :])
    with pytest.raises(SourceError):
        read_npz(tmp_path / "large.npz")
