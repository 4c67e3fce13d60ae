"""TensorFlow Serving over REST: /v1/models/NAME:predict takes {"instances": [...]} and gives {"predictions": [...]}."""

from __future__ import annotations

from unveil.blackbox.sources.apis import refuse_model, with_path
from unveil.blackbox.sources.json_endpoint import JsonEndpoint


def endpoint(url: str, model: str, output: str | None) -> tuple[str, JsonEndpoint]:
    """Where to ask and how; TensorFlow computes in single precision unless told otherwise."""
    refuse_model("tfserving", model)
    answer = "/predictions" if output is None else f"/predictions/*/{output}"
    return with_path(url, ":predict"), JsonEndpoint("/instances", answer, "FP32")
