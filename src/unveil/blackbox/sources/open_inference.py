"""The Open Inference Protocol, version 2: what KServe, MLServer, Triton, TorchServe and OpenVINO speak."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from unveil.blackbox.answers import shown as for_a_line
from unveil.blackbox.source import Questions, float_dtype
from unveil.blackbox.sources.wire import Reply, Wire, shown
from unveil.outcome import BadInput, SourceError

DATATYPES = {
    "FP64": "<f8",
    "FP32": "<f4",
    "FP16": "<f2",
    **{f"{sign}INT{8 * size}": f"<{sign.lower() or 'i'}{size}" for sign in ("", "U") for size in (1, 2, 4, 8)},
    "BOOL": "?",
}
HEADER = "inference-header-content-length"
# Characters of one number in JSON, sign, exponent and comma included.
JSON_NUMBER = 24
# No tensor has more dimensions than that; an answer nested deeper is none.
DEEPEST = 100
# An unfinished string matches, too, so that no text takes longer than its length.
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


@dataclass(frozen=True)
class OpenInference:
    """What to say where the server's metadata is silent or offers a choice.

    Attributes:
        input: Name of the input tensor.
        output: Name of the output tensor; needed if the model has several.
        datatype: "FP64" or "FP32"...: type of the input tensor.
        binary: Send tensors as bytes instead of JSON; by default if the server lists `binary_tensor_data`.

    Examples:
        >>> speaks = uv.OpenInference(input="images", output="probabilities")
        >>> speaks.input, speaks.output
        ('images', 'probabilities')
    """

    input: str | None = None
    output: str | None = None
    datatype: str | None = None
    binary: bool | None = None

    def open(self, wire: Wire, shape: tuple[int, ...] | None) -> Talk:
        """Read the model's metadata.

        Raises:
            BadInput: The shape is neither told by the server nor given, or differs.
            SourceError: No metadata that can be used, or a model with several inputs.
        """
        match = re.fullmatch(r"(.*/v2)/models/([^/?]+)(/versions/[^/?]+)?(?:/infer)?/?(\?.*)?", wire.url)
        if match is None:
            raise BadInput(
                f"expected an address like http://host:port/v2/models/NAME; got {shown(wire.url)}. What speaks another "
                "protocol is asked with api= (--api tfserving, torchserve, ...), or JsonEndpoint (--request, --answer)"
            )
        base, model, version, query = match.groups(default="")
        server = _document(wire, f"{base}{query}")
        about = _document(wire, f"{base}/models/{model}{version}{query}")
        tensor = self._tensor(wire, about)
        datatype = (self.datatype or str(tensor.get("datatype", "FP64"))).upper()
        if datatype not in DATATYPES:
            raise BadInput(
                f"the input of {wire.shown} is {datatype}; only numbers can be asked ({', '.join(DATATYPES)})"
            )
        inner, rows = _shape(tensor.get("shape"), shape, wire.shown)
        extensions = server.get("extensions")
        lists = isinstance(extensions, list) and "binary_tensor_data" in extensions
        known = {key: about[key] for key in ("name", "versions", "platform", "inputs", "outputs") if key in about}
        return Talk(
            url=f"{base}/models/{model}{version}/infer{query}",
            shown=wire.shown,
            shape=inner,
            rows=rows,
            datatype=datatype,
            input=str(self.input or tensor.get("name") or "input"),
            output=self.output,
            binary=lists if self.binary is None else self.binary,
            # MLServer guesses how to decode a tensor unless it is told; others may not know the parameter.
            hint={"content_type": "np"} if server.get("name") == "mlserver" else {},
            about=json.dumps(known, sort_keys=True),
        )

    def _tensor(self, wire: Wire, about: Mapping[str, Any]) -> Mapping[str, Any]:
        tensors = [t for t in about.get("inputs") or [] if isinstance(t, dict)]
        if len(tensors) > 1:
            names = ", ".join(str(t.get("name"))[:40] for t in tensors[:8])
            raise SourceError(f"{wire.shown} has {len(tensors)} inputs ({names}); a model with one can be asked")
        if tensors and self.input not in (None, tensors[0].get("name")):
            raise BadInput(f"{wire.shown} has no input {self.input!r}; it is called {tensors[0].get('name')!r}")
        return tensors[0] if tensors else {}


@dataclass(frozen=True)
class Talk:
    """One model's way of being asked: questions into bytes, bytes into answers."""

    url: str
    shown: str
    shape: tuple[int, ...]
    rows: int | None
    datatype: str
    input: str
    output: str | None
    binary: bool
    hint: Mapping[str, Any]
    about: str

    @property
    def dtype(self) -> np.dtype[np.floating]:
        return float_dtype(
            np.float64 if self.datatype in ("FP64", "INT32", "INT64", "UINT32", "UINT64") else np.float32
        )

    @property
    def grid(self) -> float | None:
        """1 where the input holds whole numbers."""
        return None if self.datatype.startswith("FP") else 1.0

    @property
    def within(self) -> tuple[float, float] | None:
        """The legal range of bytes and truth values; None for other types."""
        kind = np.dtype(DATATYPES[self.datatype])
        if kind.kind == "b":
            return 0.0, 1.0
        if kind.kind == "f" or kind.itemsize > 1:
            return None
        return float(np.iinfo(kind).min), float(np.iinfo(kind).max)

    @property
    def question_bytes(self) -> int:
        return math.prod(self.shape) * (np.dtype(DATATYPES[self.datatype]).itemsize if self.binary else JSON_NUMBER)

    def encode(self, x: Questions, number: str) -> tuple[dict[str, str], bytes]:
        """Headers and body of the request numbered `number`."""
        kind = np.dtype(DATATYPES[self.datatype])
        if kind.kind != "f":
            limits = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
            if (x != np.round(x)).any() or x.min() < limits[0] or x.max() > limits[1]:
                raise BadInput(
                    f"{self.shown} takes {self.datatype}: whole numbers from {limits[0]} to {limits[1]}; "
                    "pass grid=1 and within=(low, high)"
                )
        x = x.astype(kind)
        tensor: dict[str, Any] = {
            "name": self.input,
            "shape": [len(x), *self.shape],
            "datatype": self.datatype,
        }
        message: dict[str, Any] = {"id": number, "inputs": [tensor]}
        if self.output is not None:
            message["outputs"] = [{"name": self.output}]
        if not self.binary:
            # float32 is written as the double of the same value: right for servers that compute in either.
            tensor["data"] = x.ravel().tolist()
            if self.hint:
                tensor["parameters"] = dict(self.hint)
            return {"Content-Type": "application/json"}, json.dumps(message).encode()
        tensor["parameters"] = {"binary_data_size": x.nbytes}
        if self.output is not None:
            message["outputs"][0]["parameters"] = {"binary_data": True}
        else:
            message["parameters"] = {"binary_data_output": True}
        head = json.dumps(message).encode()
        return {"Content-Type": "application/octet-stream", HEADER: str(len(head))}, head + x.tobytes()

    def decode(self, reply: Reply, count: int, number: str) -> np.ndarray:
        """`count` rows of answers.

        Raises:
            SourceError: The reply is not what the protocol promises, or answers another request.
        """
        head, raw = self._split(reply)
        message = parse(head, self.shown)
        if not isinstance(message, dict) or not isinstance(message.get("outputs"), list):
            self._bad(f"no outputs in it: {str(message)[:100]}")
        if message.get("id") not in (None, "", number):
            self._bad("it belongs to another request (its id differs)")
        outputs = [t for t in message["outputs"] if isinstance(t, dict)]
        places = _places(outputs, raw, self.shown)
        chosen = self._chosen(outputs, count)
        kind, shape = np.dtype(DATATYPES[chosen["datatype"]]), chosen["shape"]
        if id(chosen) in places:
            piece = places[id(chosen)]
            if len(piece) != kind.itemsize * math.prod(shape):
                self._bad(f"{len(piece)} bytes for {chosen['datatype']} of shape {shape}")
            return np.frombuffer(piece, kind).reshape(count, -1)
        y = numbers(chosen.get("data"), self.shown)
        if y.size != math.prod(shape):
            self._bad(f"{y.size} numbers for shape {shape}")
        if kind.kind != "f" and not np.isfinite(y).all():
            self._bad(f"missing numbers in {chosen['datatype']}")
        return y.astype(kind).reshape(count, -1)

    def _split(self, reply: Reply) -> tuple[bytes, bytes]:
        length = reply.headers.get(HEADER)
        if length is None:
            return reply.body, b""
        if not length.isdecimal() or int(length) > len(reply.body):
            self._bad(f"its JSON part is said to have {length[:20]} of {len(reply.body)} bytes")
        return reply.body[: int(length)], reply.body[int(length) :]

    def _chosen(self, outputs: list[dict[str, Any]], count: int) -> dict[str, Any]:
        """The tensor that holds the answers: the one named, the only one, or the only one of floating numbers."""
        if self.output is not None:
            fits = [t for t in outputs if t.get("name") == self.output]
        elif len(outputs) > 1:
            fits = [t for t in outputs if str(t.get("datatype")).startswith("FP")]
        else:
            fits = outputs
        if len(fits) != 1:
            names = ", ".join(f"{str(t.get('name'))[:40]} ({str(t.get('datatype'))[:10]})" for t in outputs[:8])
            self._bad(
                f"expected one output{f' {self.output!r}' if self.output else ''}, got {names or 'none'}; name it"
            )
        tensor, shape = fits[0], fits[0].get("shape")
        if not isinstance(tensor.get("datatype"), str) or tensor["datatype"] not in DATATYPES:
            self._bad(
                f"datatype {str(tensor.get('datatype'))[:40]}; only numbers are understood ({', '.join(DATATYPES)})"
            )
        if not isinstance(shape, list) or not all(type(d) is int and d >= 0 for d in shape) or not shape:
            self._bad(f"a shape that is none: {str(shape)[:60]}")
        if shape[0] != count or math.prod(shape) == 0:
            self._bad(f"shape {str(shape)[:60]} for {count} questions; expected one row per question")
        return tensor

    def _bad(self, what: str) -> NoReturn:
        raise SourceError(f"{self.shown} sent an answer that cannot be used: {what}")


