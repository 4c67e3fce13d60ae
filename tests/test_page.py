"""The page: complete in itself, safe with hostile names, equal to its JSON, and readable on a telephone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from unveil import BadInput, BudgetExceeded, Outcome, SourceError, as_oracle
from unveil.audit.chart import Chart
from unveil.audit.drawing import draw_input, picture_shape, png
from unveil.audit.figures import plain
from unveil.audit.page import Page
from unveil.audit.run import run
from unveil.audit.section import Section
from unveil.audit.stage import Audit, Stage
from unveil.audit.text import brief, share

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[31m\u202e{{ 7*7 }}{% raw %}.onnx"


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text inside each <data>."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[tuple[str, str, str]] = []
        self._open: dict[str, str | None] | None = None
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "data":
            self._open = dict(attrs)

    def handle_data(self, data):
        self.texts.append(data)
        if self._open is not None:
            self.data.append((self._open["data-figure"], self._open["value"], data))
            self._open = None


def hostile_page() -> Page:
    chart = Chart((0, 9), (1e-6, 10), HOSTILE, HOSTILE, HOSTILE, log=True)
    chart = chart.points([1, 2], [1, 0.1]).line([0, 9], [1, 2]).level(1e-3, HOSTILE).mark(3, HOSTILE).shade(1e-5, 1e-3)
    images = np.random.default_rng(0).random((2, 784))
    section = Section(
        key="span",
        title=HOSTILE,
        verdict=HOSTILE,
        body="<p>{{ values.name }}</p>{{ values.chart }}{{ values.image }}{{ figure('rank') }} {{ figure('sizes.1') }}"
        " {{ figure('name') }}{{ code(values.name) }}",
        values={"name": HOSTILE, "chart": chart.svg(), "image": draw_input(images[0], (784,), HOSTILE)},
        figures={"rank": 63224, "sizes": np.array([0.5, 2.1e-8]), "name": HOSTILE, "hole": np.nan},
        files={"basis.npz": {"basis": np.eye(3)}},
        claim=HOSTILE,
        emblem=draw_input(images[1, :30], (30,), HOSTILE),
        outcome=Outcome.complete,
        next_steps=(HOSTILE,),
    )
    return Page(HOSTILE, (section,), {"queries": 12, "seed": 0}, (("queries", HOSTILE), ("span.rank", "rank")))


def assert_self_contained(text: str) -> None:
    """No element that could load or run anything, and a policy that forbids it besides."""
    elements = Elements(text)
    tags = {tag for tag, _ in elements.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video", "source", "use"}
    for tag, attributes in elements.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "background", "style"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, name, value)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)
    policy = next(a["content"] for t, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def assert_equals_json(text: str, figures: dict) -> int:
    """Every number shown through `figure` is the JSON's, exactly."""
    shown = Elements(text).data
    for path, value, _ in shown:
        found = figures
        for step in path.split("."):
            found = found[int(step)] if isinstance(found, list) else found[step]
        assert json.loads(value) == found, path
    return len(shown)


def test_hostile_names_stay_text():
    page = hostile_page()
    text = page.html()
    assert_self_contained(text)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "{{ 7*7 }}" in text  # nothing from outside is a template
    tags = {tag for tag, _ in Elements(text).tags}
    expected = (
        "html head meta title style body header main section footer p span div h1 h2 dl dt dd data ol li code pre img "
        "svg line text circle g rect polyline "
        "a h3 table caption thead tbody tr th td article ul strong"
    )
    assert tags <= set(expected.split())
    assert sum(tag == "img" for tag, _ in Elements(text).tags) == 1


def test_a_page_is_written_with_its_figures_and_files(tmp_path):
    page = hostile_page()
    written = page.write(tmp_path / "deep" / "audit.html")
    assert [file.name for file in written] == ["audit.html", "audit.json", "audit.basis.npz"]
    figures = json.loads(written[1].read_text())
    assert figures == page.all_figures()
    assert figures["span"]["hole"] is None
    assert figures["span"]["outcome"] == "complete"
    assert assert_equals_json(written[0].read_text(), figures) >= 5
    assert np.array_equal(np.load(written[2], allow_pickle=False)["basis"], np.eye(3))
    first = [file.read_bytes() for file in written]
    page.write(tmp_path / "deep" / "audit.html")
    assert first == [file.read_bytes() for file in written]
    with pytest.raises(BadInput, match="html"):
        page.write(tmp_path / "audit.pdf")


def test_two_sections_cannot_share_a_key():
    with pytest.raises(BadInput, match="span"):
        Page("a", (Section("span", "", "", figures={"x": 1}), Section("span", "", "", figures={"y": 1})))


def test_a_png_holds_its_pixels():
    from io import BytesIO

    from PIL import Image

    rng = np.random.default_rng(1)
    for channels in (1, 3):
        pixels = rng.integers(0, 256, (5, 7, channels)).astype(np.uint8)
        read = np.asarray(Image.open(BytesIO(png(pixels)))).reshape(pixels.shape)
        assert np.array_equal(read, pixels)
    assert zlib.crc32(b"IEND").to_bytes(4, "big") == png(pixels)[-4:]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((784,), (1, 28, 28)), ((3072,), (3, 32, 32)), ((1, 28, 28), (1, 28, 28)), ((3, 32, 32), (3, 32, 32)),
     ((784, 1), (1, 28, 28)), ((5,), None), ((4,), None), ((300,), (3, 10, 10)), ((7, 9), None)],
)  # fmt: skip
def test_what_is_drawn_as_a_picture(shape, expected):
    assert picture_shape(shape) == expected
    drawn = draw_input(np.linspace(-1, 1, int(np.prod(shape))), shape, "x")
    assert drawn.startswith("<svg" if expected is None else "<img")


