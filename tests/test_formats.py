"""Networks in and out of files: truth from onnxruntime, ONNX's reference evaluator and torch."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from unveil.outcome import BadInput, SourceError
from unveil.whitebox.formats import from_torch, load, save, to_torch
from unveil.whitebox.network import Network
from unveil.whitebox.region import linear_region, linearise
from unveil.whitebox.stability import stability

DATA = os.environ.get("UNVEIL_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="UNVEIL_DATA names no folder")


def answers_of(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    kind = np.float64 if "double" in entry.type else np.float32
    fixed = [d if isinstance(d, int) else 1 for d in entry.shape]
    return np.stack([session.run(None, {entry.name: row.astype(kind).reshape(fixed)})[0].ravel() for row in x])


def graph(path: Path, nodes: list, shape: list, out: list, constants: dict[str, np.ndarray], opset: int = 13) -> Path:
    entry = helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape)
    answer = helper.make_tensor_value_info("y", TensorProto.DOUBLE, out)
    made = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "g", [entry], [answer], made)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
    return path


def in_float32(path: Path) -> Path:
    """onnxruntime has no convolution in double precision."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float64:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, str(path.with_suffix(".32.onnx")))
    return path.with_suffix(".32.onnx")


@needs_data
@pytest.mark.parametrize("name", ["mnist-net_256x2", "ACASXU_run2a_1_1_batch_2000", "cifar_base_kw", "resnet_2b"])
def test_networks_of_third_parties_answer_as_in_onnxruntime(name: str, tmp_path: Path) -> None:
    path = Path(str(DATA)) / "onnx" / f"{name}.onnx"
    network = load(path)
    x = np.random.default_rng(1).uniform(0, 1, (20, network.n)).astype(np.float32)
    expected = answers_of(path, x)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(network(x), expected, atol=2e-6 * scale)
    save(network, tmp_path / "net.npz")
    np.testing.assert_array_equal(load(tmp_path / "net.npz")(x), network(x))
    if name != "resnet_2b":
        save(network, tmp_path / "net.onnx")
        np.testing.assert_allclose(answers_of(tmp_path / "net.onnx", x), network(x), atol=1e-13 * scale)
        save(network, tmp_path / "small.onnx", dtype="float32")
        np.testing.assert_allclose(answers_of(tmp_path / "small.onnx", x), expected, atol=4e-6 * scale)
        assert (tmp_path / "small.onnx").stat().st_size < 1.1 * path.stat().st_size + 1e5


@needs_data
def test_a_third_party_network_with_max_pooling_answers_as_in_onnxruntime() -> None:
    path = Path(str(DATA)) / "onnx" / "Convnet_maxpool.onnx"
    network = load(path)
    x = np.random.default_rng(1).uniform(0, 1, (5, network.n)).astype(np.float32)
    expected = answers_of(path, x)
    np.testing.assert_allclose(network(x), expected, atol=4e-6 * np.abs(expected).max())


