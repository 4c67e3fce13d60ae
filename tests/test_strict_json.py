"""What is written as JSON is JSON: without NaN and infinity, which other programs refuse; marks of code on the page."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import typer

import unveil as uv
from unveil.audit.catalogue import CATALOGUE
from unveil.audit.page import spans
from unveil.blackbox.answer_export import export_answers
from unveil.blackbox.answer_file import AnswerFile
from unveil.cli.command import clear_errors

ROOT = Path(uv.__file__).parent


def strict(text: str) -> object:
    """Parsed as other programs do it."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_whatever_a_command_or_a_page_writes_as_json_refuses_nan() -> None:
    seen = 0
    rooms = (*(ROOT / "cli").rglob("*.py"), *(ROOT / "audit").rglob("*.py"))
    for path in (*rooms, ROOT / "blackbox" / "answer_export.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # What a problem file holds is quoted in an error, which is no JSON.
            quoted = path.name == "problem.py"
            if not quoted and isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                assert given.get("allow_nan") == "False", f"{path.name}:{node.lineno}"
                seen += 1
    assert seen >= 5


def test_an_error_told_as_json_holds_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    error = uv.SourceError("it answered nan")
    error.sent = float("nan")  # type: ignore[assignment]
    with pytest.raises(typer.Exit), clear_errors(as_json=True):
        raise error
    told = strict(capsys.readouterr().out)
    assert isinstance(told, dict)
    assert told["sent"] is None
    assert told["causes"] == ["it answered nan"]


def test_answers_that_are_missing_are_exported_as_null(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.sqlite")
    kept = [np.array([1.0, np.inf]), np.array([np.nan, 2.0])]
    file.put([(bytes([i]) * 16, b"d" + each.tobytes()) for i, each in enumerate(kept)])
    out = tmp_path / "answers.jsonl"
    assert export_answers(file, out) == 2
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [strict(line)["answer"] for line in lines] == [[1.0, None], [None, 2.0]]  # type: ignore[index]


def test_what_stands_between_backticks_is_code_on_the_page() -> None:
    for entry in CATALOGUE.values():
        for text in (entry.scenario, entry.access, entry.check, entry.remedy):
            assert "`" not in spans(text)
            assert spans(text).count("<code>") == text.count("`") / 2
    assert spans("`<b>` & more") == "<code>&lt;b&gt;</code> &amp; more"
    assert spans("one ` alone <i>") == "one ` alone &lt;i&gt;"
    page = (ROOT / "audit" / "templates" / "page.html").read_text(encoding="utf-8")
    for name in ("scenario", "access", "check", "remedy"):
        assert f"{{{{ risk.entry.{name} | spans }}}}" in page
