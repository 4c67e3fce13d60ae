"""ONNX files: any batch axis, either precision, and nothing that a file can do but answer or be refused."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import unveil as uv
from tests.helpers import onnx_net, random_weights, relu_net
from unveil.blackbox.sources import onnx as onnx_source
from unveil.blackbox.sources.onnx import OnnxSource

THIRD_PARTY = {
    "ACASXU_run2a_1_1_batch_2000.onnx": ((5,), 5),
    "Convnet_maxpool.onnx": ((1, 28, 28), 10),
    "cifar_base_kw.onnx": ((3, 32, 32), 10),
    "mnist-net_256x2.onnx": ((784, 1), 10),
    "resnet_2b.onnx": ((3, 32, 32), 10),
}


def saved(
    path: Path,
    nodes: list[Any],
    shape: list[Any],
    constants: dict[str, np.ndarray] | None = None,
    kind: int = TensorProto.FLOAT,
    out_shape: list[Any] | None = None,
) -> Path:
    """A graph from x to y."""
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", kind, out_shape or [f"side{i}" for i in range(len(shape))])]
    tensors = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("name", THIRD_PARTY)
def test_third_party_networks(name: str, data: Path, rng: np.random.Generator) -> None:
    path = data / "onnx" / name
    oracle = uv.as_oracle(path, within=(0, 1))
    assert (oracle.shape, oracle.m) == THIRD_PARTY[name]
    assert oracle.dtype == np.float32
    assert not OnnxSource(path).looped
    x = oracle.sample(9, rng)
    session = onnxruntime.InferenceSession(str(path))
    declared = session.get_inputs()[0]
    single = [session.run(None, {declared.name: row.reshape(declared.shape).astype("f4")})[0].ravel() for row in x]
    y = oracle(x)
    assert np.abs(y - single).max() <= 3e-6 * np.abs(y).max()
    if name != "resnet_2b.onnx":  # slow there
        reference = ReferenceEvaluator(str(path))
        one = reference.run(None, {declared.name: x[0].reshape(declared.shape).astype("f4")})[0].ravel()
        assert np.abs(y[0] - one).max() <= 1e-5 * np.abs(y).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flatten", [None, "Flatten", "Reshape"])
@pytest.mark.parametrize("batch", ["N", 1, 3, None])
def test_any_batch_axis(
    batch: int | str | None, flatten: str | None, dtype: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    if batch is None and flatten == "Flatten":
        pytest.skip("Flatten keeps two axes, so there is always a batch")
    weights = random_weights([12, 9, 7], rng, bias=1.0, dtype=dtype)
    shape = [12] if flatten is None else [3, 4]
    oracle = uv.as_oracle(onnx_net(weights, tmp_path / "net.onnx", batch, shape, flatten))
    assert oracle.shape == tuple(shape)
    assert oracle.dtype == np.dtype(dtype)
    source: Any = oracle.source  # type: ignore[attr-defined]
    assert not source.looped
    x = oracle.sample(11, rng)
    assert np.abs(oracle(x) - relu_net(weights)(x)).max() < (1e-14 if dtype == "float64" else 1e-5)
    assert oracle.resolution == np.finfo(dtype).eps


def test_weights_on_the_left_of_a_vector(tmp_path: Path, rng: np.random.Generator) -> None:
    w = rng.standard_normal((4, 6)).astype("f4")
    path = saved(tmp_path / "net.onnx", [helper.make_node("MatMul", ["w", "x"], ["y"])], [6], {"w": w}, out_shape=[4])
    source = OnnxSource(path)
    assert not source.looped
    x = rng.standard_normal((5, 6))
    assert np.allclose(source.answer(x), x @ w.T, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_questions_that_disturb_each_other_go_out_one_by_one(batch: int, tmp_path: Path) -> None:
    # The mean over the batch: no rewriting makes this independent.
    mean = helper.make_node("ReduceMean", ["x"], ["c"], axes=[0], keepdims=1)
    path = saved(
        tmp_path / "net.onnx", [mean, helper.make_node("Add", ["x", "c"], ["y"])], [batch, 3], None, 1, [batch, 3]
    )
    source = OnnxSource(path)
    assert source.looped
    x = np.arange(12.0).reshape(4, 3)
    assert np.allclose(source.answer(x), 2 * x)


def test_double_convolution_runs_in_single_precision(tmp_path: Path, rng: np.random.Generator) -> None:
    w = rng.standard_normal((2, 1, 3, 3))
    path = saved(
        tmp_path / "net.onnx",
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Flatten", ["c"], ["y"])],
        [1, 1, 5, 5],
        {"w": w},
        TensorProto.DOUBLE,
        [1, 18],
    )
    oracle = uv.as_oracle(path)
    x = oracle.sample(3, rng)
    truth = ReferenceEvaluator(str(path)).run(None, {"x": x[:1].reshape(1, 1, 5, 5)})[0]
    error = np.abs(oracle(x)[:1] - truth).max()
    assert error < 1e-5
    assert oracle.resolution == np.finfo(np.float32).eps or error < 1e-14


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_wide_layers_are_asked_in_smaller_batches(
    batch: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(onnx_source, "LARGEST_INSIDE", 1000)
    weights = random_weights([6, 200, 3], rng)
    oracle = uv.as_oracle(onnx_net(weights, tmp_path / "net.onnx", batch))
    source: Any = oracle.source  # type: ignore[attr-defined]
    sizes = []
    run = onnx_source._run
    monkeypatch.setattr(onnx_source, "_run", lambda session, s, x: sizes.append(len(x)) or run(session, s, x))
    x = oracle.sample(23, rng)
    assert np.abs(oracle(x) - relu_net(weights)(x)).max() < 1e-14
    assert sizes == [5, 5, 5, 5, 3]
    assert not source.looped


def test_open_shapes_must_be_given(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"])], ["N", "k"])
    with pytest.raises(uv.SourceError, match="shape="):
        uv.as_oracle(path)
    assert uv.as_oracle(path, 7).m == 7
    fixed = onnx_net(random_weights([4, 3], np.random.default_rng(0)), tmp_path / "fixed.onnx")
    assert uv.as_oracle(fixed, (4,)).n == 4
    with pytest.raises(uv.SourceError, match="shape"):
        uv.as_oracle(fixed, 5)


def test_softmax_in_a_file_is_undone(tmp_path: Path, rng: np.random.Generator) -> None:
    weights = random_weights([6, 8, 4], rng)
    oracle = uv.as_oracle(onnx_net(weights, tmp_path / "net.onnx", softmax=True))
    x = oracle.sample(9, rng)
    z = relu_net(weights)(x)
    assert np.array_equal(oracle.predictions(oracle(x)), z.argmax(axis=1))
    assert oracle.m == 3


def test_whole_number_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    path = tmp_path / "net.onnx"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    for oracle in (uv.as_oracle(path), uv.as_oracle(path, within=(0, 255)), uv.as_oracle(path, grid=1)):
        assert (oracle.grid, oracle.within) == (1.0, (0.0, 255.0))
        assert np.array_equal(oracle(np.array([[0.0, 7, 255]])), [[0, 7, 255]])
    assert any("whole numbers (uint8)" in note for note in uv.as_oracle(path).notes)
    with pytest.raises(uv.SourceError, match="whole numbers"):
        uv.as_oracle(path, grid=0.5)


def test_the_environment_s_threads_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_net(random_weights([4, 3], np.random.default_rng(0)), tmp_path / "net.onnx")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert OnnxSource(path).session.get_session_options().intra_op_num_threads == 1


# hostile files


def refused(path: Path) -> str:
    """The text of the one error that a file ends in."""
    with pytest.raises(uv.SourceError) as told:
        uv.as_oracle(path)
    text = str(told.value)
    assert path.name in text
    assert "\n" not in text
    assert len(text) < 1000
    print(text)
    return text


def external(path: Path, location: str, rng: np.random.Generator) -> Path:
    """A model whose weights are said to lie elsewhere."""
    onnx_net(random_weights([4, 3], rng, dtype=np.float32), path)
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    (path.parent / "beside.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_model_are_read(tmp_path: Path, rng: np.random.Generator) -> None:
    path = external(tmp_path / "net.onnx", "beside.bin", rng)
    here = Path.cwd()
    oracle = uv.as_oracle(path)
    assert Path.cwd() == here
    x = oracle.sample(5, rng)
    session = onnxruntime.InferenceSession(str(path))
    assert np.abs(oracle(x) - session.run(None, {"x": x.astype("f4")})[0]).max() < 1e-6


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "missing.bin", "", "link.bin", "."])
def test_weights_elsewhere_are_not_opened(location: str, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    path = folder / "net.onnx"
    assert "its folder" in refused(external(path, location, rng))


def test_weights_beside_the_model_that_are_too_short(tmp_path: Path, rng: np.random.Generator) -> None:
    path = external(tmp_path / "net.onnx", "beside.bin", rng)
    (tmp_path / "beside.bin").write_bytes(b"short")
    refused(path)


def test_files_that_are_no_models(tmp_path: Path, rng: np.random.Generator) -> None:
    contents = {"empty": b"", "text": b"hello, world\n" * 100, "noise": rng.bytes(5000), "html": b"<html>404</html>"}
    for name, content in contents.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        refused(tmp_path / f"{name}.onnx")
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx")
    refused(tmp_path / "missing.onnx")
    with pytest.raises(uv.SourceError, match="cannot read"):
        uv.as_oracle("a\0b.onnx")


TRAPS: dict[str, Callable[[Path], Path]] = {
    "huge input": lambda p: saved(p, [helper.make_node("Relu", ["x"], ["y"])], [1, 2**40]),
    "huge constant": lambda p: saved(
        p,
        [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])],
        [1, 3],
        {"s": np.array([2**38, 3])},
    ),
    "huge tile": lambda p: saved(p, [helper.make_node("Tile", ["x", "s"], ["y"])], [1, 3], {"s": np.array([1, 2**40])}),
    "negative axis": lambda p: saved(p, [helper.make_node("Relu", ["x"], ["y"])], [1, -5]),
    "unknown operator": lambda p: saved(p, [helper.make_node("Sabotage", ["x"], ["y"])], [1, 3]),
    "foreign operator": lambda p: saved(p, [helper.make_node("Sabotage", ["x"], ["y"], domain="elsewhere")], [1, 3]),
    "cycle": lambda p: saved(
        p, [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])], [1, 3]
    ),
    "text input": lambda p: saved(p, [helper.make_node("Identity", ["x"], ["y"])], [1, 3], None, TensorProto.STRING),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps(trap: str, tmp_path: Path) -> None:
    refused(TRAPS[trap](tmp_path / "trap.onnx"))


def test_loops_are_refused(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["s"], ["t"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 3]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 3]),
        ],
    )
    loop = helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body)
    constants = {"trips": np.array(2**62), "go": np.array(True)}
    assert "Loop" in refused(saved(tmp_path / "loop.onnx", [loop], [1, 3], constants))


def test_several_inputs(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "z"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xz"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    assert "2 inputs" in refused(path)


def test_names_from_outside_stay_on_one_line(tmp_path: Path) -> None:
    """A terminal must not obey a file's name, nor a name in a file."""
    path = tmp_path / "a\x1b[2J\nb\u202e.onnx"
    path.write_bytes(b"nothing")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x\x1b[2J", "z\n"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x\x1b[2J", "z\n")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "two.onnx"))
    for file in (path, tmp_path / "two.onnx"):
        with pytest.raises(uv.SourceError) as told:
            uv.as_oracle(file)
        assert str(told.value).isprintable()
    good = onnx_net(random_weights([4, 3], np.random.default_rng(0)), tmp_path / "c\x1b[2J\n.onnx")
    assert uv.as_oracle(good).name.isprintable()


