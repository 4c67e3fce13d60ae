"""Questions written in float32 for sources that take them so, and lent to models without a copy."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from unveil.blackbox.sources.torch import TorchSource


class Single:
    """A ReLU network in single precision that keeps what it was asked."""

    def __init__(self, takes_singles: bool, n: int = 60) -> None:
        rng = np.random.default_rng(11)
        self.layers = [rng.standard_normal(size).astype(np.float32) / np.sqrt(size[1]) for size in ((8, n), (2, 8))]
        self.name, self.shape, self.dtype, self.takes_singles = "single", (n,), np.dtype(np.float32), takes_singles
        self.asked: list[np.ndarray] = []

    def answer(self, x: np.ndarray) -> np.ndarray:
        self.asked.append(x.copy())
        hidden = x.astype(np.float32, copy=False) @ self.layers[0].T
        return np.maximum(hidden + np.float32(0.1), 0) @ self.layers[1].T

    def attempts(self) -> int:
        return 0

    def fingerprint(self) -> str:
        return "single"


@pytest.mark.parametrize("within", [None, (0, 1)])
def test_float32_rows_are_the_same_questions_and_get_the_same_span(within: tuple[int, int] | None) -> None:
    spans, sources = [], [Single(False), Single(True)]
    for source in sources:
        spans.append(uv.row_span(uv.as_oracle(source, within=within), rng=np.random.default_rng(3)))
    assert {str(x.dtype) for x in sources[0].asked} == {"float64"}
    assert sum(len(x) for x in sources[1].asked if x.dtype == np.float32) > spans[1].queries / 3
    assert all((a == b).all() for a, b in zip(*(source.asked for source in sources), strict=True))
    np.testing.assert_array_equal(spans[0].basis, spans[1].basis)
    assert spans[0].queries == spans[1].queries
    assert (spans[0].outcome, spans[0].accuracy) == (spans[1].outcome, spans[1].accuracy)


def test_float32_rows_go_to_no_source_that_may_hold_other_numbers() -> None:
    source = Single(True)
    assert uv.as_oracle(source).takes_singles
    assert not uv.as_oracle(source, within=(0, 1), grid=0.25).takes_singles
    source.input_bits = 11  # type: ignore[attr-defined]
    assert not uv.as_oracle(source).takes_singles
    source = Single(True)
    source.dtype = np.dtype(np.float64)
    assert not uv.as_oracle(source).takes_singles


def test_a_torch_module_that_writes_into_its_input_gets_copies() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(5, 2))
    source = TorchSource(module, (5,))
    x = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    source.answer(x[:10])
    before = x.copy()
    y = source.answer(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(y, module(torch.from_numpy(before)).detach().numpy())


def test_a_torch_module_that_writes_later_on_is_told_so() -> None:
    torch = pytest.importorskip("torch")

    class Late(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x):  # type: ignore[no-untyped-def]
            return x.clamp_(min=0).sum(1) if len(x) > 100 else x.sum(1)

    source = TorchSource(Late(), (5,))
    source.answer(-np.ones((10, 5), np.float32))
    with pytest.raises(uv.SourceError, match="wrote into its input"):
        source.answer(-np.ones((300, 5), np.float32))
