"""report.html in a real browser: opened, sorted, filtered, scrubbed, copied, printed, read aloud.

One headless Chromium for the whole file. It ends with the file: while it runs, no other event loop
can be started in this thread.
"""

from __future__ import annotations

import io
import os
import shutil

import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.reporters import document
from divergence_doctor.reporters.html import Html
from tests.benchmarks._long_trace import long_trace

LAYERS, STEPS = 24, 4


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; a machine that is to say whether all is well must have it."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def files(told, tmp_path_factory):
    """The pages, as they lie on a disk: of a run of some steps and layers, and of a hostile one."""
    trace = long_trace(layers=LAYERS, steps=STEPS, samples=16)
    documents = {
        "deep": document(trace, diagnose(trace)),
        **{name: told[name] for name in ("diverged", "healthy", "hostile")},
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, one in documents.items():
        (folder / f"{name}.html").write_text(Html().render(one), encoding="utf-8")
    return folder


class Seen:
    """A page with everything that the browser had to say of it."""

    def __init__(self, page, address):
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address)
        self.asked = [url for url in self.asked if url != address and not url.startswith("data:")]


@pytest.fixture
def opened(browser, files):
    """Open one of the pages."""
    contexts = []

    def open_page(name, *, width=1280, scheme="light", scripting=True, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripting,
            **options,
        )
        contexts.append(context)
        return Seen(context.new_page(), (files / f"{name}.html").as_uri())

    yield open_page
    for context in contexts:
        context.close()


def column(page, step, index):
    """Return the texts of one column of the table of layers, as it stands, hidden rows left out."""
    rows = page.locator(f"details.step >> nth={step}").locator("tbody tr:visible")
    return [
        row[index]
        for row in rows.evaluate_all("r => r.map(t => [...t.cells].map(c => c.textContent))")
    ]


@pytest.mark.parametrize("name", ["deep", "diverged", "healthy", "hostile"])
def test_a_page_opens_without_an_error_a_request_or_sideways_scrolling(opened, name):
    for width in (400, 1280):
        seen = opened(name, width=width)
        assert seen.said == []
        assert seen.asked == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [("deep", "light", 1280), ("diverged", "dark", 400), ("healthy", "dark", 1280),
     ("hostile", "light", 400)],
)  # fmt: skip
def test_a_page_passes_the_check_of_accessibility(opened, name, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(opened(name, width=width, scheme=scheme).page)
    assert found.violations_count == 0, found.generate_report()


def test_it_is_light_or_dark_as_the_reader_has_it_and_light_on_paper(opened):
    from PIL import Image

    ink = {}
    for scheme in ("light", "dark"):
        page = opened("diverged", width=400, scheme=scheme).page
        picture = Image.open(io.BytesIO(page.screenshot())).convert("L")
        ink[scheme] = picture.getpixel((2, 450))
    assert ink["light"] > 200
    assert ink["dark"] < 60
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # Nothing scrolls on paper, and what is folded away is printed without scripting too.
    folded = "getComputedStyle(document.querySelector('#who details'), '::details-content')"
    assert page.evaluate(f"{folded}.contentVisibility") == "visible"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflow") == "visible"
    )


def test_it_prints_what_is_folded_away_and_one_step_of_the_layers(opened):
    page = opened("deep").page
    assert (
        not page.get_by_text("ruled out or not examined").locator("xpath=..").get_attribute("open")
    )

    content = page.pdf(format="A4")

    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page\n") < 15
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not(.step):not([open])").count() == 0
    assert page.locator("details.step[open]").count() == 1
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not(.step):not([open])").count() > 0


def test_a_column_is_sorted_by_its_figures_and_a_third_click_brings_the_order_back(opened):
    page = opened("deep").page
    head = page.locator("details.step >> nth=-1").get_by_role("columnheader", name="gradient L2")
    order = column(page, -1, 0)

    head.get_by_role("button").click()
    falling = [float(text) for text in column(page, -1, 6)]
    assert head.get_attribute("aria-sort") == "descending"
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > falling[-1]

    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(page, -1, 6)] == falling[::-1]

    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(page, -1, 0) == order


