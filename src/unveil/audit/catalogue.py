"""What auditors need to know of each kind of finding: its identifier, scenario, remedy, and where others file it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A place in a catalogue of others.

    Attributes:
        source: Whose: MITRE ATLAS, OWASP Machine Learning Security Top 10, NIST AI 100-2.
        id: The identifier there.
        name: What it is called there.
    """

    source: str
    id: str
    name: str


_ATLAS, _OWASP, _NIST = "MITRE ATLAS", "OWASP ML Top 10", "NIST AI 100-2e2025"
EXTRACT = Reference(_ATLAS, "AML.T0024.002", "Extract AI Model")
INVERT = Reference(_ATLAS, "AML.T0024.001", "Invert AI Model")
CRAFT = Reference(_ATLAS, "AML.T0043", "Craft Adversarial Data")
FAMILY = Reference(_ATLAS, "AML.T0014", "Discover AI Model Family")
COARSEN = Reference(_ATLAS, "AML.M0002", "Predictive AI Output Obfuscation")
RESTRICT = Reference(_ATLAS, "AML.M0004", "Limit AI Service Query Volume and Rate")
DETECT = Reference(_ATLAS, "AML.M0015", "Predictive AI Adversarial Input Detection")
CONTROL = Reference(_ATLAS, "AML.M0019", "Control Access to AI Models and Data in Production")
THEFT = Reference(_OWASP, "ML05:2023", "Model Theft")
MANIPULATION = Reference(_OWASP, "ML01:2023", "Input Manipulation Attack")
INVERSION = Reference(_OWASP, "ML03:2023", "Model Inversion Attack")
NIST_EXTRACTION = Reference(_NIST, "NISTAML.031", "Model Extraction")
NIST_RECONSTRUCTION = Reference(_NIST, "NISTAML.032", "Reconstruction")
NIST_EVASION = Reference(_NIST, "NISTAML.025", "Black-box Evasion")


@dataclass(frozen=True)
class Entry:
    """What is said of a kind of finding, whatever was measured.

    Attributes:
        id: Stable identifier; never given to anything else.
        name: A few words.
        scenario: What an attacker does with it.
        access: What an attacker needs.
        check: How a stranger checks the finding.
        remedy: What helps against it.
        references: Where others file it.
        mitigations: What others call the remedies.
        needs: Keys of sections whose questions an attacker asks as well.
    """

    id: str
    name: str
    scenario: str
    access: str
    check: str
    remedy: str
    references: tuple[Reference, ...]
    mitigations: tuple[Reference, ...]
    needs: tuple[str, ...] = ()


_ASKING = "the answers to questions of one's own; no weights, no training data"
_WEIGHTS = "the weights: from the file, or read off the answers"

CATALOGUE = {
    "span": Entry(
        "UNV-SPAN",
        "The inputs' directions that it sees",
        "Whoever asks learns which combinations of the inputs reach the first layer: the space that its weight vectors "
        "span. It narrows the search for the weights, and tells which changes of an input the model cannot notice.",
        _ASKING,
        "Ask for an input and for the same input with something added outside the basis (`x + v - v @ basis.T @ "
        "basis`): "
        "the answers agree to the accuracy stated.",
        "Limit questions per caller. Coarser answers make it dearer; what they hide is measured by --defences.",
        (EXTRACT, THEFT, NIST_EXTRACTION),
        (RESTRICT, COARSEN),
    ),
    "obfuscation": Entry(
        "UNV-NOISE",
        "Inputs buried in noise that it does not notice",
        "Whoever knows the directions that the model does not see can bury an input in noise, or draw another over it: "
        "a person or a filter in front of the model sees one thing, the model answers as to the other.",
        _ASKING,
        "The lines under “How to check this” ask again about one example and its twin, without this library.",
        "Check inputs before the model: those with a large part outside what the model sees are not usual ones.",
        (CRAFT, MANIPULATION, NIST_EVASION),
        (DETECT, RESTRICT),
        needs=("span",),
    ),
    "outputs": Entry(
        "UNV-OUTPUTS",
        "What the outputs say of the last hidden layer",
        "Whoever asks learns the width of the last hidden layer and the space its outputs lie in: a fact about the "
        "architecture, and a fingerprint by which answers of this model are told from those of another.",
        _ASKING,
        "Collect a few more answers than the rank: the numerical rank of their differences is the one stated.",
        "Give the few largest outputs, or labels, and no way to bias them.",
        (FAMILY, EXTRACT, NIST_EXTRACTION),
        (COARSEN, RESTRICT),
    ),
    "identification": Entry(
        "UNV-WEIGHTS",
        "All of its weights",
        "Whoever asks gets a network that answers alike everywhere it was checked: the model is copied, and every "
        "attack "
        "that needs weights becomes possible.",
        _ASKING,
        "Ask the model and the network found (`network.npz`) the same fresh inputs and compare.",
        "Limit questions per caller, watch for questions that no user asks, and treat the weights as known.",
        (EXTRACT, THEFT, NIST_EXTRACTION),
        (RESTRICT, COARSEN, CONTROL),
    ),
    "extraction": Entry(
        "UNV-LAYERS",
        "Weights of its first layers",
        "Whoever asks gets weight vectors of the first layers, up to sign and scale: what the model looks for in its "
        "inputs, which can be worth protecting by itself.",
        _ASKING,
        "Compare the weight vectors found with those of the model, up to sign and scale.",
        "Limit questions per caller, and watch for questions along straight lines.",
        (EXTRACT, THEFT, NIST_EXTRACTION),
        (RESTRICT, COARSEN),
        needs=("identification",),
    ),
    "forgetting": Entry(
        "UNV-FEATURES",
        "Different inputs with the same features",
        "Whoever has the weights makes another legal input with exactly the same features, and so the same answer: "
        "matching by features, deduplication and monitoring by features do not see the difference.",
        _WEIGHTS,
        "Ask for both inputs of a pair (`lookalikes.npz`): the answers agree.",
        "Do not rest identity or monitoring on these features alone; keep the input beside them.",
        (CRAFT, MANIPULATION, NIST_EVASION),
        (DETECT,),
    ),
    "stability": Entry(
        "UNV-INVERSION",
        "How well inputs come back from features",
        "Whoever holds features (a vector database, a split model) tries to compute the inputs they came from. How far "
        "errors grow on the way back says how well that works.",
        _WEIGHTS + "; and features of inputs",
        "Compute the singular values of the network's Jacobian at an input with any library.",
        "Treat features as the inputs they come from: protect them alike.",
        (INVERT, INVERSION, NIST_RECONSTRUCTION),
        (CONTROL,),
    ),
}
