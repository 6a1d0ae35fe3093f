"""report.html: one file, nothing asked of anybody, nothing live in it from the input."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.reporters import document
from divergence_doctor.reporters._by_step import by_step
from divergence_doctor.reporters._text import cleaned, shorten
from divergence_doctor.reporters.html import Html, _ours, _unstyled
from divergence_doctor.trace.synthetic import training_trace
from tests.benchmarks._long_trace import long_trace

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "div", "span", "b", "header"),
    *("h1", "h2", "h3", "p", "dl", "dt", "dd", "code", "section", "table", "tr", "th", "td"),
    *("ol", "ul", "li", "pre", "details", "summary", "figure", "figcaption", "footer", "br"),
    *("a", "nav", "thead", "tbody", "img", "script"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id"),
    *("role", "aria-label", "tabindex", "open", "href", "scope", "title", "hidden"),
    *("data-steps", "data-filters", "data-bad", "src", "alt", "width", "height"),
}
VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """Collects tags, attributes and text, apart from the pictures; checks the nesting."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = set(), set(), [], []
        self.drawn, self.references, self.inside = set(), [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if "svg" in [*self.open, tag]:
            self.drawn |= {tag, *(name for name, _ in attrs)}
        else:
            self.tags.add(tag)
            self.attributes |= {name for name, _ in attrs}
        self.references += [v for name, v in attrs if name.endswith(("href", "src", "action"))]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"script", "style"}:
            self.inside.setdefault(self.open[-1], []).append(data)
        else:
            self.text.append(data)


@pytest.mark.parametrize("name", ["diverged", "healthy", "empty", "hostile"])
def test_no_tag_or_attribute_comes_from_the_input(name, told):
    page = Page(Html().render(told[name]))
    assert page.open == []
    assert page.tags <= TAGS
    assert page.attributes <= ATTRIBUTES
    assert not {"script", "foreignobject", "a"} & page.drawn
    assert not [name for name in page.drawn if name.startswith("on") or name == "style"]
    assert all(r.startswith(("#", "data:image/png;base64,")) for r in page.references)


def test_hostile_names_are_shown_as_text(told):
    page = Page(Html().render(told["hostile"]))
    text = "".join(page.text)
    assert "<script>alert(1)</script>" in text
    assert "{{ 7 * 7 }}" in text
    assert "\\x1b[2J" in text
    assert not {"\x1b", "\u202e", "\u2069", "\x07"} & set(text)


def test_the_page_asks_nobody_for_anything(told):
    text = Html().render(told["diverged"])
    assert "default-src 'none'; style-src 'sha256-" in text
    assert "img-src data:; base-uri 'none'; form-action 'none'" in text
    assert "unsafe" not in text.split("</head>")[0]
    assert "@import" not in text
    assert "url(" not in "".join(Page(text).inside["style"])
    assert "<link" not in text
    assert not {"fetch(", "XMLHttpRequest", "innerHTML", "eval(", "import("} & set(
        re.findall(r"[\w.]+\(|\w+", "".join(Page(text).inside["script"]))
    )


