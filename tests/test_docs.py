"""What is documented is executed: the Python code of the README and of every page in docs/."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:python|\{code-cell\} ipython3)\n((?::[^\n]*\n)*)(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    return [code for _, code in BLOCK.findall(page.read_text())]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, in one namespace, where examples/ is at hand.

    A page that needs an extra says so: <!-- needs: torch -->.
    """
    for extra in re.findall(r"<!-- needs: (\w+) -->", page.read_text()):
        if importlib.util.find_spec(extra) is None:
            pytest.skip(f"{page.name} needs {extra}")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page_of_docs")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for number, code in enumerate(blocks(page), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec", dont_inherit=True), vars(module))


def test_readme_has_two_commands() -> None:
    marked = re.findall(r"^<!-- run: (\w+) -->\n```bash\n(.+\n)+?```", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _ in marked] == ["audit", "tests"]


def test_pages_link_to_pages_that_exist() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", BLOCK.sub("", page.read_text())):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_public_name_has_one_topic() -> None:
    import unveil

    blocks_of_names = re.findall(r"public-names::\n\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    told = [name for block in blocks_of_names for name in block.split()]
    assert sorted(told) == sorted(unveil._PUBLIC)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name.startswith("tutorial-")], ids=lambda page: page.stem
)
def test_tutorials_are_notebooks(page: Path) -> None:
    """Executed in the documentation's build, with a figure, and offered as .ipynb."""
    text = page.read_text()
    assert text.startswith("---\nfile_format: mystnb\n")
    assert f"{{nb-download}}`{page.stem}.ipynb`" in text
    assert "```python\n" not in text, "code outside a cell is shown but not executed"
    last = [code.rstrip().splitlines()[-1] for code in blocks(page)]
    assert any(line.endswith(".plot()") or line in ("plt.show()", "page") for line in last)


def test_the_index_leads_to_every_tutorial_and_theory_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES:
        if page.name.startswith(("tutorial-", "theory-", "getting-")):
            assert f"]({page.name})" in index