def test_every_affine_operator_agrees_with_the_reference_evaluator(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    constants = {
        "k": rng.standard_normal((4, 2, 3, 3)),
        "kb": rng.standard_normal(4),
        "scale": rng.uniform(0.5, 2, 4),
        "shift": rng.standard_normal(4),
        "mean": rng.standard_normal(4),
        "var": rng.uniform(0.5, 2, 4),
        "half": np.array([0.5]),
        "column": rng.standard_normal((4, 1, 1)),
        "mix": rng.standard_normal((3, 3)),
        "left": rng.standard_normal((5, 4)),
        "flat": np.array([0, -1]),
        "w": rng.standard_normal((6, 15)),
        "wb": rng.standard_normal(6),
        "pick": np.array([2, 0, 1, 5]),
        "tail": rng.standard_normal((1, 2)),
        "axes": np.array([2]),
    }
    make = helper.make_node
    nodes = [
        make("Sub", ["x", "half"], ["a0"]),
        make("Conv", ["a0", "k", "kb"], ["a1"], group=2, pads=[1, 1, 1, 1], strides=[1, 2]),
        make("BatchNormalization", ["a1", "scale", "shift", "mean", "var"], ["a2"]),
        make("LeakyRelu", ["a2"], ["a3"], alpha=0.25),
        make("Div", ["a3", "column"], ["a4"]),
        make("AveragePool", ["a4"], ["a5"], kernel_shape=[2, 2], pads=[0, 1, 1, 0]),
        make("MatMul", ["a5", "mix"], ["a6"]),
        make("Transpose", ["a6"], ["a7"], perm=[0, 2, 1, 3]),
        make("MatMul", ["left", "a7"], ["a8"]),
        make("Sigmoid", ["a8"], ["a9"]),
        make("ReduceMean", ["a9"], ["b0"], axes=[1], keepdims=1),
        make("Squeeze", ["b0"], ["b1"]),
        make("Unsqueeze", ["b1", "axes"], ["b2"]),
        make("Reshape", ["b1", "flat2"], ["b3"]),
        make("Gemm", ["b3", "w", "wb"], ["b4"], transB=1, alpha=0.5, beta=2.0),
        make("Softplus", ["b4"], ["b5"]),
        make("Gather", ["b5", "pick"], ["b6"], axis=1),
        make("Concat", ["b6", "tail"], ["b7"], axis=1),
        make("Mul", ["half", "b7"], ["b8"]),
        make("Sub", ["half", "b8"], ["b9"]),
        make("Softmax", ["b9"], ["y"], axis=-1),
    ]
    constants["flat2"] = np.array([1, -1])
    path = graph(tmp_path / "all.onnx", nodes, ["N", 4, 6, 6], ["N", 6], constants)
    network = load(path)
    assert [layer.activation.name for layer in network.layers] == [
        "leaky_relu(0.25)",
        "sigmoid",
        "softplus",
        "identity",
    ]
    assert network.softmax
    assert network.layers[0].convolution is not None, "batch norm folds into the kernel"
    x = rng.standard_normal((4, network.n))
    np.testing.assert_allclose(network(x), answers_of(in_float32(path), x), atol=1e-6)


def test_skip_connections_are_carried_whatever_their_sign(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    constants = {name: rng.standard_normal((5, 5)) for name in ("w1", "w2", "w3", "w4")}
    make = helper.make_node

    def nodes(phi: str) -> list:
        return [
            make("MatMul", ["x", "w1"], ["a"]),
            make(phi, ["a"], ["b"], name="first"),
            make("MatMul", ["b", "w2"], ["c"]),
            make("Relu", ["c"], ["d"]),
            make("MatMul", ["d", "w3"], ["e"]),
            make("Add", ["e", "b"], ["f"]),
            make("Add", ["f", "x"], ["g"]),
            make("Relu", ["g"], ["h"]),
            make("Add", ["h", "a"], ["y"]),
        ]

    path = graph(tmp_path / "skip.onnx", nodes("Relu"), ["N", 5], ["N", 5], constants)
    x = rng.standard_normal((50, 5))
    np.testing.assert_allclose(load(path)(x), answers_of(path, x), atol=1e-13)
    for phi in ("Tanh", "LeakyRelu", "Abs"):
        path = graph(tmp_path / f"{phi}.onnx", nodes(phi), ["N", 5], ["N", 5], constants)
        np.testing.assert_allclose(load(path)(x), answers_of(in_float32(path), x), atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "relu",
        "leaky_relu",
        "leaky_relu(1.5)",
        "elu(0.7)",
        "tanh",
        "sigmoid",
        "softplus",
        "gelu",
        "identity",
        "silu",
        "gelu_tanh",
        "clip(0.0,6.0)",
        "mish",
        "softsign",
        "hardswish",
        "selu",
    ],
)
def test_what_is_saved_answers_the_same_to_the_last_digits(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    pairs = [
        (rng.standard_normal((6, 8)), rng.standard_normal(6)),
        (rng.standard_normal((3, 6)), rng.standard_normal(3)),
    ]
    network = Network.from_weights(pairs, activation=name, last="softmax", shape=(2, 4))
    x = rng.standard_normal((9, 8)) * 2
    save(network, tmp_path / "net.npz")
    back = load(tmp_path / "net.npz")
    np.testing.assert_array_equal(back(x), network(x))
    assert (back.shape, back.softmax) == ((2, 4), True)
    kind, tolerance = ("float64", 1e-14) if "gelu" not in name else ("float32", 1e-6)
    save(network, tmp_path / "net.onnx", dtype=kind)
    np.testing.assert_allclose(answers_of(tmp_path / "net.onnx", x), network(x), atol=tolerance)
    again = load(tmp_path / "net.onnx")
    np.testing.assert_allclose(again(x), network(x), atol=tolerance)
    assert name in ("identity", "selu") or [w.activation.name for w in again.layers] == [name, "identity"]
    torch = pytest.importorskip("torch")
    module = to_torch(network)
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.from_numpy(x).reshape(-1, 2, 4)).numpy(), network(x), atol=1e-14)
    np.testing.assert_allclose(from_torch(module, (2, 4))(x), network(x), atol=1e-14)


