"""Obfuscation on the page: inputs buried in noise that the model does not see, next to the originals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from markupsafe import Markup

from unveil.audit.drawing import SPECIMENS, draw_input
from unveil.audit.section import Section
from unveil.audit.severity import Severity
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import brief, count, share
from unveil.audit.verdict import Status, ending
from unveil.blackbox.domain import Within, described
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.source import Answers, Questions
from unveil.outcome import Outcome

if TYPE_CHECKING:
    from unveil.blackbox.span import RowSpan

# Change of a probability, or relative to the spread of values, that still counts as the same answer.
SAME_ANSWER_CHANGE = 0.01
LARGEST_ALLOWED_CHANGE = 0.1  # a larger change is none that a span of any accuracy may leave
SCALE = 10.0  # noise in units of the input's own norm
SHOWN = 6
CHECKED = 200

_BODY = (
    """<p class="note">{{ values.caption }}</p>"""
    + SPECIMENS
    + """
<div class="scroll"><table>
<caption>How many answers stay under noise</caption>
<tr><th scope="col">Noise</th><th scope="col" class="number">Same answer</th>
<th scope="col" class="number">Largest change</th>
<th scope="col" class="number">Noise ÷ input</th></tr>
{% for key, name in values.ways %}
<tr><th scope="row">{{ name }}</th>
<td class="number">{{ figure(key ~ ".unchanged") }} of {{ figure(key ~ ".inputs") }}</td>
<td class="number">{{ figure(key ~ ".largest_change") }}</td>
<td class="number">{{ figure(key ~ ".relative_noise") }}</td></tr>
{% endfor %}
</table></div>
<p class="note">{{ values.columns }}</p>
"""
)


@dataclass(frozen=True)
class Disguise:
    """Inputs and their obfuscated twins, with what the model said to both.

    Attributes:
        inputs: The originals, (N, n).
        hidden: The twins.
        before: Answers to the originals.
        after: Answers to the twins.
        noise_norm: Length of the noise, per input.
        kept: The share of the noise first chosen that each input takes; None if all of it was kept unasked.
        full: What the model said to all of that noise, where some of it was taken back.
    """

    inputs: Questions
    hidden: Questions
    before: Answers
    after: Answers
    noise_norm: Float[np.ndarray, " N"]
    kept: Float[np.ndarray, " N"] | None = None
    full: Disguise | None = None

    @property
    def changed(self) -> int:
        """How many inputs take less noise than was first chosen, since their answer changed under that."""
        return 0 if self.kept is None else int((self.kept < 1).sum())

    def unchanged(self, oracle: Oracle) -> Bool[np.ndarray, " N"]:
        """Whether the prediction stayed; of a single value, whether it stayed within a hundredth of the spread."""
        if _classifies(oracle):
            return np.asarray(oracle.predictions(self.before) == oracle.predictions(self.after))
        return np.asarray(self.change(oracle) <= SAME_ANSWER_CHANGE)

    def change(self, oracle: Oracle) -> Float[np.ndarray, " N"]:
        """Change of the predicted class's probability; of other answers relative to their spread; of labels 0 or 1."""
        if oracle.answers == "labels":
            return np.asarray((self.before != self.after).any(axis=1), dtype=np.float64)
        if not _classifies(oracle):
            return _relative(self.before, self.after)
        rows, best = np.arange(len(self.before)), oracle.predictions(self.before)
        return np.asarray(
            np.abs(oracle.probabilities(self.after)[rows, best] - oracle.probabilities(self.before)[rows, best])
        )

    def moved(self, oracle: Oracle) -> Float[np.ndarray, " N"]:
        """As `change`, and of values also their largest change relative to their spread, if that is more."""
        change = self.change(oracle)
        if oracle.answers == "labels" or oracle.reference is not None:
            return change
        return np.asarray(np.maximum(change, _relative(self.before, self.after)))

    def figures(self, oracle: Oracle) -> dict[str, Any]:
        """What the JSON says of it."""
        norms = np.linalg.norm(self.inputs, axis=1)
        change = self.change(oracle)
        found: dict[str, Any] = {
            "inputs": len(self.inputs),
            "unchanged": int(self.unchanged(oracle).sum()),
            "largest_change": float(change.max()),
            "noise_norm": self.noise_norm,
            "no_room": int(np.sum(self.noise_norm <= 1e-4 * norms)),
            "relative_noise": float(np.median(self.noise_norm / np.maximum(norms, np.finfo(float).tiny))),
            "change": change,
            "changed": self.changed,
            "kept": np.ones(len(self.inputs)) if self.kept is None else self.kept,
        }
        if oracle.answers == "labels" or _classifies(oracle):
            found["prediction"] = oracle.predictions(self.before)
            found["prediction_hidden"] = oracle.predictions(self.after)
        if _classifies(oracle) and oracle.answers != "labels":
            rows, best = np.arange(len(self.before)), oracle.predictions(self.before)
            found["probability"] = oracle.probabilities(self.before)[rows, best]
            found["probability_hidden"] = oracle.probabilities(self.after)[rows, best]
        return found


