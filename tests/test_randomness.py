"""A seed is as good as a generator everywhere, and anything else is refused in the caller's words."""

import inspect

import numpy as np
import pytest

import unveil as uv
from unveil import testing
from unveil.whitebox.assumptions import assumptions

ROWS = np.random.default_rng(3).standard_normal((3, 6))
NETWORK = uv.Network.from_weights([(ROWS, np.full(3, 0.1)), (np.eye(5)[:, :3] + ROWS[:, :3].sum(0), np.zeros(5))])


def oracle():
    return uv.as_oracle(NETWORK.logits, shape=6)


def span():
    return uv.row_span(oracle(), rng=5)


POINT = np.full((1, 6), 0.3)
ASKED = {
    "row_span": lambda rng: uv.row_span(oracle(), rng=rng).basis,
    "RowSpan.check": lambda rng: span().check(oracle(), rng=rng),
    "identify": lambda rng: uv.identify(oracle(), rng=rng).network.layers[0].weights,
    "Identification.check": lambda rng: uv.identify(oracle(), rng=5).check(oracle(), rng=rng),
    "output_span": lambda rng: uv.output_span(oracle(), rng=rng).basis,
    "OutputSpan.check": lambda rng: uv.output_span(oracle(), rng=5).check(oracle(), rng=rng),
    "measure_noise": lambda rng: uv.measure_noise(oracle(), rng=rng).level,
    "breakpoints": lambda rng: uv.breakpoints(oracle(), POINT, ROWS[:1], low=-9, high=9, rng=rng)[0].t,
    "jacobian": lambda rng: uv.jacobian(oracle(), POINT, rng=rng),
    "gradient": lambda rng: uv.gradient(oracle(), POINT, rng=rng),
    "hessian": lambda rng: uv.hessian(oracle(), POINT, rng=rng),
    "obfuscate": lambda rng: uv.obfuscate(span(), POINT, scale=2.0, rng=rng).inputs,
    "active_subspace": lambda rng: uv.active_subspace(POINT + ROWS, np.arange(3.0), rng=rng).eigenvalues,
    "Oracle.sample": lambda rng: oracle().sample(4, rng),
    "Oracle.sample_answered": lambda rng: oracle().sample_answered(4, rng)[1],
    "CriticalPoints": lambda rng: uv.CriticalPoints()(oracle(), rng=rng).network.layers[0].weights,
    "report": lambda rng: uv.report(oracle(), rng=rng).all_figures()["span"],
    "compare": lambda rng: uv.compare(NETWORK, NETWORK, rng=rng).function_error,
    "assumptions": lambda rng: assumptions(NETWORK, rng=rng).zero_share,
    "known_model": lambda rng: testing.known_model([4, 3, 1], rng=rng).weights[0][0],
}


@pytest.mark.parametrize("name", ASKED)
def test_a_seed_gives_what_its_generator_gives(name):
    ask = ASKED[name]
    np.testing.assert_equal(ask(7), ask(np.random.default_rng(7)))
    with pytest.raises(uv.BadInput, match=r"rng must be a numpy Generator or a seed.*not 'seven'"):
        ask("seven")


@pytest.mark.parametrize("rng", [None, -1, 1.5])
def test_what_gives_no_reproducible_generator_is_refused(rng):
    with pytest.raises(uv.BadInput, match="rng must be a numpy Generator or a seed"):
        uv.row_span(oracle(), rng=rng)


def test_every_public_function_that_draws_takes_a_seed():
    told = []
    for name in dir(uv):
        thing = getattr(uv, name)
        methods = inspect.getmembers(thing, inspect.isfunction) if inspect.isclass(thing) else [(name, thing)]
        for method, function in methods:
            if callable(function) and (method == "__call__" or not method.startswith("_")):
                given = inspect.signature(function).parameters.get("rng")
                if given is not None and "Randomness" not in str(given.annotation):
                    told.append(f"{name}.{method}")
    assert told == []