def test_a_torch_convnet_survives_every_format(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False),
        nn.Conv2d(8, 8, (3, 5), padding="same", dilation=(2, 1), groups=8),
        nn.ELU(0.5),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(8 * 16, 10),
        nn.BatchNorm1d(10),
        nn.Tanh(),
        nn.Linear(10, 4),
        nn.Softmax(dim=1),
    )
    module(torch.randn(32, 3, 16, 16))
    module.eval()
    network = from_torch(module, (3, 16, 16))
    x = np.random.default_rng(8).standard_normal((6, network.n))
    with torch.no_grad():
        expected = module.double()(torch.from_numpy(x).reshape(-1, 3, 16, 16)).numpy()
    np.testing.assert_allclose(network(x), expected, atol=1e-12)
    for file in ("net.npz", "net.onnx"):
        save(network, tmp_path / file)
        np.testing.assert_allclose(load(tmp_path / file)(x), expected, atol=1e-12)
    np.testing.assert_allclose(answers_of(tmp_path / "net.onnx", x), expected, atol=1e-12)
    with pytest.raises(BadInput, match="MaxPool2d"):
        from_torch(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2, ceil_mode=True)), (3, 16, 16))
    with pytest.raises(BadInput, match="shape="):
        from_torch(module)


def test_damaged_and_hostile_files_give_one_clear_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    network = Network.from_weights(
        [(rng.standard_normal((4, 3)), np.zeros(4)), (rng.standard_normal((2, 4)), np.zeros(2))]
    )
    for suffix in (".onnx", ".npz"):
        whole = tmp_path / f"whole{suffix}"
        save(network, whole)
        content = whole.read_bytes()
        for trial in range(30):
            broken = bytearray(content[: rng.integers(1, len(content))] if trial % 2 else content)
            for at in rng.integers(0, len(broken), 4):
                broken[at] = rng.integers(256)
            (tmp_path / f"broken{suffix}").write_bytes(bytes(broken))
            with contextlib.suppress(BadInput, SourceError):
                load(tmp_path / f"broken{suffix}")
        (tmp_path / f"noise{suffix}").write_bytes(rng.bytes(500))
        with pytest.raises(SourceError):
            load(tmp_path / f"noise{suffix}")
        with pytest.raises(SourceError, match="no file"):
            load(tmp_path / f"absent{suffix}")
    np.savez(tmp_path / "pickled.npz", activations=np.array([print], dtype=object), allow_pickle=True)
    (tmp_path / "model.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(SourceError):
        load(tmp_path / "pickled.npz")
    with pytest.raises(BadInput, match="from_torch"):
        load(tmp_path / "model.pt")
    with pytest.raises(BadInput, match="float16"):
        save(network, tmp_path / "n.onnx", dtype="float16")
    make, one = helper.make_node, {"w": np.ones((3, 2)), "k": np.ones((1, 1, 3, 3)), "big": np.array([10**6, 10**6])}
    for nodes, told in [
        ([make("MatMul", ["x", "absent"], ["y"])], "'absent'"),
        ([make("MatMul", ["x", "x"], ["y"])], "both depend"),
        ([make("MatMul", ["w", "x"], ["y"])], "MatMul"),
        ([make("Identity", ["w"], ["y"])], "does not depend"),
        ([make("Loop", ["x"], ["y"])], "Loop"),
        ([make("Conv", ["x", "k"], ["y"])], "convolution"),
        ([make("Reshape", ["x", "big"], ["y"])], "Reshape"),
        ([make("Softmax", ["x"], ["z"]), make("Relu", ["z"], ["y"], name="late")], "late"),
        ([make("Tanh", ["y"], ["y"])], "'y'"),
    ]:
        with pytest.raises(BadInput, match=told):
            load(graph(tmp_path / "odd.onnx", nodes, ["N", 3], ["N", 2], one))
    outside = graph(tmp_path / "outside.onnx", [make("MatMul", ["x", "w"], ["y"])], ["N", 3], ["N", 2], one)
    model = onnx.load(str(outside))
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    outside.write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match="no file in its folder"):
        load(outside)