def _relative(before: Answers, after: Answers) -> Float[np.ndarray, " N"]:
    spread = float(np.ptp(before)) or float(np.abs(before).max()) or 1.0
    return np.asarray(np.abs(after - before).max(axis=1) / spread)


def _classifies(oracle: Oracle) -> bool:
    """Whether answers stand for classes; sorted scores do not."""
    return not oracle.ordered and (oracle.answers == "labels" or oracle.reference is not None or oracle.m > 1)


def _run(audit: Audit) -> Section | None:
    span = audit.findings.get("span")
    if span is None or not 0 < span.rank < span.n or ending(span.outcome).status > Status.approximate:
        return None  # noise along directions that were not found yet says nothing of those that were
    oracle, inputs = audit.oracle, audit.examples(CHECKED)
    ways: dict[str, tuple[str, Within | None]] = {}
    if oracle.within is None:
        ways["free"] = (f"{SCALE:g} times the input", None)
    box = oracle.within or ((0.0, 1.0) if inputs.min() >= 0 and inputs.max() <= 1 else None)
    if box is not None:
        ways["boxed"] = (f"as much as stays in {described(box)}", box)
    before = oracle(inputs)
    found = {key: disguise(audit, span, inputs, before, within, key) for key, (_, within) in ways.items()}
    audit.findings["obfuscation"] = found
    return section(audit, found, {key: name for key, (name, _) in ways.items()}, span)


def disguise(
    audit: Audit, span: RowSpan, inputs: Questions, before: Answers, within: Within | None, key: str
) -> Disguise:
    """Bury the inputs, and ask what the model says to them.

    Queries: `len(inputs)`; in a box, where an answer changes, see `bury`
    """
    return bury(audit.oracle, span, inputs, before, within, SCALE, lambda: audit.rng(f"obfuscation {key}"))


def bury(  # noqa: PLR0913 - a drowned picture is told with all it was made from
    oracle: Oracle,
    span: RowSpan,
    inputs: Questions,
    before: Answers,
    within: Within | None,
    scale: float,
    rng: Callable[[], np.random.Generator],
) -> Disguise:
    """Bury inputs; in a box, noise that changes an answer is halved until it does not, or left out.

    Queries: `len(inputs)`; in a box, where an answer changes, at most `(3 + HALVINGS) len(inputs)` more
    """
    from unveil.blackbox.obfuscation import obfuscate

    full = _told(oracle, obfuscate(span, inputs, scale=scale, rng=rng(), within=within).inputs, inputs, before)
    if within is None or not (full.moved(oracle) > SAME_ANSWER_CHANGE).any():
        return full
    made = obfuscate(span, inputs, scale=scale, rng=rng(), within=within, oracle=oracle, same=SAME_ANSWER_CHANGE)
    return replace(_told(oracle, made.inputs, inputs, before), kept=made.kept, full=full)


def _told(oracle: Oracle, made: Questions, inputs: Questions, before: Answers) -> Disguise:
    hidden = oracle.nearest(made)
    return Disguise(inputs, hidden, before, oracle(hidden), np.linalg.norm(hidden - inputs, axis=1))


