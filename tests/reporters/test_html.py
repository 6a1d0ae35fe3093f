"""report.html: one file, nothing asked of anybody, nothing live in it from the input."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.reporters import document
from divergence_doctor.reporters.html import Html
from divergence_doctor.trace.synthetic import training_trace

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "div", "span", "b", "header"),
    *("h1", "h2", "h3", "p", "dl", "dt", "dd", "code", "section", "table", "tr", "th", "td"),
    *("ol", "ul", "li", "pre", "details", "summary", "figure", "figcaption", "footer", "br"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id"),
    *("role", "aria-label", "tabindex", "open"),
}
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and text, apart from the pictures; checks the nesting."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = set(), set(), [], []
        self.drawn, self.references = set(), []
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
        self.text.append(data)


@pytest.mark.parametrize("name", ["diverged", "healthy", "empty", "hostile"])
def test_no_tag_or_attribute_comes_from_the_input(name, told):
    page = Page(Html().render(told[name]))
    assert page.open == []
    assert page.tags <= TAGS
    assert page.attributes <= ATTRIBUTES
    assert not {"script", "foreignobject", "a"} & page.drawn
    assert not [name for name in page.drawn if name.startswith("on")]
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
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert "@import" not in text
    assert "<link" not in text
    assert "<script" not in text
    assert "src=" not in text


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
