"""A model server that can be told to misbehave, and that remembers every question it was asked."""

from __future__ import annotations

import gzip
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

HEADER = "Inference-Header-Content-Length"
KINDS = {"FP64": "<f8", "FP32": "<f4"}


def model(x: np.ndarray) -> np.ndarray:
    """A small network whose answers to a question do not depend on the other questions of the batch."""
    rows = [np.array([np.sin(row).sum(), row @ np.arange(1.0, len(row) + 1), np.abs(row).max()]) for row in x]
    return np.array(rows).reshape(len(x), 3)


@dataclass
class Served:
    """What the server is told, and what it saw.

    Attributes:
        faults: What to do with the k-th request for answers; "" or a missing number is to answer well.
        seen: How often each question was read, by its bytes.
        answered: How often a complete, right answer to it was sent.
        headers: The headers of every request.
        allowed: Requests for answers beyond this number are read and then wait until it is raised.
    """

    url: str = ""
    n: int = 5
    datatype: str = "FP64"
    extensions: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    model: Callable[[np.ndarray], np.ndarray] = model
    faults: dict[int, str] = field(default_factory=dict)
    default_fault: str = ""
    delay: float = 0.0
    seen: Counter[bytes] = field(default_factory=Counter)
    answered: Counter[bytes] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: int = 0
    allowed: float = math.inf
    remember: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def questions(self) -> int:
        return sum(self.seen.values())

    def about(self) -> dict[str, Any]:
        shape = [-1, self.n]
        tensor = {"name": "x", "datatype": self.datatype, "shape": shape}
        return (
            {"name": "m", "platform": "", "inputs": [tensor], "outputs": []} if self.metadata is None else self.metadata
        )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served: Served

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.served.headers.append(dict(self.headers))
        if self.path.endswith("/v2"):
            self.send(200, {"name": "fake", "extensions": list(self.served.extensions)})
        elif "/models/m" in self.path:
            self.send(200, self.served.about())
        else:
            self.send(404, {"error": "no such model"})

    def do_POST(self) -> None:
        s = self.served
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = int(self.headers.get(HEADER, len(body)))
        message = json.loads(body[:head])
        if "inputs" in message:
            tensor = message["inputs"][0]
            kind = KINDS[tensor["datatype"]]
            raw = np.frombuffer(body[head:], kind) if head < len(body) else np.array(tensor["data"], kind)
        else:
            raw = np.array(message.get("instances", message.get("row")), dtype=float)
            kind = "<f8"
        x = raw.reshape(-1, s.n).astype(np.float64)
        with s.lock:
            fault = s.faults.get(s.requests, s.default_fault)
            s.requests += 1
            number = s.requests
            if s.remember:
                s.headers.append(dict(self.headers))
                s.seen.update(row.tobytes() for row in x)
        time.sleep(s.delay)
        while number > s.allowed:
            time.sleep(0.005)
        y = s.model(x).astype(kind)
        reply: dict[str, Any] = {"model_name": "m", "id": message.get("id")}
        tensor = {"name": "y", "datatype": "FP32" if kind == "<f4" else "FP64", "shape": list(y.shape)}
        extra: dict[str, str] = {}
        payload = b""
        if "inputs" not in message:
            reply = {"predictions": y.tolist(), "items": [{"scores": row.tolist()} for row in y]}
            tensor["data"] = []
        elif head < len(body):
            tensor["parameters"] = {"binary_data_size": y.nbytes}
            payload = y.tobytes()
            reply["outputs"] = [tensor]
        else:
            tensor["data"] = y.ravel().tolist()
            reply["outputs"] = [tensor]
        if fault == "late":
            time.sleep(0.3)
        elif fault:
            self.misbehave(fault, reply, tensor, y)
            return
        text = json.dumps(reply).encode()
        if payload:
            extra = {HEADER: str(len(text)), "Content-Type": "application/octet-stream"}
        self.send(200, text + payload, extra)
        with s.lock:
            if s.remember:
                s.answered.update(row.tobytes() for row in x)

    def misbehave(self, fault: str, reply: dict[str, Any], tensor: dict[str, Any], y: np.ndarray) -> None:
        text = json.dumps(reply).encode()
        if fault.isdecimal():
            self.send(int(fault), {"error": f"trouble \x1b[31m<b>{self.headers.get('Authorization', '')}"})
        elif fault.startswith("wait "):
            self.send(503, b"", {"Retry-After": fault[5:]})
        elif fault.startswith("redirect "):
            code, target = fault.split()[1:]
            self.send(int(code), b"", {"Location": target})
        elif fault == "slow":
            time.sleep(10)
            self.send(200, text)
        elif fault == "drip":
            self.start(200, {"Content-Length": str(len(text))})
            for byte in text:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        elif fault == "cut":
            self.start(200, {"Content-Length": str(len(text))})
            self.wfile.write(text[: len(text) // 2])
            self.close_connection = True
        elif fault == "vanish":
            self.close_connection = True
        elif fault == "truncated":
            self.send(200, text[: len(text) // 2])
        elif fault == "empty":
            self.send(200, b"")
        elif fault == "html":
            self.send(200, b"<html><script>alert(1)</script></html>", {"Content-Type": "text/html"})
        elif fault == "deep":
            self.send(200, b"[" * 200_000)
        elif fault == "long":
            self.send(200, text + b" " * 3_000_000)
        elif fault == "bomb":
            self.send(200, gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"})
        elif fault == "badgzip":
            self.send(200, b"this is no gzip", {"Content-Encoding": "gzip"})
        elif fault == "badhead":
            self.send(200, text, {HEADER: "99999999"})
        else:
            y = y.astype(np.float64)
            changes = {
                "nan": {"data": [float("nan")] * y.size},
                "null": {"data": [None] * y.size},
                "infinite": {"data": [1e999] * y.size},
                "strings": {"data": ["1"] * y.size},
                "ragged": {"data": [[1.0], [2.0, 3.0]]},
                "missing": {"data": None},
                "bigint": {"data": [10**400] * y.size},
                "flat": {"shape": [y.size]},
                "fewer": {"shape": [len(y) - 1, 3], "data": y[1:].ravel().tolist()},
                "more": {"shape": [len(y) + 1, 3], "data": np.vstack([y, y[:1]]).ravel().tolist()},
                "narrow": {"shape": [len(y), 2], "data": y[:, :2].ravel().tolist()},
                "negative": {"shape": [-len(y), -3]},
                "noshape": {"shape": "2"},
                "bytes": {"datatype": "BYTES"},
                "unhashable": {"datatype": ["FP64"]},
                "binary?": {"parameters": {"binary_data_size": 10**9}},
            }
            tensor.update(changes.get(fault, {}))
            if fault == "order":
                reply["id"] = "another"
            elif fault == "nothing":
                reply = {"outputs": []}
            elif fault == "list":
                reply = [1, 2]  # type: ignore[assignment]
            elif fault == "two":
                reply["outputs"] = [tensor, {**tensor, "name": "z"}]
            elif fault not in changes:
                raise AssertionError(fault)
            self.send(200, reply)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.start(status, {"Content-Type": "application/json", **(headers or {}), "Content-Length": str(len(body))})
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *args: object) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def serve(**told: Any) -> Iterator[Served]:
    """Run the server on a free port of this machine."""
    served = Served(**told)
    server = Server(("127.0.0.1", 0), type("Told", (Handler,), {"served": served}))
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v2/models/m"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