def section(audit: Audit, found: dict[str, Disguise], names: dict[str, str], span: RowSpan) -> Section:
    """Disguises, told."""
    oracle = audit.oracle
    figures = {key: made.figures(oracle) for key, made in found.items()}
    first = next(iter(found.values()))
    invisible = _invisible(found, span)
    outcome, cause = _ended(found, oracle, span)
    refuted = outcome is Outcome.check_failed
    if refuted and all((made.moved(oracle) <= SAME_ANSWER_CHANGE).all() for made in found.values()):
        # The noise that is left can be hidden, and was asked; that less of it could than the span let expect is told.
        outcome = Outcome.approximate
    failed = outcome is Outcome.check_failed
    chosen = _varied(audit, first)
    specimens = [_specimen(oracle, found, int(row)) for row in chosen]
    kind = "images" if isinstance(_square(oracle), tuple) else "inputs"
    whose = f"Example {kind}" if audit.inputs is not None else "Points drawn at random"
    words = {"free": f"noise {SCALE:g} times as large", "boxed": "legal noise"}
    caption = f"{whose} as they are, then under " + ", then under ".join(words[key] for key in found) + ". "
    caption += (
        "Under each: the model's answer and how sure it is." if _sure(oracle) else "Under each: the model's answer."
    )
    return Section(
        key="obfuscation",
        title="Inputs buried in noise",
        verdict=(f"{cause[0].upper()}{cause[1:]}. " if cause and cause[0].isdigit() else "")
        + _verdict(oracle, figures),
        body=_BODY,
        values={
            "specimens": specimens,
            "caption": caption,
            "ways": list(names.items()),
            "columns": _columns(oracle),
        },
        figures=figures | {"invisible": invisible},
        files={
            "examples.npz": {
                "inputs": first.inputs.astype(oracle.dtype),
                **{key: made.hidden.astype(oracle.dtype) for key, made in found.items()},
                **normalisation(oracle),
            }
        },
        claim=_claim(figures),
        emblem=Markup("") if failed else _emblem(specimens[0], next(iter(found))),
        outcome=outcome,
        cause=cause,
        severity=_severity(figures),
        confidence=f"{count(len(first.inputs), 'example')} asked before and after",
        refutes={"span": cause} if refuted else {},
    )


def _ended(found: dict[str, Disguise], oracle: Oracle, span: RowSpan) -> tuple[Outcome, str]:
    """How it ended: whether the answers stay, or change as far as the accuracy of the span lets expect, or further."""
    allowed = min(LARGEST_ALLOWED_CHANGE, max(SAME_ANSWER_CHANGE, SCALE * max(span.accuracy, span.left_out)))
    outcome, cause = span.outcome, ""
    for made in found.values():
        # Less noise may be hidden all the same, but what all of it did tells of directions that the span lacks.
        moved = (made.full or made).moved(oracle)
        limit, meant = (
            (allowed, Outcome.check_failed) if (moved > allowed).any() else (SAME_ANSWER_CHANGE, Outcome.approximate)
        )
        if (moved > limit).any() and outcome is not Outcome.check_failed:
            many = f"{count(int((moved > limit).sum()))} of {count(len(moved), 'answer')}"
            unseen = count(span.n - span.rank, "direction")
            outcome, cause = meant, f"{many} changed under noise along the {unseen} it seemed not to see"
    if outcome is Outcome.complete and not all(made.unchanged(oracle).all() for made in found.values()):
        return Outcome.approximate, "a prediction changed where two classes are as likely as each other"
    return outcome, cause


def _emblem(specimen: list[tuple[Markup, str, str]], way: str) -> Markup:
    """The first example and its twin, for the top of the page."""
    words = ("as it is", f"under {SCALE:g}\u00a0× noise" if way == "free" else "under legal noise")
    return Markup('<div class="specimen two">{}</div>').format(
        Markup("").join(
            Markup("<figure>{}<figcaption><strong>{}</strong> {}<br>{}</figcaption></figure>").format(
                picture, headline, detail, word
            )
            for (picture, headline, detail), word in zip(specimen[:2], words, strict=True)
        )
    )


def _square(oracle: Oracle) -> tuple[int, int, int] | None:
    from unveil.audit.drawing import picture_shape

    return picture_shape(oracle.shape)


def _sure(oracle: Oracle) -> bool:
    return oracle.answers != "labels" and _classifies(oracle)


def _specimen(oracle: Oracle, found: dict[str, Disguise], row: int) -> list[tuple[Markup, str, str]]:
    first = next(iter(found.values()))
    told = [(first.inputs[row], first.before[row], "original")]
    told += [(made.hidden[row], made.after[row], "under noise") for made in found.values()]
    return [
        (draw_input(x, oracle.shape, f"{what}, answered {_headline(oracle, y)}"), *_answer(oracle, y))
        for x, y, what in told
    ]


