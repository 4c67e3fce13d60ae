"""identify: looks at the answers and picks the method that fits them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, examples, generator, must_be
from unveil.blackbox.noise_model import answers_noise
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.rounding import intact
from unveil.blackbox.row_span import in_own_units
from unveil.blackbox.span_search.probe import FINE_ROUNDING
from unveil.blackbox.wrappers import Restricted
from unveil.identification.along_few import along_few, settled_in_units
from unveil.identification.box_units import in_shown_units, in_units, of_inputs
from unveil.identification.convolution.shared_kernels import SharedKernels
from unveil.identification.detect import piecewise_linear
from unveil.identification.from_labels.hard_labels import HardLabels
from unveil.identification.method import Identification, Method
from unveil.identification.methods import METHODS, method_named
from unveil.identification.output_activation import behind_outputs, with_outputs
from unveil.identification.picture import Picture
from unveil.identification.piecewise_linear.critical_points import CriticalPoints
from unveil.identification.piecewise_linear.error_limits import few_digits
from unveil.identification.reading_share import WORTH_A_FIT, held_back, reading_allowance
from unveil.identification.smooth.entangled_weights import EntangledWeights
from unveil.identification.smooth.frequencies import Frequencies, looks_periodic
from unveil.identification.smooth.hyperplane_circles import saturation_radius
from unveil.identification.smooth.one_hidden_layer import OneHiddenLayer
from unveil.identification.smooth.peeling import Peeling
from unveil.identification.smooth.rectifiers import Rectifiers, looks_rectified
from unveil.identification.smooth.saturation import Saturation
from unveil.identification.surrogate.fitting import MEASURED_REMARK
from unveil.identification.surrogate.surrogate import Surrogate
from unveil.outcome import BadInput, BudgetExceeded, MissingAnswers, Outcome, Stopped, UnveilError
from unveil.whitebox.activation import activation as activation_named
from unveil.whitebox.network import Network

# Numbers multiplied for the copy of a smooth network, whose activations cost more than these: about a minute.
SMOOTH_COPY_WORK = 1e12
EQUALITY_INPUTS, EQUAL = 20, 4  # inputs whose answers are looked at for being equal, within so many roundings
ANSWERED_SIZE = 4.0  # size of inputs that a network is read among where those further out have no answer


def identify(
    oracle: Oracle,
    method: Method | str | None = None,
    *,
    rng: Randomness,
    activation: str | tuple[str, ...] | None = None,
    widths: tuple[int, ...] | None = None,
    x: Float[np.ndarray, "N n"] | None = None,
) -> Identification:
    """Find a network by asking.

    Without `method=`, looks first: answers that are straight between breakpoints are a piecewise-linear network's
    (whose first layer is looked at for a convolution where inputs are pictures); answers that come to rest far out are
    a sigmoidal one's; answers that grow in straight pieces far out are one of smooth rectifiers; answers that vary far
    out as near by are one of sines; what remains is smooth. A method that fails its own check is followed by the next
    that could work, and the best result is returned, with its outcome. What cannot be read is fitted
    (`Surrogate`): `approximate`, with the distribution of its errors in `stats["surrogate"]`.

    Args:
        oracle: Answers values, or labels: from these a network with one hidden layer of ReLU, tanh or sigmoid is read.
        method: Which published idea to use, with its tolerances, or its name as on the command line; by default picked
            by looking.
        rng: A generator, or a seed. Draws all points.
        activation: Of the hidden layers, one name or one per hidden layer; None: found among the known ones.
        widths: Neurons of the hidden layers, first to last; None: found. A piecewise-linear network's are read off the
            answers all the same, and `why` says where they differ.
        x: Inputs of the model's use: of an oracle of labels, to start from besides random ones, e.g. some of each
            class; where a network has to be fitted (`Surrogate`), to ask about and to tell its errors for. From ten on
            they also tell where inputs lie and in which units, where that is far from 0 and 1 and there is no box.

    Returns:
        The network, how it ended, the largest error on fresh points, and what was chosen and why.

    Raises:
        BadInput: The activation is not known, or no method reads it from labels.

    Queries: at most 2,000 to look, then those of the method (of `CriticalPoints` without a budget `reading_allowance`
        at most), then 4 to see whether the model is still the same, and 20 where no neuron was found.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> layers = [(rng.standard_normal((3, 4)), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))]
        >>> truth = uv.Network.from_weights(layers)
        >>> found = uv.identify(uv.as_oracle(truth.logits, shape=4), rng=rng)
        >>> found.outcome.name, found.network.widths
        ('complete', (3, 1))
        >>> uv.compare(found.network, truth).missing
        0
    """
    must_be_asked(oracle)
    rng, x = generator(rng), examples(x, oracle.n)
    names = () if activation is None else (activation,) if isinstance(activation, str) else tuple(activation)
    names = tuple(activation_named(name).name for name in names)
    widths = (widths,) if isinstance(widths, int) else widths
    if widths is not None and (len(widths) == 0 or min(widths) < 1):
        raise BadInput(f"widths must be positive numbers of neurons, one per hidden layer, e.g. (20, 4); got {widths}")
    if isinstance(method, str):
        method = method_named(method, names or None, widths)
    if method is not None:
        must_be(method, Method, "a method, such as CriticalPoints()", f"or one of these names: {', '.join(METHODS)}")
    start = oracle.ledger.asked
    read = partial(_identified, method=method, rng=rng, names=names, widths=widths)
    unit = in_own_units(oracle, x) if method is None else None
    if unit is None:
        found = _where_defined(oracle, x, read)
        if x is not None or oracle.answers == "labels":
            return found
        return in_shown_units(found, oracle, read, settled_in_units, rng)
    found = of_inputs(identify(unit, rng=rng, activation=activation, widths=widths, x=in_units(x, unit)), unit)
    if found.outcome is not Outcome.check_failed or oracle.within is not None:
        return found
    # Where answers have no digits among the examples, they may have some where inputs are 0 and 1.
    plain = read(oracle, x=x)
    better = plain if plain.outcome is Outcome.complete else found
    return dataclasses.replace(better, queries=oracle.ledger.asked - start)


def _where_defined(
    oracle: Oracle, x: Float[np.ndarray, "N n"] | None, read: Callable[..., Identification]
) -> Identification:
    """What `read(oracle, x=x)` finds; where inputs far out have no answer, again among inputs of usual size, which do.
    Raises MissingAnswers: inputs of usual size have none, or the domain is bounded. Queries: see `identify`."""
    start = oracle.ledger.asked
    try:
        return read(oracle, x=x)
    except MissingAnswers as error:
        if oracle.within is not None or oracle.grid is not None:
            raise
        said = f"{error}. What follows was asked within that: inputs from -{ANSWERED_SIZE:g} to {ANSWERED_SIZE:g}."
    found = read(Restricted(oracle, within=(-ANSWERED_SIZE, ANSWERED_SIZE)), x=None)
    return dataclasses.replace(found, queries=oracle.ledger.asked - start, why=(said, *found.why))


def _identified(
    oracle: Oracle,
    method: Method | None,
    rng: np.random.Generator,
    names: tuple[str, ...],
    widths: tuple[int, ...] | None,
    x: Float[np.ndarray, "N n"] | None,
) -> Identification:
    """`identify` in the units of the questions."""
    start = oracle.ledger.asked
    if method is not None:
        return _concluded(_told(_tried(method, oracle, rng), oracle), oracle, start, widths)
    if oracle.answers == "labels":
        if len(set(names)) > 1:
            raise BadInput(f"from labels a network with one hidden layer can be read; got activation {names}")
        labels = HardLabels(x, activation=names[0] if names else None, widths=widths)
        return _concluded(_tried(labels, oracle, rng), oracle, start, widths)
    try:
        straight = activation_named(names[0]).piecewise_linear if names else piecewise_linear(oracle, rng)
        behind = None if straight else behind_outputs(oracle, rng)
        methods, why = ([], []) if behind is not None else _candidates(oracle, names, widths, straight, rng)
    except BudgetExceeded:
        said = "The budget ended while answers were looked at to choose a method."
        return Identification(None, Outcome.budget_ended, oracle.ledger.asked - start, np.inf, "none", (said,))
    if behind is not None:
        undone, name = behind
        found = _identified(undone, method, rng, names, widths, x)
        return with_outputs(found, name, oracle.ledger.asked - start)
    ledger, budget = oracle.ledger, oracle.ledger.budget
    if not straight and budget is not None:
        ledger.budget = budget - held_back(oracle)  # by all methods for smooth networks together
    try:
        best = _best_of(methods, oracle, rng, why)
    finally:
        ledger.budget = budget
    smooth = None if straight else _nearest_activation(best, names)
    unread = smooth is not None and best.outcome in (Outcome.check_failed, Outcome.budget_ended)
    if best.kernels is None and (unread or best.method == "critical points"):
        best = _with_a_fit(best, oracle, rng, x, smooth)
    return _concluded(_told(dataclasses.replace(best, why=(*why, *best.why)), oracle), oracle, start, widths)


def _best_of(methods: list[Method], oracle: Oracle, rng: np.random.Generator, why: list[str]) -> Identification:
    """What came nearest, of methods tried one after the other until one need not be followed; `why` tells the rest."""
    best: Identification | None = None
    for each in methods:
        found = _read(each, oracle, rng) if isinstance(each, CriticalPoints) else _tried(each, oracle, rng)
        if best is None or found.residual < best.residual or best.network is None:
            best = found
        # Who has the kernels of a convolution would pay for each of its thousands of neurons to go on.
        ended = (Outcome.complete, Outcome.budget_ended, Outcome.answers_in_steps)
        if found.outcome in ended or found.kernels is not None:
            break
        why.append(f"{found.method} ended with {found.error_told}")
    assert best is not None
    return best


def _read(method: CriticalPoints, oracle: Oracle, rng: np.random.Generator) -> Identification:
    """A piecewise-linear network along few directions of its inputs first where that pays, or along all at once."""
    found = along_few(
        oracle,
        # Sides of more neurons than there are directions would not be told, and each is one more weight behind.
        lambda narrow: _leaving_a_fit(dataclasses.replace(method, most_neurons=narrow.n), narrow, rng),
        lambda few, narrow: _with_a_fit(few, narrow, rng, None, None),
        rng,
    )
    return _leaving_a_fit(method, oracle, rng) if found is None else found


def _nearest_activation(best: Identification, names: tuple[str, ...]) -> str | None:
    """The smooth activation that is given or came nearest; None where that is piecewise linear."""
    name = names[0] if names else "tanh" if best.network is None else best.network.layers[0].activation.name
    return None if activation_named(name).piecewise_linear else name


def _with_a_fit(
    best: Identification,
    oracle: Oracle,
    rng: np.random.Generator,
    x: Float[np.ndarray, "N n"] | None,
    smooth: str | None,
) -> Identification:
    """What was read, and a fit, of a smooth activation or else in pieces, where that is not all and there is budget."""
    worth = oracle.ledger.left >= WORTH_A_FIT
    # Of answers with few digits a fit to many tells what each of them hides.
    few = best.outcome is Outcome.approximate and few_digits(float(best.stats.get("relative_rounding", 0.0)))
    if best.outcome is Outcome.check_failed or (worth and (few or best.outcome is Outcome.budget_ended)):
        return _fitted(best, oracle, rng, x, smooth)
    return best


def _concluded(found: Identification, oracle: Oracle, start: int, widths: tuple[int, ...] | None) -> Identification:
    """With all that was asked since `start`; nothing holds that was read from a model which answers otherwise now.

    Where `widths` were given and others found, it says so: a reading goes by the answers. Queries: `4`, those of
    `Oracle.unchanged`, and those of `_of_constant`.
    """
    before = oracle.ledger.asked
    changed = oracle.unchanged() is False
    stats = dict(found.stats)
    if "stages" in stats:
        stats["stages"] = {**stats["stages"], "known questions": oracle.ledger.asked - before}
    if not changed and found.outcome is Outcome.complete and found.network:
        found = dataclasses.replace(found, outcome=_of_constant(found.network, oracle))
    why = found.why
    if widths is not None and found.network is not None and found.network.widths[:-1] != widths:
        read, given = (", ".join(map(str, each)) or "none" for each in (found.network.widths[:-1], widths))
        why += (f"Hidden neurons were given as {given}; those found are {read}.",)
    found = dataclasses.replace(found, queries=oracle.ledger.asked - start, why=why, stats=stats)
    if not changed:
        return found
    text = "Questions asked at first were asked again at the end and got other answers."
    return Identification(None, Outcome.model_changed, found.queries, np.inf, found.method, (*found.why, text))


def _of_constant(network: Network, oracle: Oracle) -> Outcome:
    """`complete`, or what it means that a network has no neuron because answers are the same at all usual inputs: there
    is none to find, or noise and coarse digits would hide it. Queries: `EQUALITY_INPUTS` where no neuron was found."""
    if oracle.answers == "labels" or len(network.layers) > 1 or oracle.ledger.left < EQUALITY_INPUTS:
        return Outcome.complete
    y = oracle(oracle.sample(EQUALITY_INPUTS, np.random.default_rng(0)))
    if (np.ptp(y, axis=0) > EQUAL * oracle.resolution * np.abs(y).max(axis=0)).any():
        return Outcome.complete
    hidden = oracle.noise > 0 or (oracle.resolution > FINE_ROUNDING and y.any()) or not intact(y, oracle.widest).all()
    return Outcome.not_resolved if hidden else Outcome.nothing_to_find


def _fitted(
    best: Identification,
    oracle: Oracle,
    rng: np.random.Generator,
    x: Float[np.ndarray, "N n"] | None,
    smooth: str | None,
) -> Identification:
    """What was read, and a network fitted from there on, whose error is known."""
    surrogate = Surrogate.behind(best, x=x)
    if smooth is not None:
        surrogate = dataclasses.replace(surrogate, activation=smooth, work=SMOOTH_COPY_WORK)
    copy = _tried(surrogate, oracle, rng)
    stats = {**best.stats, "surrogate": copy.stats}
    fitted = {name: value for name, value in stats.items() if name != "errors"}  # these are those of what was read
    why = (*best.why, *copy.why)
    if best.outcome is Outcome.check_failed and copy.outcome is Outcome.budget_ended:
        best = dataclasses.replace(best, outcome=copy.outcome)  # more questions might have fitted it
    # What was read of a smooth network when the budget ended is no beginning of a fit, which may end further off.
    kept = copy.outcome is not Outcome.approximate or (smooth is not None and best.outcome is Outcome.budget_ended)
    further = kept and copy.residual > best.residual
    if copy.network is None or further:
        return dataclasses.replace(best, why=why, stats=stats)
    if best.outcome is Outcome.budget_ended and copy.outcome is not Outcome.approximate:  # more might read it
        return dataclasses.replace(best, network=copy.network, residual=copy.residual, why=why, stats=fitted)
    outcome, error = copy.outcome, copy.residual
    if copy.outcome is Outcome.approximate and copy.stats.get("all_needed") and smooth is None:
        # Nothing in it is doubtful but whether it is right everywhere: that is told by the check of what is read.
        try:
            judged, seen, told = CriticalPoints().judge(copy.network, oracle, rng=rng)
        except BudgetExceeded:
            judged, told = Outcome.budget_ended, ""
        if judged is Outcome.complete:
            outcome, error = judged, seen.residual
            told = "It passed the check of a network that is read, neuron by neuron."
            why = tuple(text.removesuffix(f" {MEASURED_REMARK}") for text in why)
        why = (*why, told) if told else why
    if best.outcome is Outcome.approximate and outcome is not Outcome.complete:
        return dataclasses.replace(best, stats=stats)  # what was read is as good
    return dataclasses.replace(best, network=copy.network, outcome=outcome, residual=error, why=why, stats=fitted)


def _leaving_a_fit(method: Method, oracle: Oracle, rng: np.random.Generator) -> Identification:
    """What a method finds with all but a part of the budget, or with `reading_allowance` where there is none."""
    ledger, budget, held = oracle.ledger, oracle.ledger.budget, held_back(oracle)
    if not held:
        return _tried(method, oracle, rng)
    ledger.budget = ledger.asked + reading_allowance(oracle) if budget is None else budget - held
    try:
        found = _tried(method, oracle, rng)
    finally:
        ledger.budget = budget
    if found.outcome is not Outcome.budget_ended:
        return found
    text = f"The reading was stopped: {ledger.stopped}."
    if not ledger.stopped:
        kept = "No more is asked for a reading" if budget is None else f"{held:,.0f} questions were kept back for a fit"
        text = f"{kept}; a larger budget= may read on."
    return dataclasses.replace(found, why=(*found.why, text))


def _told(found: Identification, oracle: Oracle) -> Identification:
    """With what the network maps to, where the oracle undid a softmax."""
    if oracle.reference is None or found.network is None:
        return found
    text = (
        f"The answers were {oracle.m + 1} probabilities: the network maps to {oracle.m} log-ratios to class "
        f"{oracle.reference}; classifier() gives all {oracle.m + 1} outputs."
    )
    return dataclasses.replace(found, reference=oracle.reference, why=(*found.why, text))


def _tried(method: Method, oracle: Oracle, rng: np.random.Generator) -> Identification:
    """What a method finds; one that breaks down on answers it was not made for has found nothing, and says so."""
    start = oracle.ledger.asked
    try:
        # Trials that are far off overflow: they are judged by what they explain, and a warning would tell nobody of it.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return method(oracle, rng=rng)
    except Stopped:
        why = "It was stopped before it had anything to tell."
        return Identification(None, Outcome.budget_ended, oracle.ledger.asked - start, np.inf, "none", (why,))
    except (UnveilError, ArithmeticError, IndexError, ValueError) as error:  # LinAlgError is a ValueError
        # What a caller gave is refused before anything is asked; a bad argument afterwards is the method's own.
        if isinstance(error, UnveilError) and not (isinstance(error, BadInput) and oracle.ledger.asked > start):
            raise
        name = type(method).__name__
        why = f"{name} broke down on these answers ({type(error).__name__}: {error})"
        return Identification(None, Outcome.check_failed, oracle.ledger.asked - start, np.inf, name, (why,))


def _candidates(
    oracle: Oracle, names: tuple[str, ...], widths: tuple[int, ...] | None, straight: bool, rng: np.random.Generator
) -> tuple[list[Method], list[str]]:
    """Methods that could work, the likeliest first, and why; `straight`: answers are so between breakpoints."""
    given = names or None
    if straight:
        why = ["answers are straight between breakpoints: a piecewise-linear network"]
        if names:
            why = [f"the activation is given: {names[0]} is piecewise linear"]
        # Of pictures the kernels of a convolution are looked for first.
        return [*([] if Picture.of(oracle.shape) is None else [SharedKernels()]), CriticalPoints()], why
    noise = answers_noise(oracle, rng)
    methods: list[Method] = []
    periodic = False
    if saturation_radius(oracle, rng, noise) is not None:
        if widths is None or len(widths) <= 2:
            methods.append(Saturation(given, widths))
        if widths is None or len(widths) >= 2:
            methods.append(Peeling(given, widths))
        why = ["answers come to rest far out: a sigmoidal first layer"]
    elif looks_rectified(oracle, rng):
        if widths is None or len(widths) <= 2:
            methods.append(Rectifiers(given, widths))
        if widths is None or len(widths) >= 3:
            methods.append(Peeling(given, widths))
        why = ["answers grow with the distance, piece by piece: smooth rectifiers"]
    elif periodic := names[:1] in ((), ("sin",)) and looks_periodic(oracle, rng):
        why = ["answers vary far out as they do near by: sines"]
    else:
        bounded = "the domain is bounded" if oracle.within is not None else "answers do not come to rest far out"
        why = [f"{bounded}: Hessians at ordinary points"]
    if (widths is None or len(widths) == 1) and len(names) < 2:
        methods.append(OneHiddenLayer(names[0] if names else None, widths[0] if widths else None))
    if (widths is None or len(widths) == 2) and (widths is None or widths[0] <= oracle.n):
        if periodic:
            methods.append(Frequencies(given or "sin", widths))
        shapes = [names] if names else [(name,) for name in ("tanh", "softplus", "gelu", "silu", "sin")]
        methods += [EntangledWeights(shape if len(shape) > 1 else shape[0], widths) for shape in shapes]
    return methods, why
