"""Hugging Face's inference endpoints and toolkits: {"inputs": [...]} gives vectors, or pairs of a label and a score."""

from __future__ import annotations

from unveil.blackbox.sources.apis import refuse_model
from unveil.blackbox.sources.json_endpoint import JsonEndpoint


def endpoint(url: str, model: str, output: str | None) -> tuple[str, JsonEndpoint]:
    """Where to ask and how: for the scores of all classes, where the task has classes."""
    refuse_model("huggingface", model)
    return url, JsonEndpoint('{"inputs": "$questions"}', "" if output is None else f"/*/{output}", "FP32")