def _headline(oracle: Oracle, y: Num[np.ndarray, " m"]) -> str:
    if not _classifies(oracle):
        return brief(float(y[0]))
    predicted = int(oracle.predictions(y[None])[0])
    return (oracle.classes or {}).get(predicted, str(predicted))


def _answer(oracle: Oracle, y: Num[np.ndarray, " m"]) -> tuple[str, str]:
    """What stands under a picture: the class or the value, and how sure."""
    if not _sure(oracle):
        return _headline(oracle, y), ""
    predicted = int(oracle.predictions(y[None])[0])
    return _headline(oracle, y), share(float(oracle.probabilities(y[None])[0, predicted]))


def _varied(audit: Audit, made: Disguise) -> Int[np.ndarray, " s"]:
    """Rows to show: one per class first, in order, then the rest."""
    if not _classifies(audit.oracle):
        return np.arange(min(SHOWN, len(made.inputs)))
    predicted = audit.oracle.predictions(made.before)
    rank_in_class = np.array([np.sum(predicted[:i] == predicted[i]) for i in range(len(predicted))])
    return np.lexsort((predicted, rank_in_class))[:SHOWN]


def _claim(figures: dict[str, Any]) -> str:
    way = "free" if "free" in figures else "boxed"
    told = figures[way]
    if told["unchanged"] < told["inputs"]:
        return ""
    size = f"{SCALE:g} times as large as the input" if way == "free" else _legal(told)
    return f"{'answers' if told['largest_change'] <= SAME_ANSWER_CHANGE else 'predicts'} the same under noise {size}"


def _legal(told: dict[str, Any]) -> str:
    return f"that keeps every value legal ({brief(told['relative_noise'], 2)} times as large as the input)"


def _verdict(oracle: Oracle, figures: dict[str, Any]) -> str:
    parts = []
    for key, told in figures.items():
        noise = "noise " + (f"{SCALE:g} times as large as the input" if key == "free" else _legal(told))
        all_same = told["unchanged"] == told["inputs"]
        many = f"all {told['inputs']}" if all_same else f"{told['unchanged']} of {told['inputs']}"
        parts.append(
            f"{many} predictions stay under {noise}" if _classifies(oracle) else f"{many} answers stay under {noise}"
        )
        if told["changed"]:
            parts.append(f"{count(told['changed'], 'input takes', 'inputs take')} less of it than was first chosen")
        if told["no_room"]:
            parts.append(f"{count(told['no_room'], 'input leaves', 'inputs leave')} no room for any")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _invisible(found: dict[str, Disguise], span: RowSpan) -> dict[str, Any]:
    """How long the part of an input is that the model does not see: of the examples at most, and under noise."""
    made = next(iter(found.values()))
    usual = float(np.linalg.norm(span.complement(made.inputs), axis=1).max())
    hidden = np.linalg.norm(span.complement(made.hidden), axis=1)
    return {
        "usual": usual,
        "least_under_noise": float(hidden.min()),
        "caught": int((hidden > usual).sum()),
        "inputs": len(hidden),
    }


def _severity(figures: dict[str, Any]) -> Severity:
    """By the most noise, relative to the input, under which at least half of the predictions stay."""
    most = max(
        (told["relative_noise"] for told in figures.values() if told["unchanged"] >= told["inputs"] / 2), default=0.0
    )
    return (
        Severity.high if most >= 1 else Severity.medium if most >= 0.1 else Severity.low if most > 0 else Severity.none
    )


def normalisation(oracle: Oracle) -> dict[str, np.ndarray]:
    """What is subtracted and divided before the model gets an input, where something is."""
    from unveil.blackbox.wrappers import Affine

    return {"mean": oracle.mean, "deviation": oracle.deviation} if isinstance(oracle, Affine) else {}


def _columns(oracle: Oracle) -> str:
    if oracle.answers == "labels":
        change = "Largest change: 1 if any label changed"
    elif _classifies(oracle):
        change = "Largest change: of the probability of the predicted class, over all inputs"
    else:
        change = "Largest change: relative to the spread of the answers"
    return f"{change}. Noise ÷ input: the median ratio of their lengths."


def _cost(audit: Audit) -> tuple[float, float]:
    number = len(audit.examples(CHECKED))
    return 2 * number, 40 * number + 100


HIDING = Stage(key="obfuscation", title="Hiding noise", run=_run, cost=_cost)
