"""How a stranger checks the findings without this library."""

from __future__ import annotations

import os
from pathlib import PurePath

from unveil.audit.section import Section
from unveil.audit.stage import Audit, Stage

_ONNX = """\
import numpy as np, onnxruntime

model = onnxruntime.InferenceSession({path!r})
entry = model.get_inputs()[0]
shape = [d if isinstance(d, int) else 1 for d in entry.shape]
kind = np.float64 if "double" in entry.type else np.float32

def ask(x):{normalise}
    return model.run(None, {{entry.name: x.reshape(shape).astype(kind)}})[0]
"""

_OTHER = """\
import numpy as np

def ask(x):{normalise}
    ...  # here: what {name!r} answers to x, {n} numbers
"""

_FREE = """
basis = np.load(STEM + ".basis.npz")["basis"]  # ({rank}, {n}), orthonormal rows
x = np.load(STEM + ".examples.npz")["inputs"][0].astype(float)

noise = np.random.default_rng(1).normal(size={n})
noise *= 10 * np.linalg.norm(x) / np.linalg.norm(noise)
hidden = noise - noise @ basis.T @ basis  # the part outside the basis

print("hidden noise changes answers by", np.abs(ask(x + hidden) - ask(x)).max())
print("noise as it came changes them by", np.abs(ask(x + noise) - ask(x)).max())
"""

_BOXED = """
basis = np.load(STEM + ".basis.npz")["basis"]  # ({rank}, {n}), orthonormal rows
examples = np.load(STEM + ".examples.npz")
x, hidden = examples["inputs"][0].astype(float), examples["boxed"][0].astype(float)

print("values from", hidden.min(), "to", hidden.max())
print("part of the noise in the span", np.linalg.norm((hidden - x) @ basis.T) / np.linalg.norm(hidden - x))
print("answers change by", np.abs(ask(hidden) - ask(x)).max())
"""


def _from_page(audit: Audit) -> str:
    if os.path.isabs(audit.path) or not os.path.exists(audit.path):
        return audit.path
    return os.path.relpath(audit.path, audit.folder)


_NORMALISE = """
    examples = np.load(STEM + ".examples.npz")
    x = (x - examples["mean"]) / examples["deviation"]"""


def _run(audit: Audit) -> Section | None:
    found = audit.findings.get("obfuscation")
    if not found:
        return None
    from unveil.audit.sections.hiding import normalisation

    span, oracle = audit.findings["span"], audit.oracle
    ask = _ONNX if PurePath(audit.path).suffix.lower() == ".onnx" else _OTHER
    text = ask + (_FREE if "free" in found else _BOXED)
    return Section(
        key="checking",
        title="How to check this",
        verdict="These lines repeat it without unveil. Run them in the folder of this page, next to its files.",
        body="{{ code(values.text) }}",
        values={
            "text": text.format(
                path=_from_page(audit),
                name=oracle.name,
                n=oracle.n,
                rank=span.rank,
                normalise=_NORMALISE if normalisation(oracle) else "",
            )
        },
    )


CHECKING = Stage(key="checking", title="Telling how to check it", run=_run)
