"""Hostile and odd input: each case does something to the library that must end in an answer or in an UnveilError.

A case is a function of a generator and an empty folder. It returns "answered" or "refused"; anything else that it
raises is a finding. `CASES` is used by the tests (a few of each) and by benchmarks/fuzz.py (many of each).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import unveil as uv

ROOT = Path(__file__).parent.parent
NASTY = (
    "<script>alert(1)</script>",
    "\x1b[31m\x07\x00",
    "\u202egnp.exe",
    "a" * 5000,
    "'\"`${7*7}{{7*7}}{%x%}",
    "\ud800",
    "&lt;\r\n",
    "",
    "../../etc/passwd",
    "%s%n{0}",
)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to three random injuries."""
    out = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        at = int(rng.integers(len(out) + 1))
        length = int(2 ** rng.uniform(0, 10))
        match rng.choice(["flip", "cut", "drop", "zero", "noise", "repeat", "varint"]):
            case "flip" if at < len(out):
                out[at] ^= 1 << int(rng.integers(8))
            case "cut":
                del out[at:]
            case "drop":
                del out[at : at + length]
            case "zero":
                out[at : at + length] = bytes(length)
            case "noise":
                out[at : at + length] = rng.bytes(length)
            case "repeat":
                out[at:at] = out[at : at + length]
            case "varint":
                out[at : at + 1] = b"\xff\xff\xff\xff\xff\x7f"
    return bytes(out)


def nasty(rng: np.random.Generator) -> str:
    return NASTY[rng.integers(len(NASTY))]


