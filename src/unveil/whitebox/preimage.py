"""preimage: of which kind the set of inputs with the same features is, or whether any input has given ones."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import overload

import numpy as np
from jaxtyping import Float

from unveil.outcome import BadInput
from unveil.whitebox.inversion import Inversion, from_features
from unveil.whitebox.network import Network, must_be_known
from unveil.whitebox.same_features import Preimage, preimages


@overload
def preimage(
    network: Network, x: Float[np.ndarray, " n"], layer: int = 0, *, executor: Executor | None = None
) -> Preimage: ...
@overload
def preimage(  # type: ignore[overload-cannot-match]  # to mypy every array is the same
    network: Network, x: Float[np.ndarray, "N n"], layer: int = 0, *, executor: Executor | None = None
) -> tuple[Preimage, ...]: ...
@overload
def preimage(
    network: Network,
    x: None = None,
    layer: int = 0,
    *,
    features: Float[np.ndarray, " k"],
    within: tuple[float | np.ndarray, float | np.ndarray] | None = None,
    near: Float[np.ndarray, " n"] | None = None,
    norm: int = 2,
    tolerance: float | None = None,
) -> Inversion: ...
def preimage(  # two questions of one name: what has the features of x, and what has these  # noqa: PLR0913 - options of a public verb
    network: Network,
    x: np.ndarray | None = None,
    layer: int = 0,
    *,
    executor: Executor | None = None,
    features: np.ndarray | None = None,
    within: tuple[float | np.ndarray, float | np.ndarray] | None = None,
    near: np.ndarray | None = None,
    norm: int = 2,
    tolerance: float | None = None,
) -> Preimage | tuple[Preimage, ...] | Inversion:
    r"""Say of which kind the set of inputs with the same features is, and prove it.

    For a ReLU layer the inputs with the features of x solve `A_P z = A_P x` (positive neurons) and
    `A_Z z + b_Z <= 0` (silent ones). Point, compact and infinite are told apart by Theorem 4, without a tolerance: by
    the existence of $w_Z > 0$ with $A^\top w = 0$. An injective activation leaves only the rank to ask for.

    Args:
        network: Its layers' weights are used; a sparse layer is written out as a dense matrix.
        x: One input of the *network*, or many.
        layer: The layer whose features are to stay, 0 for the first; the preimage lies in that layer's own input
            space. What the layers before can produce is not taken into account.
        executor: Where to work on batches of 256 inputs; same answers whatever the workers.
        features: Instead of x: what comes out of the layer, (m,), whether or not any input is known to give it. With a
            softmax on top, its logits up to a shift. The rest of the arguments goes with it.
        within: The box for one such input of the layer; by default all of R^n.
        near: (n,), what this input is to be nearest to; by default it keeps away from the breakpoints.
        norm: 1 or 2, for `near`.
        tolerance: By how much each feature may be off; by default 1e-6 of the largest, or of 1.

    Returns:
        One `Preimage` per row of x; a single one if x is (n,). An `Inversion` for features: whether any input gives
        them, with a proof if not, one that does, and the kind of all.

    Raises:
        BadInput: Wrong shape, no such layer, NaN weights or inputs, no inputs, or an activation that is neither
            injective nor piecewise linear with flat ends (ReLU, clip).

    Source: arXiv:1806.09730, Theorem 4, Corollary 6; Theorem 13 for points pinned by tight rows.

    Examples:
        >>> network = uv.Network.from_weights([(np.array([[1.0, 0, 1], [0, 1, -1]]), np.zeros(2))])
        >>> uv.preimage(network, np.array([1.0, 2.0, 0.5])).dimension  # two equations on three inputs
        1
    """
    must_be_known(network)
    if (x is None) == (features is None):
        raise BadInput("pass either x, whose features to keep, or features=")
    if features is not None:
        return from_features(network, features, layer, within, near, norm, tolerance)
    if within is not None or near is not None or tolerance is not None:
        raise BadInput("within=, near= and tolerance= go with features=; of an x, ask `.extent(within)` or lookalike")
    assert x is not None
    single = network.is_one(x)
    found = tuple(preimages(network, x, layer, executor=executor))
    return found[0] if single else found