def test_words_figures_and_what_is_missing_are_sorted_each_in_its_way(opened):
    page = opened("deep").page
    page.evaluate(
        """() => {
          const body = document.querySelector('details.step:last-of-type table.filter').tBodies[0];
          ['2.5', 'NaN', '—', '1,200', 'Inf', '-Inf', '1e-05'].forEach((text, row) => {
            body.rows[row].cells[3].textContent = text;
          });
          [...body.rows].slice(7).forEach((row) => row.remove());
        }"""
    )
    button = page.locator("details.step >> nth=-1").get_by_role("button", name="output max abs")
    button.click()
    assert column(page, -1, 3) == ["NaN", "Inf", "1,200", "2.5", "1e-05", "-Inf", "—"]
    button.click()
    assert column(page, -1, 3) == ["-Inf", "1e-05", "2.5", "1,200", "Inf", "NaN", "—"]
    page.locator("details.step >> nth=-1").get_by_role("button", name="layer").click()
    assert [name[-7] for name in column(page, -1, 0)] == list("0123456")


def test_layers_are_filtered_by_words_and_by_what_is_not_finite(opened):
    page = opened("deep").page
    words = page.get_by_label("Filter layers")
    words.fill("BLOCK_1 dense")
    assert len(column(page, -1, 0)) == 11
    assert page.get_by_text(f"11 of {LAYERS} layers").is_visible()
    page.get_by_label("only what is not finite").check()
    assert column(page, -1, 0) == []
    page.get_by_label("only what is not finite").uncheck()
    words.fill("")
    assert len(column(page, -1, 0)) == LAYERS


def test_the_steps_are_scrubbed_by_the_keyboard(opened):
    page = opened("deep").page
    slider = page.get_by_role("slider", name="Replayed step")
    shown = page.locator("details.step:visible")
    assert shown.locator("summary").text_content().startswith(f"Step {STEPS - 1}: loss NaN")

    slider.press("ArrowLeft")
    assert shown.count() == 1
    assert shown.locator("summary").text_content().startswith(f"Step {STEPS - 2}: loss 0.5")
    assert slider.get_attribute("aria-valuetext").startswith(f"Step {STEPS - 2}")
    slider.press("Home")
    assert shown.locator("summary").text_content().startswith("Step 0: loss 2, finite")
    assert shown.locator("tbody tr").count() == LAYERS
    page.get_by_label("Filter layers").fill("block_7")
    assert shown.locator("tbody tr:visible").count() == 1


def test_code_is_copied_at_a_click(opened):
    page = opened("deep", permissions=["clipboard-read", "clipboard-write"]).page
    pasted = page.locator("#mend .pasted").first
    pasted.get_by_role("button").click()
    pasted.get_by_text("Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == pasted.locator("pre").text_content()
    assert copied.startswith("tf.math.log(")


def test_a_tip_is_reached_by_the_keyboard_and_sent_away_by_escape(opened):
    page = opened("deep").page
    tip = page.get_by_role("tooltip", include_hidden=True)
    button = page.locator("details.step >> nth=-1").get_by_role("button", name="update / weight")
    button.focus()
    assert tip.is_visible()
    assert "0.001 is ordinary" in tip.text_content()
    assert button.get_attribute("aria-describedby") == tip.get_attribute("id")
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    page.locator("details.step[open] .profile").hover()
    assert "activation" in tip.text_content()


def test_without_scripting_everything_is_there_and_nothing_that_would_not_work(opened):
    page = opened("deep", width=400, scripting=False).page
    assert page.locator("details.step").count() == STEPS
    assert page.locator("details.step:visible").count() == STEPS
    first = page.locator("details.step").first
    assert not first.locator("table").is_visible()
    first.locator("summary").click()
    assert first.locator("tbody tr:visible").count() == LAYERS
    assert page.get_by_role("button").count() == 0
    assert page.locator("input").count() == 0
    assert page.locator(".bar:visible").count() == 0


def test_the_policy_lets_no_other_script_or_style_in(opened):
    seen = opened("hostile")
    seen.page.evaluate(
        """() => {
          const script = document.createElement('script');
          script.textContent = 'window.owned = true';
          const style = document.createElement('style');
          style.textContent = 'body { display: none }';
          const styled = document.createElement('div');
          styled.setAttribute('style', 'position: fixed');
          document.body.append(script, style, styled);
          window.position = getComputedStyle(styled).position;
        }"""
    )
    assert seen.page.evaluate("window.owned") is None
    assert seen.page.evaluate("getComputedStyle(document.body).display") == "block"
    assert seen.page.evaluate("window.position") == "static"
    assert len(seen.said) == 3
    assert all("Content Security Policy" in line for line in seen.said)


def test_names_of_the_input_are_text_to_the_browser(opened, runs):
    page = opened("hostile").page
    assert page.locator("main img").count() == 0
    assert page.locator("main a[href*='//'], main a[href^='javascript']").count() == 0
    assert page.locator("script").count() == 1
    text = page.evaluate("document.body.innerText")
    assert "<script>alert(1)</script>" in text
    assert "\x1b" not in text