def test_every_simple_operator_agrees_with_onnxruntime(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    make = helper.make_node
    constants = {
        "k": rng.standard_normal((3, 2, 3, 3)),
        "low": np.array(-0.4),
        "high": np.array(1.1),
        "slopes": np.array([0.3, -0.2]).reshape(2, 1, 1),
        "none": np.zeros(0),
        "factors": np.array([1.0, 1, 2, 3]),
        "flat": np.array([1, -1]),
        "w": rng.standard_normal((30, 5)),
        "level": rng.standard_normal((1, 5)),
    }
    nodes = [
        make("ConvTranspose", ["x", "k"], ["a"], strides=[2, 1], pads=[1, 0, 0, 1], output_padding=[1, 0]),
        make("PRelu", ["a", "slopes"], ["b"]),
        make("MaxPool", ["b"], ["c"], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
        make("Clip", ["c", "low", "high"], ["d"]),
        make("Resize", ["d", "none", "factors"], ["e"], mode="nearest", coordinate_transformation_mode="asymmetric",
             nearest_mode="floor"),
        make("Abs", ["e"], ["f"]),
        make("MaxPool", ["f"], ["g"], kernel_shape=[2, 3], strides=[2, 3]),
        make("HardSigmoid", ["g"], ["h"], alpha=0.25, beta=0.4),
        make("Reshape", ["h", "flat"], ["i"]),
        make("MatMul", ["i", "w"], ["j"]),
        make("Sigmoid", ["j"], ["s"]),
        make("Mul", ["s", "j"], ["l"]),
        make("Max", ["l", "level"], ["m"]),
        make("Min", ["m", "j"], ["y"]),
    ]  # fmt: skip
    shape = ["N", 3, 4, 5]
    path = graph(tmp_path / "simple.onnx", nodes, shape, ["N", 5], constants)
    network = load(path)
    x = 2 * rng.standard_normal((20, network.n))
    np.testing.assert_allclose(network(x), answers_of(in_float32(path), x), atol=1e-5)


def test_torch_modules_with_branches_are_followed() -> None:
    torch = pytest.importorskip("torch")
    from torch import nn

    class Block(nn.Module):
        def __init__(self, phi: nn.Module) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.phi = phi

        def forward(self, x):
            return torch.relu(self.norm(self.two(self.phi(self.one(x)))) + x)

    for seed, phi in enumerate(
        [
            nn.ReLU(),
            nn.PReLU(4),
            nn.Hardtanh(),
            nn.ReLU6(),
            nn.SiLU(),
            nn.GELU(approximate="tanh"),
            nn.Hardsigmoid(),
            nn.SELU(),
            nn.Mish(),
            nn.Softsign(),
            nn.Hardswish(),
        ]
    ):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(2, 4, 3), Block(phi), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1),
            nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(512, 3),
        ).double().eval()  # fmt: skip
        network = from_torch(module, (2, 8, 8))
        x = np.random.default_rng(seed).standard_normal((3, network.n))
        points = torch.from_numpy(x).reshape(-1, 2, 8, 8)
        with torch.no_grad():
            np.testing.assert_allclose(network(x), module(points).numpy(), atol=1e-11)
        jacobian = torch.autograd.functional.jacobian(module, points[:1]).reshape(3, -1).numpy()
        np.testing.assert_allclose(linearise(network, x[0]).matrix, jacobian, atol=1e-10)
        stable = stability(network, x[0], lemma_9=False)
        np.testing.assert_allclose(
            stable.layers[-1].after.values[0], np.linalg.svd(jacobian, compute_uv=False), rtol=1e-7
        )
        if network.piecewise_linear:
            region = linear_region(network, x[0])
            near = x[0] + 0.9 * region.margin() * np.eye(network.n)[3]
            assert region.contains(near).all()
            matrix, offset = region.affine()
            np.testing.assert_allclose(network(near), matrix @ near + offset, atol=1e-10)