@pytest.mark.parametrize("name", ["diverged", "hostile"])
def test_the_policy_names_the_hashes_of_the_one_script_and_the_one_style_sheet(name, told):
    text = Html().render(told[name])
    page = Page(text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (inside,) = page.inside[tag]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
        assert text.count(f"<{tag}") == 1


def test_what_looks_like_a_style_in_a_name_never_gets_into_the_style_sheet():
    rules = {}
    name = """<svg aria-label='a style="color: evil" b' style="fill: #fff">"""
    name += """<text>style="x"</text></svg>"""
    drawn = _unstyled(name, rules)
    assert rules == {"fill: #fff": "s0"}
    assert 'a style="color: evil" b\' class="s0"' in drawn
    assert '<text>style="x"</text>' in drawn
    assert _unstyled('<g style="a { b }">', rules) == "<g >"
    assert len(rules) == 1


def test_the_verdict_comes_before_everything_else(told):
    told = told["diverged"]
    text = Html().render(told)
    ids = ("proof", "where", "who", "mend", "figures", "steps", "layers", "reproduce")
    places = [text.index(f'<section id="{name}">') for name in ids]
    assert text.index("<h1>log-of-zero</h1>") < places[0]
    assert places == sorted(places)
    assert text.count("<figure>") == len(told.pictures) > 0


def test_symptoms_stand_in_a_section_of_their_own(told):
    page = Html().render(told["diverged"])
    section = page.split('<section id="symptoms">')[1].split("</section>")[0]
    assert "31 of 64 units of dense are dead." in section
    assert "<code>log-of-zero</code>" in section
    assert "dead-units" not in page.split('<section id="findings">')[1]
    assert '<section id="symptoms">' not in Html().render(told["empty"])


def test_a_healthy_run_is_calm(told):
    text = Html().render(told["healthy"])
    assert "<h1>Healthy: no divergence in 3 replayed steps</h1>" in text
    assert 'id="mend"' not in text


def test_a_table_that_is_too_long_is_cut_and_announced():
    trace = training_trace(losses=(1.0,), layers=[f"block_{i}/dense" for i in range(40)])
    text = Html(max_rows=10).render(document(trace, diagnose(trace, rules=())))
    assert "30 more of 40 layers left out here." in text
    assert "block_39/dense" not in text.split('id="layers"')[1]


def test_what_the_samples_to_blame_hold_is_shown_as_a_picture_or_as_values(runs):
    told = {"batch": 0, "sample": 3, "role": "x"}
    picture = {
        **told, "name": "x", "dtype": "float32", "shape": "8x8x1", "size": 64,
        "height": 8, "width": 8, "channels": 1, "low": 0.0, "high": 1.0,
        "values": json.dumps([-1, *range(63)]),
    }  # fmt: skip
    rows = (
        ("excerpts", picture),
        ("excerpts", {**told, "name": "y", "dtype": "float64", "shape": "100", "size": 100,
                      "values": '[0.25, "nan", "-inf", 2]'}),
        ("excerpts", {**told, "name": "<b>", "size": 3, "values": "[0, 0, 0]"}),
        ("excerpts", {**told, "name": "broken", "size": 3, "values": "[0, {}]"}),
        ("excerpts", {**picture, "name": "huge", "height": 10**6}),
    )  # fmt: skip
    trace = runs.with_rows(runs.diverged_trace(), *rows)
    text = Html().render(replace(document(trace, runs.diagnosed(trace)), pictures=()))
    section = text.split('<ul class="samples">')[1].split("</ul>")[0]
    assert "<b>Sample 3</b>" in section
    assert "0 (dark) to 1 (light), not finite in red" in section
    values = '0.25, <span class="bad">NaN</span>, <span class="bad">-Inf</span>, 2, … 96 more'
    assert values in section
    assert "<code>&lt;b&gt;</code>" in section
    assert "3 times 0" in section
    assert not {"broken", "huge"} & set(re.findall(r"\w+", section))
    data = base64.b64decode(re.search(r"base64,([\w+/=]+)", section)[1])
    pixels = Image.open(io.BytesIO(data)).convert("RGB")
    assert pixels.size == (8, 8)
    assert pixels.getpixel((0, 0)) == (0xD5, 0x5E, 0)
    assert pixels.getpixel((1, 1)) == (8, 8, 8)


def test_every_step_has_its_layers_and_what_there_is_no_room_for_is_announced():
    losses = [2.0 - step / 10 for step in range(9)] + [math.nan]
    trace = training_trace(losses=losses, layers=[f"block_{i}" for i in range(5)])
    whole = by_step(trace, "block_4")
    assert [(step.step, step.failing, step.tabled) for step in whole] == [
        (step, step == 9, True) for step in range(10)
    ]
    assert [row.layer for row in whole[3].rows] == [f"block_{i}" for i in range(5)]
    assert whole[3].rows[4].blamed
    assert whole[3].title == "loss 1.7, finite"
    cut = by_step(trace, None, max_rows=11, max_steps=4)
    assert [(step.step, step.tabled) for step in cut] == [
        (0, True), (7, False), (8, False), (9, True),
    ]  # fmt: skip
    assert cut[1].rows == ()
    told = replace(document(trace, diagnose(trace, rules=())), layers_by_step=cut, pictures=())
    text = Html().render(told)
    assert text.count('<details class="step"') == 4
    assert text.count("The table of this step is left out here") == 2
    assert "6 more of 10 steps left out here." in text


def test_the_drawing_of_a_step_shows_size_and_what_is_not_finite_on_one_scale():
    bad = np.full((8, 8), np.nan)
    trace = training_trace(
        losses=(1.0, math.nan),
        layers=("a", "b", "c"),
        activation_absmax=(1.0, 10.0, 1.0),
        gradient_l2=(1.0, 1.0, 100.0),
        outputs={"c": bad},
    )
    first, last = (step.profile for step in by_step(trace, None))
    assert (first.low, first.high) == (last.low, last.high) == pytest.approx((1.0, 100.0))
    assert last.activations == ("166.7,100 500,50",)
    assert last.gradients == ("166.7,100 500,100 833.3,0",)
    assert last.bad == (833.3,)
    assert last.sentence == (
        "Step 1: activations 1 to 10; gradients 1 to 100; 1 of 3 layers not finite."
    )


def test_figures_that_no_trace_of_ours_holds_are_left_out_of_the_drawing():
    trace = training_trace(losses=(1.0,), layers=("a", "b", "c", "d"))
    trace.table("activations")["absmax"][:] = (math.inf, -1.0, 1e308, 5e-324)
    trace.table("gradients")["l2"][:] = math.nan
    (step,) = by_step(trace, None)
    assert step.profile.activations == ("625,0 875,100",)
    assert step.profile.gradients == ()
    assert by_step(training_trace(losses=()), None) == ()


def test_a_page_of_200_layers_and_20_steps_is_well_below_5_mb():
    trace = long_trace(layers=200, steps=20)
    told = document(trace, diagnose(trace))
    text = Html().render(told)
    assert len(text.encode()) < 4_000_000
    assert text.count('<details class="step"') == 20
    assert "left out here" not in text.split('id="layers"')[1].split("</section>")[0]
    # The figures are drawn once more: the page is the same to the byte.
    assert Html().render(document(trace, diagnose(trace))) == text


#: What ends an element, a comment, a section or a string, moves the cursor, or is not there to see.
NASTY = (
    *(
        "</style>",
        "</script><script>1</script>",
        "<!--",
        "-->",
        "]]>",
        "&lt;&amp;&#0;",
        '" onload="',
    ),
    *("' autofocus onfocus='1", "</td></tr></table>", "<svg/onload=1>", "<base href=//x>", "a\0b"),
    *(
        "\u202eevil\u2066",
        "\u200b\ufeff",
        "\x1b[31m",
        "\r\n\t",
        "{{ x }}{% y %}",
        "\ud800",
        "$\\frac{$",
    ),
    *("javascript:alert(1)", "=cmd()", "x" * 100_000, "`" * 7, "é\u0301" * 50, "<img src=//x/y>"),
)


def test_names_that_end_elements_become_text_nodes_and_nothing_else(runs):
    names = [f"{name}|{place}" for place, name in enumerate(NASTY)]
    trace = training_trace(losses=(1.0, math.nan), layers=names)
    told = replace(document(trace, runs.diagnosed(trace)), pictures=())
    page = Page(Html().render(told))
    assert page.open == []
    assert page.tags <= TAGS
    assert page.attributes <= ATTRIBUTES
    shown = [text for text in page.text if re.search(r"\|\d+$", text)]
    for name in names:
        assert shown.count(shorten(cleaned(name))) == 2, name
    assert not {"\0", "\x1b", "\u202e", "\u200b", "\ud800"} & set("".join(page.text))
    assert len("".join(page.inside["script"])) == len(_ours("html.js"))
