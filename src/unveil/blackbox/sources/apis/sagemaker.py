"""A SageMaker container: /invocations takes {"instances": [...]} and gives {"predictions": [...]}.

Amazon's own address wants signed requests, which are not made here: ask the container, or a proxy that signs.
"""

from __future__ import annotations

from unveil.blackbox.sources.apis import refuse_model, with_path
from unveil.blackbox.sources.json_endpoint import JsonEndpoint


def endpoint(url: str, model: str, output: str | None) -> tuple[str, JsonEndpoint]:
    """Where to ask and how; built-in algorithms name what they give (`score`, `closest_cluster`): that is `output`."""
    refuse_model("sagemaker", model)
    answer = "/predictions" if output is None else f"/predictions/*/{output}"
    return with_path(url, "/invocations", only_bare=True), JsonEndpoint("/instances", answer, "FP32")