def test_damaged_files_answer_or_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    """300 cuts and 700 flipped bits: whatever comes, it is an oracle with finite answers or one clear error."""
    whole = onnx_net(
        random_weights([6, 5, 3], rng, dtype=np.float32), tmp_path / "net.onnx", 1, [2, 3], "Reshape"
    ).read_bytes()
    cuts = (whole[:size] for size in rng.integers(0, len(whole), 300))
    path = tmp_path / "damaged.onnx"
    texts: list[str] = []
    for content in itertools.chain(cuts, (flipped(whole, rng) for _ in range(700))):
        path.write_bytes(content)
        try:
            oracle = uv.as_oracle(path)
            assert np.isfinite(oracle(oracle.sample(3, rng))).all()
        except uv.SourceError as error:
            texts.append(str(error))
    assert 300 < len(texts) < 1000
    assert not any("\n" in text for text in texts)


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to eight bits flipped."""
    changed = bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


@pytest.mark.parametrize("mixes", [True, False])
def test_it_is_said_that_a_model_answers_by_the_company_of_a_question(mixes: bool, tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["c"], axes=[0 if mixes else 1], keepdims=1)]
    nodes += [helper.make_node("Sub", ["x", "c"], ["y"])]
    oracle = uv.as_oracle(saved(tmp_path / "net.onnx", nodes, ["N", 3]))
    assert any("each question is asked alone" in note for note in oracle.notes) == mixes
