"""Two audits compared: which findings are new, gone, more or less severe, and what else changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unveil.audit.severity import Severity
from unveil.outcome import BadInput

_FOLLOWED = (
    ("oracle", "n", "inputs"),
    ("oracle", "m", "outputs"),
    ("oracle", "answers", "kind of answers"),
    ("span", "rank", "input directions found"),
    ("outputs", "rank", "rank of the outputs"),
    ("identification", "parameters", "parameters read"),
)


def read_baseline(path: Path) -> dict[str, Any]:
    """The JSON of an earlier audit.

    Raises:
        BadInput: It cannot be read, or is none, or of a newer form than this version knows.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}; --baseline takes the .json of an earlier audit") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {error}; --baseline takes the .json of an audit") from None
    schema = told.get("schema") if isinstance(told, dict) else None
    name, version = (schema.get("name"), str(schema.get("version"))) if isinstance(schema, dict) else ("", "")
    if name != "unveil-audit" or not isinstance(told.get("findings"), list):
        raise BadInput(f"{path} holds no findings of an audit; --baseline takes the .json that an audit wrote")
    if version.partition(".")[0] != "1":
        raise BadInput(f"{path} is of form {version}, this version reads 1.x: compare with the version that wrote it")
    return dict(told)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What changed from one audit's figures to another's.

    Returns:
        `same_file` (None where one of the audits knows no hash), `findings` and `figures`: one of each that
        differs, and `worse`: identifiers of findings that are new or more severe.
    """
    before, after = ({each["id"]: each for each in told.get("findings", ())} for told in (old, new))
    found, worse = [], []
    for key in [*after, *(each for each in before if each not in after)]:
        was, now = before.get(key), after.get(key)
        if was and now and was["severity"] == now["severity"] and was["status"] == now["status"]:
            continue
        found.append(
            {
                "id": key,
                "change": _kind(was, now),
                "severity_before": was and was["severity"],
                "severity": now and now["severity"],
                "status_before": was and was["status"],
                "status": now and now["status"],
            }
        )
        if now and _severity(now) > max(_severity(was), Severity.none):
            worse.append(key)
    figures = []
    for section, figure, name in _FOLLOWED:
        one, two = ((told.get(section) or {}).get(figure) for told in (old, new))
        if one != two:
            figures.append({"name": name, "before": one, "now": two})
    hashes = [(told.get("tested") or {}).get("sha256") for told in (old, new)]
    return {
        "when": (old.get("tested") or {}).get("when", ""),
        "same_file": hashes[0] == hashes[1] if all(hashes) else None,
        "findings": found,
        "figures": figures,
        "worse": worse,
    }


def _severity(of: Mapping[str, Any] | None) -> Severity:
    """Of a finding in a JSON; of one that is not there, or not known by name, unknown."""
    name = "unknown" if of is None else of["severity"]
    return Severity[name] if name in Severity.__members__ else Severity.unknown


def _kind(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    if was is None:
        return "new"
    if now is None:
        # What needs no option is looked for every time: nothing to tell, or no finding that it could stand on.
        from unveil.audit.stages import STAGES

        always = {stage.key for stage in STAGES if stage.flag is None}
        return "not told now" if was.get("section") in always else "not looked for"
    one, two = _severity(was), _severity(now)
    if Severity.unknown in (one, two) and one is not two:
        return "measured now" if one is Severity.unknown else "not measured now"
    return "more severe" if two > one else "less severe" if two < one else "other status"
