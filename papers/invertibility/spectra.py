"""Singular values of a trained network at test inputs, kept in the cache: Figures 6, 7 and 10 share them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from papers.invertibility import networks
from unveil.whitebox.stability import LayerStability, Spectrum, Stability, stability

TOGETHER = 10


@dataclass(frozen=True)
class Spectra:
    """What `stability` found at the first `samples` test inputs of a network."""

    name: str
    samples: int
    found: Stability


def spectra(name: str, samples: int) -> Spectra:
    """Read from the cache, or computed: about a minute per sample for wide_cifar on one core."""
    network = networks.trained(name)
    weights = (networks.folder() / f"{name}.npz").read_bytes()
    # Other weights, other values.
    path = networks.folder() / f"spectra_{name}_{hashlib.sha256(weights).hexdigest()[:12]}.npz"
    known = 0
    if path.is_file():
        with np.load(path) as arrays:
            kept = dict(arrays)
            known = len(kept["active_0"])
    if known < samples:
        x = networks.test_images(name, samples)
        # A few at a time, and kept after each time, so that an interrupted run loses little.
        for i in range(known, samples, TOGETHER):
            some = _arrays(stability(network, x[i : i + TOGETHER], lemma_9=False))
            kept = some if i == 0 else {k: np.concatenate([kept[k], v]) if v.ndim else v for k, v in some.items()}
            np.savez_compressed(path, **kept)
            print(f"{name}: {min(i + TOGETHER, samples)} of {samples} samples", flush=True)
    return Spectra(name, samples, _stability({k: v[:samples] if v.ndim else v for k, v in kept.items()}))


def _arrays(found: Stability) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {"inputs": np.array(found.inputs), "depth": np.array(len(found.layers))}
    for i, each in enumerate(found.layers):
        arrays |= {
            f"before_{i}": each.before.values,
            f"before_floor_{i}": each.before.floor,
            f"after_{i}": each.after.values,
            f"after_floor_{i}": each.after.floor,
            f"active_{i}": each.active,
            f"neurons_{i}": np.array(each.neurons),
        }
    return arrays


def _stability(arrays: dict[str, np.ndarray]) -> Stability:
    layers = [
        LayerStability(
            before=Spectrum(arrays[f"before_{i}"], arrays[f"before_floor_{i}"]),
            after=Spectrum(arrays[f"after_{i}"], arrays[f"after_floor_{i}"]),
            neurons=int(arrays[f"neurons_{i}"]),
            active=arrays[f"active_{i}"],
            contraction=True,
        )
        for i in range(int(arrays["depth"]))
    ]
    return Stability(tuple(layers), int(arrays["inputs"]))
