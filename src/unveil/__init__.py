"""What a neural network gives away: the public names.

Each name's module is imported when the name is first used, so that `import unveil` costs next to nothing.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unveil.audit.page import Page as Page
    from unveil.audit.run import report as report
    from unveil.blackbox.active_subspace import ActiveSubspace as ActiveSubspace
    from unveil.blackbox.active_subspace import active_subspace as active_subspace
    from unveil.blackbox.breakpoints import breakpoints as breakpoints
    from unveil.blackbox.differences import gradient as gradient
    from unveil.blackbox.differences import hessian as hessian
    from unveil.blackbox.differences import jacobian as jacobian
    from unveil.blackbox.last_layer import LastLayer as LastLayer
    from unveil.blackbox.last_layer import last_layer as last_layer
    from unveil.blackbox.ledger import Ledger as Ledger
    from unveil.blackbox.line import Line as Line
    from unveil.blackbox.noise_model import NoiseModel as NoiseModel
    from unveil.blackbox.noise_model import measure_noise as measure_noise
    from unveil.blackbox.obfuscation import Obfuscation as Obfuscation
    from unveil.blackbox.obfuscation import obfuscate as obfuscate
    from unveil.blackbox.oracle import Oracle as Oracle
    from unveil.blackbox.output_space import OutputSpan as OutputSpan
    from unveil.blackbox.output_span import output_span as output_span
    from unveil.blackbox.row_span import row_span as row_span
    from unveil.blackbox.simulator import Command as Command
    from unveil.blackbox.simulator import Simulator as Simulator
    from unveil.blackbox.simulator_inputs import Input as Input
    from unveil.blackbox.simulator_inputs import Inputs as Inputs
    from unveil.blackbox.sources import as_oracle as as_oracle
    from unveil.blackbox.sources.completions import CompletionsSource as CompletionsSource
    from unveil.blackbox.sources.http import HttpSource as HttpSource
    from unveil.blackbox.sources.json_endpoint import JsonEndpoint as JsonEndpoint
    from unveil.blackbox.sources.open_inference import OpenInference as OpenInference
    from unveil.blackbox.sources.prompts import PromptSource as PromptSource
    from unveil.blackbox.sources.wire_options import Token as Token
    from unveil.blackbox.sources.wire_options import WireOptions as WireOptions
    from unveil.blackbox.span import RowSpan as RowSpan
    from unveil.blackbox.store import Stored as Stored
    from unveil.blackbox.wrappers import Affine as Affine
    from unveil.blackbox.wrappers import Arctanh as Arctanh
    from unveil.blackbox.wrappers import LabelsOnly as LabelsOnly
    from unveil.blackbox.wrappers import LogRatios as LogRatios
    from unveil.blackbox.wrappers import Restricted as Restricted
    from unveil.blackbox.wrappers import Rounded as Rounded
    from unveil.executor import spread as spread
    from unveil.executor import workers as workers
    from unveil.identification.convolution.shared_kernels import SharedKernels as SharedKernels
    from unveil.identification.from_labels.hard_labels import HardLabels as HardLabels
    from unveil.identification.identify import identify as identify
    from unveil.identification.kernels import Kernels as Kernels
    from unveil.identification.method import Identification as Identification
    from unveil.identification.piecewise_linear.critical_points import CriticalPoints as CriticalPoints
    from unveil.identification.smooth.entangled_weights import EntangledWeights as EntangledWeights
    from unveil.identification.smooth.frequencies import Frequencies as Frequencies
    from unveil.identification.smooth.one_hidden_layer import OneHiddenLayer as OneHiddenLayer
    from unveil.identification.smooth.peeling import Peeling as Peeling
    from unveil.identification.smooth.rectifiers import Rectifiers as Rectifiers
    from unveil.identification.smooth.saturation import Saturation as Saturation
    from unveil.identification.surrogate.surrogate import Surrogate as Surrogate
    from unveil.outcome import BadInput as BadInput
    from unveil.outcome import BudgetExceeded as BudgetExceeded
    from unveil.outcome import DiskFull as DiskFull
    from unveil.outcome import Interrupted as Interrupted
    from unveil.outcome import MissingAnswers as MissingAnswers
    from unveil.outcome import ModelChanged as ModelChanged
    from unveil.outcome import Outcome as Outcome
    from unveil.outcome import SourceError as SourceError
    from unveil.outcome import StepAnswers as StepAnswers
    from unveil.outcome import StoreError as StoreError
    from unveil.outcome import UnsteadyAnswers as UnsteadyAnswers
    from unveil.outcome import UnveilError as UnveilError
    from unveil.outcome import WorkerLost as WorkerLost
    from unveil.whitebox.activation import Activation as Activation
    from unveil.whitebox.comparison import Comparison as Comparison
    from unveil.whitebox.comparison import compare as compare
    from unveil.whitebox.extremes import extreme_singular_values as extreme_singular_values
    from unveil.whitebox.formats import from_sklearn as from_sklearn
    from unveil.whitebox.formats import from_torch as from_torch
    from unveil.whitebox.formats import load as load
    from unveil.whitebox.formats import save as save
    from unveil.whitebox.formats import to_torch as to_torch
    from unveil.whitebox.inputs_of import inputs_of as inputs_of
    from unveil.whitebox.inversion import Inversion as Inversion
    from unveil.whitebox.large_change import LargeChange as LargeChange
    from unveil.whitebox.large_change import large_change as large_change
    from unveil.whitebox.lookalike import Lookalike as Lookalike
    from unveil.whitebox.lookalike import lookalike as lookalike
    from unveil.whitebox.network import Layer as Layer
    from unveil.whitebox.network import Network as Network
    from unveil.whitebox.preimage import preimage as preimage
    from unveil.whitebox.region import Region as Region
    from unveil.whitebox.region import activation_pattern as activation_pattern
    from unveil.whitebox.region import linear_region as linear_region
    from unveil.whitebox.region import linearise as linearise
    from unveil.whitebox.same_features import Preimage as Preimage
    from unveil.whitebox.same_features import preimages as preimages
    from unveil.whitebox.stability import Stability as Stability
    from unveil.whitebox.stability import stability as stability
    from unveil.whitebox.stability import window_of as window_of

# One line per public name here, one above (for type checkers and editors); a test compares the two.
_PUBLIC = {
    "Ledger": "blackbox.ledger",
    "Oracle": "blackbox.oracle",
    "as_oracle": "blackbox.sources",
    "CompletionsSource": "blackbox.sources.completions",
    "HttpSource": "blackbox.sources.http",
    "JsonEndpoint": "blackbox.sources.json_endpoint",
    "OpenInference": "blackbox.sources.open_inference",
    "PromptSource": "blackbox.sources.prompts",
    "Token": "blackbox.sources.wire_options",
    "WireOptions": "blackbox.sources.wire_options",
    "Stored": "blackbox.store",
    "NoiseModel": "blackbox.noise_model",
    "measure_noise": "blackbox.noise_model",
    "jacobian": "blackbox.differences",
    "gradient": "blackbox.differences",
    "hessian": "blackbox.differences",
    "Line": "blackbox.line",
    "breakpoints": "blackbox.breakpoints",
    "OutputSpan": "blackbox.output_space",
    "output_span": "blackbox.output_span",
    "LastLayer": "blackbox.last_layer",
    "last_layer": "blackbox.last_layer",
    "RowSpan": "blackbox.span",
    "row_span": "blackbox.row_span",
    "ActiveSubspace": "blackbox.active_subspace",
    "active_subspace": "blackbox.active_subspace",
    "Command": "blackbox.simulator",
    "Simulator": "blackbox.simulator",
    "Input": "blackbox.simulator_inputs",
    "Inputs": "blackbox.simulator_inputs",
    "Obfuscation": "blackbox.obfuscation",
    "obfuscate": "blackbox.obfuscation",
    "Affine": "blackbox.wrappers",
    "LabelsOnly": "blackbox.wrappers",
    "Arctanh": "blackbox.wrappers",
    "LogRatios": "blackbox.wrappers",
    "Restricted": "blackbox.wrappers",
    "Rounded": "blackbox.wrappers",
    "identify": "identification.identify",
    "Kernels": "identification.kernels",
    "SharedKernels": "identification.convolution.shared_kernels",
    "HardLabels": "identification.from_labels.hard_labels",
    "OneHiddenLayer": "identification.smooth.one_hidden_layer",
    "Surrogate": "identification.surrogate.surrogate",
    "EntangledWeights": "identification.smooth.entangled_weights",
    "Frequencies": "identification.smooth.frequencies",
    "Identification": "identification.method",
    "CriticalPoints": "identification.piecewise_linear.critical_points",
    "Peeling": "identification.smooth.peeling",
    "Rectifiers": "identification.smooth.rectifiers",
    "Saturation": "identification.smooth.saturation",
    "report": "audit.run",
    "Page": "audit.page",
    "spread": "executor",
    "workers": "executor",
    "BadInput": "outcome",
    "BudgetExceeded": "outcome",
    "DiskFull": "outcome",
    "Interrupted": "outcome",
    "MissingAnswers": "outcome",
    "ModelChanged": "outcome",
    "Outcome": "outcome",
    "SourceError": "outcome",
    "StepAnswers": "outcome",
    "StoreError": "outcome",
    "UnsteadyAnswers": "outcome",
    "UnveilError": "outcome",
    "WorkerLost": "outcome",
    "Activation": "whitebox.activation",
    "Comparison": "whitebox.comparison",
    "compare": "whitebox.comparison",
    "Region": "whitebox.region",
    "activation_pattern": "whitebox.region",
    "linear_region": "whitebox.region",
    "linearise": "whitebox.region",
    "from_sklearn": "whitebox.formats",
    "from_torch": "whitebox.formats",
    "load": "whitebox.formats",
    "save": "whitebox.formats",
    "to_torch": "whitebox.formats",
    "LargeChange": "whitebox.large_change",
    "large_change": "whitebox.large_change",
    "Lookalike": "whitebox.lookalike",
    "lookalike": "whitebox.lookalike",
    "Stability": "whitebox.stability",
    "stability": "whitebox.stability",
    "window_of": "whitebox.stability",
    "extreme_singular_values": "whitebox.extremes",
    "Layer": "whitebox.network",
    "Network": "whitebox.network",
    "Preimage": "whitebox.same_features",
    "preimage": "whitebox.preimage",
    "preimages": "whitebox.same_features",
    "Inversion": "whitebox.inversion",
    "inputs_of": "whitebox.inputs_of",
}


# Silent until an application sets a level and a handler.
logging.getLogger("unveil").addHandler(logging.NullHandler())


__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("unveil.version").__version__
    if name not in _PUBLIC:
        raise AttributeError(f"module 'unveil' has no attribute {name!r}")
    value = getattr(import_module(f"unveil.{_PUBLIC[name]}"), name)
    # A verb may be called like the module it lives in: the verb wins, once and for all.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
