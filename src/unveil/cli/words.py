"""in_options: what the library says in Python's words, in those of the command line."""

from __future__ import annotations

import re

# Python's name of what the command line has an option for; `x` and `inputs` are examples.
OPTIONS = {
    name: f"--{name}"
    for name in ("budget", "within", "grid", "shape", "answers", "output", "store", "accuracy", "scale")
} | {"x": "--inputs", "inputs": "--inputs", "executor": "--jobs"}
OPTIONS |= {
    name: f"--{name.replace('_', '-')}"
    for name in ("ask_again", "batch", "connections", "longest_wait", "noisy", "retries", "retry_on", "timeout")
}
_WRITTEN = re.compile(
    rf"(?<![\w.-])(?<!--fix )({'|'.join(OPTIONS)})=(?:\(([^()]*?),?\)|'([^']*)'|True|(\d[\w./-]*\w|\d))?(?=[\s.,;:)]|$)"
)
_TWICE = re.compile(r"(--[a-z-]+(?: [\w,./-]+)?)(?:, \1(?![\w-])| \(\1\))")


def in_options(text: str) -> str:
    """`within=(0, 255)` is `--within 0,255`, `budget=` is `--budget`.

    Args:
        text: A message of the library; what it says of one thing both ways is said once.
    """

    def option(found: re.Match[str]) -> str:
        value = next((each for each in found.groups()[1:] if each is not None), "")
        return f"{OPTIONS[found[1]]} {value.replace(' ', '')}".rstrip()

    return _TWICE.sub(r"\1", _WRITTEN.sub(option, text))