def test_many_inputs_are_drawn_as_few_bars():
    drawn = str(draw_input(np.random.default_rng(0).standard_normal(5001), (5001,), "x"))
    assert drawn.count("<rect") == 128


def test_a_chart_says_nothing_outside_its_frame():
    chart = Chart((0, 100), (1e-8, 1), "sizes", log=True).points(np.arange(1, 101), np.logspace(1, -12, 100))
    places = [float(y) for y in re.findall(r'cy="([-\d.]+)"', str(chart.svg()))]
    assert len(places) == 200
    assert min(places) >= 0
    assert max(places) <= 300


def test_numbers_read_as_people_write_them():
    numbers = {
        80: "80", 63224: "63,224", 0.97312: "0.973", 2.1e-8: "2.1 × 10⁻⁸", 1.0: "1", 0.0: "0", None: "–",
        float("nan"): "–", -4.914: "−4.91", 425746.0: "4.26 × 10⁵",
    }  # fmt: skip
    for number, text in numbers.items():
        assert brief(number).replace("\u00a0", " ") == text
    shares = [share(p).replace("\u00a0", " ") for p in (1.0, 0.99999, 0.9731, 0.0001, 0.0)]
    assert shares == ["100.0 %", "> 99.9 %", "97.3 %", "< 0.1 %", "0.0 %"]


def test_plain_figures_are_json():
    figures = {"a": np.arange(3), "b": np.float32(0.5), "c": Outcome.full_rank, "d": (1, None), "e": np.inf, "f": True}
    assert json.dumps(plain(figures), allow_nan=False) == (
        '{"a": [0, 1, 2], "b": 0.5, "c": "full_rank", "d": [1, null], "e": null, "f": true}'
    )


def test_one_stage_that_fails_leaves_the_others_standing():
    def broken(audit):
        raise SourceError("the line went dead")

    def poor(audit):
        raise BudgetExceeded("a batch would cross it")

    def fine(audit):
        return Section(
            "fine", "Fine", "It is.", figures={"draw": audit.rng("fine").random()}, claim="stands", outcome=done
        )

    done = Outcome.complete
    oracle = as_oracle(lambda x: x[:, :2], shape=4)
    stages = [Stage("a", "Broken", broken), Stage("b", "Poor", poor), Stage("fine", "Fine", fine)]
    page = run(Audit(oracle, seed=5), stages)
    told = page.all_figures()
    assert told["outcomes"] == {"a": "SourceError", "b": "budget_ended", "fine": "complete"}
    assert (told["status"], told["exit_code"]) == ("not_measured", 3)
    assert page.figures["queries"] == oracle.ledger.asked
    assert "the line went dead" in page.html()
    assert "the line went dead" in page.verdict
    assert page.verdict.endswith("What was measured: it stands.")
    alone = run(Audit(as_oracle(lambda x: x[:, :2], shape=4), seed=5), stages[2:])
    assert alone.all_figures()["fine"] == page.all_figures()["fine"]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def assert_fits(file, tmp_path, width: int = 400) -> None:
    """In headless Chromium, nothing is wider than the window. The measuring script is added to a copy of the page."""
    measured = tmp_path / "measured.html"
    text = file.read_text()
    script = (
        "<script>document.documentElement.setAttribute('data-width',"
        "document.documentElement.scrollWidth + ' ' + window.innerWidth)</script>"
    )
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    # Chromium's windows cannot be narrower than 500 pixels; a frame can.
    measured.write_text(text.replace("</body>", script + "</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="measured.html" style="width:{width}px;height:60000px;border:0"></iframe>'
        "<script>onload = () => { const d = document.getElementById('f').contentDocument.documentElement;"
        "document.body.dataset.found = d.scrollWidth + ' ' + d.clientWidth }</script>"
    )
    seen = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000",
         "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    found = re.search(r'data-found="(\d+) (\d+)"', seen.stdout)
    assert found, seen.stderr[-500:]
    assert (int(found[1]), int(found[2])) == (width, width)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_nothing_overflows_on_a_telephone(tmp_path):
    page = hostile_page()
    section = replace(page.sections[0], claim="word " * 60 + "x" * 200)
    long = Page("n" * 300, (section,), page.figures, page.facts)
    assert_fits(long.write(tmp_path / "page.html")[0], tmp_path)


def test_without_a_budget_it_is_the_limit_of_a_step_that_was_reached():
    def poor(audit):
        return Section(
            "span",
            "Poor",
            "Then the budget ended.",
            outcome=Outcome.budget_ended,
            next_steps=("Allow a larger budget.",),
        )

    def told(budget):
        oracle = as_oracle(lambda x: x[:, :2], shape=4, budget=budget)
        return run(Audit(oracle, seed=5), [Stage("span", "Poor", poor)]).html()

    assert "the budget ended" in told(500)
    assert "budget ended" not in told(None)
    assert "the limit of this step was reached" in told(None)
    assert "--budget" in told(None)


def test_in_a_notebook_a_page_shows_itself_in_a_frame_that_runs_nothing():
    page = hostile_page()
    ((tag, attributes),) = Elements(page._repr_html_()).tags
    assert tag == "iframe"
    assert attributes["sandbox"] is None  # present, without an exception to it
    assert attributes["srcdoc"] == page.html()


def test_plots_show_themselves_in_a_notebook():
    """Without pyplot and its backends, a bare matplotlib figure would be shown as a line of text."""
    import pickle

    from unveil.pictures import inputs

    figure = inputs({"x": np.arange(5.0)})
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(figure))._repr_png_().startswith(b"\x89PNG")