def normalised_modules():
    """Modules with every kind of normalisation, and the shapes of their inputs."""
    from torch import nn

    class Block(nn.Module):
        """A residual block as transformers have them."""

        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 6)

        def forward(self, x):
            return x + self.down(nn.functional.relu(self.up(self.norm(x))))

    middle = [nn.LayerNorm(7, eps=1e-3), nn.LayerNorm(7, elementwise_affine=False)]
    middle += [nn.RMSNorm(7)] if hasattr(nn, "RMSNorm") else []
    plain = [nn.Sequential(nn.Linear(6, 7), nn.Tanh(), norm, nn.Linear(7, 3)) for norm in middle]
    pictures = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.LayerNorm((4, 4, 4)), nn.Flatten(), nn.Linear(64, 3)
    )
    blocks = nn.Sequential(nn.Linear(6, 6), Block(), Block(), nn.LayerNorm(6), nn.Linear(6, 3))
    return [*((module, (6,)) for module in (*plain, blocks)), (pictures, (2, 6, 6))]


def test_normalisations_are_layers_with_the_module_s_answers_tangents_and_stability(seed):
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    for module, shape in normalised_modules():
        for part in module.modules():
            if hasattr(part, "eps") and part.weight is not None:
                torch.nn.init.normal_(part.weight)
        module = module.double().eval()
        network = from_torch(module, shape)
        assert not network.piecewise_linear
        x = 3 * np.random.default_rng(seed).standard_normal((4, network.n))
        points = torch.from_numpy(x).reshape(-1, *shape)
        with torch.no_grad():
            expected = module(points).numpy()
        np.testing.assert_allclose(network(x), expected, atol=1e-10 * (1 + np.abs(expected).max()))
        jacobian = torch.autograd.functional.jacobian(module, points[:1]).reshape(3, -1).numpy()
        scale = np.abs(jacobian).max()
        np.testing.assert_allclose(linearise(network, x[0]).matrix, jacobian, atol=1e-9 * scale)
        values = stability(network, x[0], lemma_9=False).layers[-1].after.values[0][:3]
        np.testing.assert_allclose(values, np.linalg.svd(jacobian, compute_uv=False), atol=1e-7 * scale)
        with pytest.raises(BadInput, match="no linear regions"):
            linear_region(network, x[0])


def test_layer_normalization_is_read_from_onnx_and_kept_in_npz(tmp_path, seed):
    rng = np.random.default_rng(seed)
    constants = {"w": rng.standard_normal((5, 4)), "g": rng.standard_normal(5), "s": rng.standard_normal(5)}
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "wt"], ["a"]),
        onnx.helper.make_node("LayerNormalization", ["a", "g", "s"], ["y"], epsilon=1e-4),
    ]
    held = [onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in constants.items() if n != "w"]
    held.append(onnx.numpy_helper.from_array(constants["w"].T.astype(np.float32), "wt"))
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", k]) for n, k in (("x", 4), ("y", 5))]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    network = load(path)
    x = rng.standard_normal((3, 4))
    a = x @ constants["w"].astype(np.float32).T.astype(float)
    a = a - a.mean(axis=1, keepdims=True)
    a = a / np.sqrt((a**2).mean(axis=1, keepdims=True) + 1e-4)
    expected = a * constants["g"].astype(np.float32) + constants["s"].astype(np.float32)
    np.testing.assert_allclose(network(x), expected, atol=1e-9)
    save(network, tmp_path / "m.npz")
    assert (load(tmp_path / "m.npz")(x) == network(x)).all()


def test_a_module_that_is_one_layer_is_read_and_one_that_takes_other_inputs_is_refused(rng):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    for module, shape in ((nn.Linear(5, 3), ()), (nn.MaxPool2d(2), (1, 4, 4)), (nn.PReLU(3), (3, 2, 2))):
        network, x = from_torch(module, shape), rng.standard_normal((4, int(np.prod(shape)) if shape else 5))
        expected = module.double()(torch.from_numpy(x).reshape(4, *(shape or (5,)))).detach().reshape(4, -1).numpy()
        np.testing.assert_allclose(network(x), expected, atol=1e-12)
    apart = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(4, 1))
    wrong = [(nn.Linear(5, 3), (4,)), (apart, (4,)), (nn.Sequential(nn.LayerNorm(5)), (4,)), (nn.PReLU(3), (4,))]
    for module, shape in wrong:
        with pytest.raises(BadInput, match=r"does not take inputs of shape \(4,\)"):
            from_torch(module, shape)
