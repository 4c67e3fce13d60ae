"""TorchServe's own interface: /predictions/NAME takes one question a request and gives its answer alone."""

from __future__ import annotations

from unveil.blackbox.sources.apis import refuse_model
from unveil.blackbox.sources.json_endpoint import JsonEndpoint


def endpoint(url: str, model: str, output: str | None) -> tuple[str, JsonEndpoint]:
    """Where to ask and how; torch computes in single precision unless told otherwise."""
    refuse_model("torchserve", model)
    return url, JsonEndpoint('"$question"', "" if output is None else f"/{output}", "FP32")
