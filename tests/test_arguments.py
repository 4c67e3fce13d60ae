"""A seed is as good as a generator everywhere, and what an argument must be is said in the caller's words."""

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


WRAPPED = [uv.LabelsOnly, uv.LogRatios, uv.Arctanh, uv.Affine, uv.Restricted]
ASKING = {
    "identify": lambda it: uv.identify(it, rng=0),
    "row_span": lambda it: uv.row_span(it, rng=0),
    "output_span": lambda it: uv.output_span(it, rng=0),
    "last_layer": lambda it: uv.last_layer(it, None, rng=0),
    "measure_noise": lambda it: uv.measure_noise(it, rng=0),
    "breakpoints": lambda it: uv.breakpoints(it, POINT, ROWS[:1], low=-1, high=1, rng=0),
    "gradient": lambda it: uv.gradient(it, POINT, rng=0),
    "jacobian": lambda it: uv.jacobian(it, POINT, rng=0),
    "hessian": lambda it: uv.hessian(it, POINT, rng=0),
    "report": lambda it: uv.report(it, rng=0),
    "RowSpan.check": lambda it: span().check(it, rng=0),
    "Rounded": lambda it: uv.Rounded(it, 3),
    "Stored": lambda it: uv.Stored(it, "never-written.sqlite"),
    **{each.__name__: each for each in WRAPPED},
}
KNOWN = {
    "preimage": lambda it: uv.preimage(it, POINT[0], 0),
    "linearise": lambda it: uv.linearise(it, POINT[0]),
    "activation_pattern": lambda it: uv.activation_pattern(it, POINT),
    "linear_region": lambda it: uv.linear_region(it, POINT[0]),
    "stability": lambda it: uv.stability(it, POINT),
    "save": lambda it: uv.save(it, "never-written.npz"),
    "large_change": lambda it: uv.large_change(it, POINT[0], 0),
    "extreme_singular_values": lambda it: uv.extreme_singular_values(it, POINT[0], 0, count=1, rng=0),
    "compare": lambda it: uv.compare(it, it),
}


@pytest.mark.parametrize("name", ASKING)
def test_a_model_without_a_ledger_is_told_how_to_get_one(name):
    with pytest.raises(uv.BadInput, match=r"expected an Oracle.*got function; as_oracle\("):
        ASKING[name](lambda x: x)


@pytest.mark.parametrize("name", KNOWN)
def test_a_model_whose_weights_are_hidden_is_told_how_to_read_them(name):
    with pytest.raises(uv.BadInput, match=r"expected a Network.*got function; read a file with load"):
        KNOWN[name](lambda x: x)


def test_a_method_may_be_named_and_a_single_width_stand_alone():
    named = uv.identify(oracle(), method="critical-points", widths=3, activation="ReLU", rng=1)
    given = uv.identify(oracle(), method=uv.CriticalPoints(), rng=1)
    np.testing.assert_array_equal(named.network.layers[0].weights, given.network.layers[0].weights)
    with pytest.raises(uv.BadInput, match="no method called 'relu'; known: saturation"):
        uv.identify(oracle(), method="relu", rng=1)
    with pytest.raises(uv.BadInput, match=r"expected a method.*got int; or one of these names: saturation"):
        uv.identify(oracle(), method=3, rng=1)


def test_outputs_that_are_not_there_are_refused():
    for ask in (uv.gradient, uv.hessian):
        with pytest.raises(uv.BadInput, match="output must be from 0 to 4; got 5"):
            ask(oracle(), POINT, rng=0, output=5)


TAKES_NUMBERS = {
    "a network": lambda x: NETWORK(x),
    "preimage": lambda x: uv.preimage(NETWORK, x[0]),
    "preimage, near": lambda x: uv.preimage(NETWORK, features=np.ones(3), near=x[0]),
    "preimage, within": lambda x: uv.preimage(NETWORK, features=np.ones(3), within=(x[0], 9)),
    "inputs_of": lambda x: uv.inputs_of(NETWORK, x[0, :5]),
    "lookalike": lambda x: uv.lookalike(NETWORK, POINT[0], POINT[0], within=(x[0], 9)),
    "linear_region": lambda x: uv.linear_region(NETWORK, x[0]),
    "stability": lambda x: uv.stability(NETWORK, x),
    "weights": lambda x: uv.Network.from_weights([(x, np.zeros(1))]),
    "an oracle": lambda x: oracle()(x),
    "within": lambda x: uv.as_oracle(NETWORK, within=(x[0], 9)),
    "grid": lambda x: uv.as_oracle(NETWORK, within=(-9, 9), grid=x[0, 0]),
    "Affine": lambda x: uv.Affine(oracle(), x[0], 1.0),
    "jacobian": lambda x: uv.jacobian(oracle(), x, rng=0),
    "breakpoints": lambda x: uv.breakpoints(oracle(), x, ROWS[:1], low=-1, high=1, rng=0),
    "row_span": lambda x: uv.row_span(oracle(), x=x, rng=0),
    "output_span": lambda x: uv.output_span(oracle(), x=x, rng=0),
    "identify": lambda x: uv.identify(oracle(), x=x, rng=0),
    "measure_noise": lambda x: uv.measure_noise(oracle(), x=x, rng=0),
    "obfuscate": lambda x: uv.obfuscate(span(), x, scale=1.0, rng=0),
    "RowSpan.distance": lambda x: span().distance(x),
    "report": lambda x: uv.report(oracle(), x, rng=0),
}


@pytest.mark.filterwarnings("error::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("name", TAKES_NUMBERS)
def test_what_numpy_would_drop_is_refused(name):
    dropped = [POINT + 0.5j, POINT.astype("m8[s]")]
    if name != "weights":
        dropped += [np.ma.masked_array(POINT, POINT > 0)]
    for x in dropped:
        with pytest.raises(uv.BadInput):
            TAKES_NUMBERS[name](x)
