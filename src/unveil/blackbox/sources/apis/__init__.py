"""How well-known servers want to be asked: one file each, with `endpoint(url, model, output)`."""

from __future__ import annotations

from importlib import import_module
from urllib.parse import urlsplit, urlunsplit

from unveil.blackbox.sources.json_endpoint import JsonEndpoint
from unveil.outcome import BadInput

API_NAMES = ("huggingface", "mlflow", "openai", "sagemaker", "tfserving", "torchserve")


def endpoint_of(api: str, url: str, output: str | None = None) -> tuple[str, JsonEndpoint]:
    """The address that is asked, and what is said there.

    Args:
        api: One of `API_NAMES`, perhaps with a model after a colon: "openai:text-embedding-3-small".
        url: The address that people know the service by.
        output: Which of several outputs.

    Raises:
        BadInput: No such API, or it lacks something.
    """
    name, _, model = api.partition(":")
    if name not in API_NAMES:
        raise BadInput(f"--api knows {', '.join(API_NAMES)}; got {name!r}: describe it with --request and --answer")
    found: tuple[str, JsonEndpoint] = import_module(f"{__name__}.{name}").endpoint(url, model, output)
    return found


def with_path(url: str, ending: str, only_bare: bool = False) -> str:
    """The address, its path ending in `ending`; with `only_bare`, only where it has no path yet."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if not path.endswith(ending) and not (only_bare and path):
        path += ending
    return urlunsplit(parts._replace(path=path or "/"))


def refuse_model(api: str, model: str) -> None:
    """Say that this API takes no name of a model.

    Raises:
        BadInput: One was given.
    """
    if model:
        raise BadInput(f"--api {api} takes no name of a model: the address tells it; got {model!r:.60}")
