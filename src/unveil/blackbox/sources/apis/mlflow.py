"""MLflow's scoring server: /invocations takes {"inputs": [...]} and gives {"predictions": [...]}."""

from __future__ import annotations

from unveil.blackbox.sources.apis import refuse_model, with_path
from unveil.blackbox.sources.json_endpoint import JsonEndpoint


def endpoint(url: str, model: str, output: str | None) -> tuple[str, JsonEndpoint]:
    """Where to ask and how."""
    refuse_model("mlflow", model)
    answer = "/predictions" if output is None else f"/predictions/*/{output}"
    return with_path(url, "/invocations", only_bare=True), JsonEndpoint("/inputs", answer)