def _small_onnx(rng: np.random.Generator) -> Any:
    """A small network whose file consists mostly of structure, not of weights."""
    from onnx import TensorProto, helper, numpy_helper

    w = rng.standard_normal((3, 4)).astype(np.float32)
    b = rng.standard_normal(4).astype(np.float32)
    v = rng.standard_normal((4, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], "first"),
            helper.make_node("Relu", ["h"], ["a"]),
            helper.make_node("MatMul", ["a", "v"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(a, name) for a, name in ((w, "w"), (b, "b"), (v, "v"))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _twisted(model: Any, rng: np.random.Generator) -> None:
    """Change one field of a valid model to something hostile."""
    from onnx import TensorProto

    tensor = model.graph.initializer[rng.integers(3)]
    node = model.graph.node[rng.integers(3)]
    match int(rng.integers(14)):
        case 0:
            tensor.dims[0] = int(rng.choice([0, -1, 2**31, 2**62, 10**9]))
        case 1:
            tensor.data_location = TensorProto.EXTERNAL
            place = rng.choice(["../../../etc/passwd", "/etc/passwd", "x/../../y", "nothing", "", ".", "net.onnx"])
            tensor.external_data.add(key="location", value=str(place))
            tensor.external_data.add(key="offset", value=str(rng.choice(["0", "-1", "99999999999", "x"])))
        case 2:
            tensor.data_type = int(rng.integers(0, 25))
        case 3:
            model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = int(rng.choice([0, -5, 2**40, 4]))
        case 4:
            model.graph.input[0].type.tensor_type.elem_type = int(rng.integers(0, 25))
        case 5:
            node.op_type = str(rng.choice(["Loop", "If", "Scan", "Tanh", "Nope", "Conv", "", "Reshape", "Einsum"]))
        case 6:
            node.output[0] = str(rng.choice(["x", "y", "h", ""]))
        case 7:
            node.input[0] = str(rng.choice(["x", "y", "h", "a", "", "w"]))
        case 8:
            node.domain = nasty(rng).encode("utf-8", "replace").decode()
        case 9:
            model.opset_import[0].version = int(rng.choice([0, -1, 1, 2**31, 999]))
        case 10:
            del model.graph.output[:]
        case 11:
            model.graph.input.append(model.graph.input[0])
        case 12:
            name = nasty(rng).encode("utf-8", "replace").decode()
            model.graph.input[0].name = node.name = model.graph.name = name
        case 13:
            tensor.raw_data = np.full(tensor.dims[0], rng.choice([np.nan, np.inf, 3e38]), np.float32).tobytes()


def _onnx_file(rng: np.random.Generator, folder: Path) -> Path:
    path = folder / "net.onnx"
    if rng.random() < 0.2:
        path.write_bytes(damaged((ROOT / "examples" / "digits.onnx").read_bytes(), rng))
        return path
    model = _small_onnx(rng)
    kind = rng.random()
    if kind < 0.5:
        _twisted(model, rng)
    data = model.SerializeToString()
    path.write_bytes(data if kind < 0.4 else damaged(data, rng))
    return path


def onnx_asked(rng: np.random.Generator, folder: Path) -> str:
    oracle = uv.as_oracle(_onnx_file(rng, folder))
    return _answered(oracle(oracle.sample(3, rng)), 3)


def onnx_loaded(rng: np.random.Generator, folder: Path) -> str:
    network = uv.load(_onnx_file(rng, folder))
    return _answered(network(rng.standard_normal((3, network.n))), 3)


class Bomb:
    """Opening this pickle would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def npz_loaded(rng: np.random.Generator, folder: Path) -> str:
    path = folder / "net.npz"
    network = uv.Network.from_weights(
        [(rng.standard_normal((4, 3)), rng.standard_normal(4)), (rng.standard_normal((2, 4)), rng.standard_normal(2))]
    )
    uv.save(network, path)
    kind = rng.random()
    if kind < 0.5:
        path.write_bytes(damaged(path.read_bytes(), rng))
    else:
        with np.load(path) as arrays:
            held = dict(arrays)
        name = str(rng.choice(list(held)))
        held[name] = _odd_array(rng, folder)
        np.savez(path, **held)
        if kind > 0.9:
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(nasty(rng).replace("\ud800", "?") or "x", rng.bytes(30))
    try:
        loaded = uv.load(path)
        return _answered(loaded(rng.standard_normal((3, loaded.n))), 3)
    finally:
        assert not (folder / "pickle").exists(), "a pickle was opened"


DTYPES = ["S3", "U3", "M8[s]", "m8[s]", "V4", "i4,f8", *"?bBhHiIlLefdgFDO"]


def _odd_array(rng: np.random.Generator, folder: Path) -> np.ndarray:
    shape = tuple(int(side) for side in rng.integers(0, 5, size=int(rng.integers(0, 5))))
    if rng.random() < 0.4:
        shape = [(2, 3), (4, 3), (3,), (2, 64), (1, 8, 8), (5, 8, 8, 1)][rng.integers(6)]
    kind = str(rng.choice(DTYPES))
    if kind == "O":
        holder = np.empty(max(int(np.prod(shape)), 1), dtype=object)
        holder[:] = [Bomb(folder / "pickle")] * len(holder)
        return holder
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    if kind == "?":
        return np.zeros(shape, bool)
    if kind.startswith("U"):
        return np.full(shape, "1")
    return np.frombuffer(rng.bytes(size), dtype=kind).reshape(shape)


def inputs_read(rng: np.random.Generator, folder: Path) -> str:
    """Examples in files of every kind and dtype, some damaged, some under another kind's name."""
    from PIL import Image

    from unveil.cli.inputs import read_inputs

    buffer = io.BytesIO()
    kind = str(rng.choice([".npz", ".npy", ".csv", ".png", ".jpg"]))
    if kind in (".npz", ".npy"):
        array = _odd_array(rng, folder)
        if kind == ".npz":
            np.savez(buffer, **{str(rng.choice(["images", "x", "zzz"])): array, "labels": _odd_array(rng, folder)})
        else:
            np.save(buffer, array)
    elif kind == ".csv":
        cells = [[nasty(rng) if rng.random() < 0.01 else str(v) for v in row] for row in rng.integers(0, 300, (3, 64))]
        buffer.write("\n".join(",".join(row) for row in cells).encode("utf-8", "replace"))
    else:
        mode = str(rng.choice(["1", "L", "P", "RGB", "RGBA", "CMYK", "I", "F", "LA", "I;16"]))
        side = (int(rng.choice([1, 8, 9])), 8)
        picture = Image.new(mode, side)
        if kind == ".jpg" and mode not in ("1", "L", "RGB", "CMYK"):
            picture = picture.convert("RGB")
        if mode in ("F", "I"):
            picture = picture.convert("L")
        picture.save(buffer, "PNG" if kind == ".png" and mode != "CMYK" else "JPEG")
    data = buffer.getvalue()
    path = folder / f"inputs{kind if rng.random() < 0.9 else rng.choice(['.npz', '.npy', '.csv', '.png', '.jpg'])}"
    path.write_bytes(damaged(data, rng) if rng.random() < 0.4 else data)
    oracle = uv.as_oracle(lambda x: x.reshape(len(x), -1)[:, :2], shape=(1, 8, 8), within=(0, 1))
    try:
        read = read_inputs(path, oracle, scale=None if rng.random() < 0.7 else 255.0)
        return _answered(oracle(read.x), len(read.x))
    finally:
        assert not (folder / "pickle").exists(), "a pickle was opened"


class Moody:
    """A function that turns nasty after a while."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.patience = int(rng.integers(0, 40))
        self.way = int(rng.integers(22))
        self.buffer = np.zeros((4096, 2))

    def __call__(self, x: np.ndarray) -> Any:
        self.patience -= len(x)
        y = np.stack([np.sin(x).sum(axis=1), (x**2).sum(axis=1)], axis=1)
        if self.way == 0:  # one buffer, again and again
            self.buffer[: len(y)] = y
            return self.buffer[: len(y)]
        if self.way == 1:  # its own input, spoilt
            x[:] = 7
            return y
        if self.way == 2:
            y.setflags(write=False)
            return y
        if self.patience > 0:
            return y
        error = [ValueError, KeyError, ZeroDivisionError, MemoryError, RecursionError, StopIteration, AssertionError]
        odd: list[Callable[[], Any]] = [
            lambda: None,
            lambda: y.tolist(),
            lambda: y[:-1],
            lambda: y[:, :1],
            lambda: y.T,
            lambda: y.astype(complex),
            lambda: y.astype(object),
            lambda: y.astype(np.float16),
            lambda: y.astype(str),
            lambda: y * np.nan,
            lambda: y * np.inf,
            lambda: iter(y),
            lambda: {"y": y},
            lambda: np.ma.masked_array(y, mask=True),
            lambda: y[:, None, :],
            lambda: (y > 0).astype(int),
            lambda: np.array(3.0),
            lambda: [[1, 2], [3]],
        ]
        if self.way - 3 < len(odd):
            return odd[self.way - 3]()
        raise error[self.rng.integers(len(error))](nasty(self.rng))


def moody_oracle(rng: np.random.Generator, folder: Path) -> str:
    kind = str(rng.choice(["auto", "values", "probabilities", "labels"]))
    moody = Moody(rng)
    store = folder / "a.sqlite" if rng.random() < 0.5 else None
    oracle = uv.as_oracle(moody, shape=3, answers=kind, noisy=bool(rng.random() < 0.3), store=store)
    x = oracle.sample(int(rng.integers(1, 30)), rng)
    asked = x.copy()
    first = oracle(x)
    kept = first.copy()
    oracle(oracle.sample(5, rng))
    assert (x == asked).all(), "the questions were changed"
    assert (first == kept).all(), "answers changed after they were given"
    if kind == "auto" and moody.way <= 2:
        np.testing.assert_allclose(first, np.stack([np.sin(x).sum(axis=1), (x**2).sum(axis=1)], axis=1), rtol=1e-6)
    return _answered(first, len(x))


def small_budget(rng: np.random.Generator, folder: Path) -> str:
    """A budget of a few questions, down to none: never crossed, whatever is called."""
    budget = int(rng.integers(0, 40))
    sizes = [(3, 3), (1, 3), (3, 1)][rng.integers(3)]
    w = rng.standard_normal(sizes)
    oracle = uv.as_oracle(lambda x: np.tanh(x @ w), shape=sizes[0], budget=budget)
    try:
        verbs: list[Callable[[], object]] = [lambda: oracle(oracle.sample(int(rng.integers(0, 40)), rng))]
        verbs += [
            lambda name=name: getattr(uv, name)(oracle, rng=rng)
            for name in ("row_span", "identify")
            if hasattr(uv, name)
        ]
        found = verbs[rng.integers(len(verbs))]()
        if hasattr(found, "outcome"):
            assert isinstance(found.outcome, uv.Outcome)
            str(found)
    finally:
        assert oracle.ledger.asked <= budget
        assert oracle.ledger.sent <= budget
    return "answered"


def served_reply(rng: np.random.Generator, folder: Path) -> str:
    """A server's reply, damaged in its bytes or in its fields."""
    from unveil.blackbox.sources.json_endpoint import JsonEndpoint, JsonTalk
    from unveil.blackbox.sources.open_inference import HEADER, Talk
    from unveil.blackbox.sources.wire import Reply

    y = rng.standard_normal((4, 2))
    binary = rng.random() < 0.5
    tensor: dict[str, Any] = {"name": "y", "datatype": "FP64", "shape": [4, 2]}
    message: dict[str, Any] = {"id": "1", "model_name": "m", "outputs": [tensor]}
    raw = b""
    if binary:
        tensor["parameters"], raw = {"binary_data_size": y.nbytes}, y.tobytes()
    else:
        tensor["data"] = y.ravel().tolist()
    values = [
        None,
        -1,
        2**70,
        "",
        nasty(rng),
        [],
        {},
        [[]],
        True,
        1e308,
        "FP32",
        "INT64",
        "BOOL",
        [4, 2.0],
        [4, True],
        [8],
    ]
    target = [message, tensor, tensor.get("parameters", tensor)][rng.integers(3)]
    if rng.random() < 0.6:
        target[str(rng.choice(list(target)))] = values[rng.integers(len(values))]
    elif not binary and rng.random() < 0.3:
        tensor["data"][0] = values[rng.integers(len(values))]
    head = json.dumps(message).encode()
    length = str(len(head)) if rng.random() < 0.9 else str(rng.choice(["-1", "x", "99999", "", "²"]))
    body = head + raw
    if rng.random() < 0.4:
        body = damaged(body, rng)
    reply = Reply({HEADER: length} if binary else {}, body)
    if rng.random() < 0.3:
        endpoint = JsonEndpoint("/instances", str(rng.choice(["", "/outputs/0/data", "/outputs/*/shape", "/0", "/id"])))
        talk: Any = JsonTalk("http://h/", "http://h/", (3,), endpoint, endpoint.template())
    else:
        talk = Talk("http://h/", "http://h/", (3,), None, "FP64", "x", None, binary, {}, "")
    found = talk.decode(reply, 4, "1")
    assert found.ndim == 2
    assert len(found) == 4
    assert found.dtype.kind in "fiubU"
    return "answered"


def damaged_store(rng: np.random.Generator, folder: Path) -> str:
    """A damaged store gives right answers or none."""

    def model(x: np.ndarray) -> np.ndarray:
        return x[:, :2] * 3 + 1

    x = np.random.default_rng(1).standard_normal((60, 3))
    stored = uv.as_oracle(model, shape=3, store=folder / "a")
    stored(x)
    stored.source.memory.file.close()  # type: ignore[attr-defined]
    (folder / "a").write_bytes(damaged((folder / "a").read_bytes(), rng))
    again = uv.as_oracle(model, shape=3, store=folder / "a")
    assert (again(x) == model(x)).all()
    return "answered"


def nasty_names(rng: np.random.Generator, folder: Path) -> str:
    """A model with a hostile name, asked, stored and told on a page, which stays text."""
    from html.parser import HTMLParser

    from unveil.audit.page import Page
    from unveil.audit.section import Section

    name = nasty(rng) + nasty(rng)

    def model(x: np.ndarray) -> np.ndarray:
        return x * 2

    model.__name__ = name
    oracle = uv.as_oracle(model, shape=2, store=folder / "a")
    oracle(oracle.sample(2, rng))
    section = Section("span", name, name, figures={"x": name})
    text = Page(oracle.name, (section,)).html()
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(text)
    assert "script" not in tags
    assert not any(c in text for c in "\x1b\x07\x00\u202e\ud800")
    text.encode()
    return "answered"


def _answered(y: np.ndarray, count: int) -> str:
    assert y.ndim == 2
    assert len(y) == count
    return "answered"


CASES: dict[str, Callable[[np.random.Generator, Path], str]] = {
    case.__name__: case
    for case in (
        onnx_asked,
        onnx_loaded,
        npz_loaded,
        inputs_read,
        moody_oracle,
        small_budget,
        served_reply,
        damaged_store,
        nasty_names,
    )
}


def run(name: str, seed: int, folder: Path) -> str:
    """One case: "answered" or "refused"; what else it raises is a finding."""
    try:
        return CASES[name](np.random.default_rng([seed, len(name)]), folder)
    except uv.UnveilError as error:
        text = str(error)
        assert text.strip(), "an error without a text"
        return "refused"
