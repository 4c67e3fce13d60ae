"""OpenAI's interface, asked with token numbers: /v1/embeddings gives vectors, /v1/completions the next token's text."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from unveil.blackbox.sources.apis import with_path
from unveil.blackbox.sources.json_endpoint import QUESTIONS_MARK, JsonEndpoint
from unveil.outcome import BadInput


def endpoint(url: str, model: str, output: str | None) -> tuple[str, JsonEndpoint]:
    """Where to ask and how; by default embeddings."""
    path = urlsplit(url).path.rstrip("/")
    if path.endswith("/chat/completions"):
        raise BadInput(
            "chats take texts, not numbers: ask /v1/completions or /v1/embeddings, or pass prompts to "
            "unveil.CompletionsSource"
        )
    if not model:
        raise BadInput("--api openai needs the model's name, e.g. --api openai:text-embedding-3-small")
    if path.endswith("/completions"):
        asked = {"model": model, "prompt": QUESTIONS_MARK, "max_tokens": 1, "temperature": 0}
        return url, JsonEndpoint(json.dumps(asked), output or "/choices/*/text", "INT64")
    asked = {"model": model, "input": QUESTIONS_MARK, "encoding_format": "float"}
    return with_path(url, "/embeddings"), JsonEndpoint(json.dumps(asked), output or "/data/*/embedding", "INT64")