def parse(text: bytes, name: str) -> Any:
    """JSON, or one clear error."""
    # Checked first: a parser that runs out of stack takes with it whatever the garbage collector finalises meanwhile.
    if _depth(text) > DEEPEST:
        raise SourceError(
            f"{name} sent an answer that cannot be used: JSON nested deeper than {DEEPEST} levels ({len(text):,} bytes)"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise SourceError(
            f"{name} sent an answer that cannot be used: no valid JSON, {len(text):,} bytes{_beginning(text)}"
        ) from None


def _beginning(text: bytes) -> str:
    """What an answer that is no JSON begins with: a page for people mostly tells what is the matter."""
    begun = for_a_line(" ".join(text[:400].decode("utf-8", "replace").split()), 80)
    return f", beginning with {begun!r}" if begun else ""


def _depth(text: bytes) -> int:
    """How deep lists and objects are nested, brackets within strings not counted."""
    marks = np.frombuffer(STRING.sub(b"", text), np.uint8) | 0x20  # "[" becomes "{", "]" becomes "}"
    marks = marks[(marks == ord("{")) | (marks == ord("}"))]
    return int(np.cumsum(np.where(marks == ord("{"), 1, -1)).max(initial=0))


def numbers(data: Any, name: str) -> np.ndarray:
    """Nested lists of numbers as an array; null, which many servers write for NaN, becomes NaN, or a row of it."""
    whole = next((item for item in data if isinstance(item, list)), None) if isinstance(data, list) else None
    if whole is not None:
        data = [np.full(np.shape(whole), np.nan).tolist() if item is None else item for item in data]
    try:
        y = np.asarray(data)
        if y.dtype.kind == "O" and all(v is None or type(v) in (int, float) for v in y.ravel()):
            y = y.astype(np.float64)
    except OverflowError:
        raise SourceError(f"{name} sent an answer that cannot be used: numbers beyond 1e308") from None
    except ValueError:
        raise SourceError(f"{name} sent an answer that cannot be used: its lists differ in length") from None
    if y.dtype.kind not in "fiub" or data is None:
        at, entry = _no_number(data, "")
        raise SourceError(
            f"{name} sent an answer that cannot be used: expected numbers, got {for_a_line(str(entry), 60)!r}"
            f"{f' at {at}' if at else ''}"
        )
    return y


def _no_number(data: Any, at: str) -> tuple[str, Any]:
    """Where the first entry is that is no number, as a JSON pointer, and what is there."""
    if not isinstance(data, list):
        return at, data
    for place, item in enumerate(data):
        if isinstance(item, list) or (item is not None and not isinstance(item, int | float)):
            found = _no_number(item, f"{at}/{place}")
            if found[0]:
                return found
    return "", data


def _places(outputs: list[dict[str, Any]], raw: bytes, name: str) -> dict[int, bytes]:
    """The bytes of each binary output, in the order in which they are listed."""
    places, start = {}, 0
    for tensor in outputs:
        parameters = tensor.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - start:
            raise SourceError(
                f"{name} sent an answer that cannot be used: a tensor of {str(size)[:20]} bytes is cut short"
            )
        places[id(tensor)] = raw[start : start + size]
        start += size
    return places


def _document(wire: Wire, url: str) -> dict[str, Any]:
    """A document about the server or the model; empty if the server has none."""
    reply = wire.get(url)
    found = parse(reply.body, wire.shown) if reply is not None else {}
    if not isinstance(found, dict):
        raise SourceError(f"{wire.shown}: its metadata is no JSON object")
    return found


def _shape(declared: Any, given: tuple[int, ...] | None, name: str) -> tuple[tuple[int, ...], int | None]:
    """Shape of one input, and how many a request must hold (None: any number)."""
    if not isinstance(declared, list) or not declared or not all(type(d) is int for d in declared):
        if given is None:
            raise BadInput(
                f"{name} does not tell the shape of its input; pass shape=784 (--shape 784), or what it speaks, if "
                "that is not the Open Inference Protocol: api= (--api), JsonEndpoint (--request, --answer)"
            )
        return given, None
    dims, rows = declared[1:], declared[0] if declared[0] > 0 else None
    if given is not None and _agree(declared, given) and not _agree(dims, given):
        # Some servers leave the number of questions out of the shape they declare.
        return given, None
    if given is None:
        if not dims or any(d <= 0 for d in dims):
            raise BadInput(f"{name} declares inputs of shape {declared}; pass shape= (--shape) for one of them")
        return tuple(dims), rows
    if not _agree(dims, given) and (any(d <= 0 for d in dims) or math.prod(dims) != math.prod(given)):
        raise BadInput(f"{name} declares inputs of shape {declared}, the first being their number; got shape={given}")
    return (given if _agree(dims, given) else tuple(dims)), rows


def _agree(dims: list[int], given: tuple[int, ...]) -> bool:
    return len(dims) == len(given) and all(d in (g, -1) for d, g in zip(dims, given, strict=True))
