"""report.md: the verdict first, within GitHub's limit, and nothing live in it from the input."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from markdown_it import MarkdownIt

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.reporters import document
from divergence_doctor.reporters.markdown import Markdown, code, fenced, prose
from divergence_doctor.rules import Evidence, Site
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace


def inline_tokens(text):
    """Yield what GitHub makes of the text; what it links of itself is linked here, too."""
    parser = MarkdownIt("gfm-like")
    # Domains alone (`custom.py`, of Paraguay) are no links on GitHub, as they are for the library.
    parser.linkify.set({"fuzzy_link": False})
    for token in parser.parse(text):
        yield token
        yield from token.children or ()


def test_the_verdict_and_the_sentence_stand_in_the_first_five_lines(told):
    first = "\n".join(Markdown().render(told["diverged"]).splitlines()[:5])
    assert first == (
        "## ❌ `log-of-zero`: confirmed, 97% sure (DD201)\n"
        "\n"
        "`Log` in the loss was given 2 zeros (samples 3 and 5) and made -Inf.\n"
        "\n"
        "stage loss · step 1 · layer `decoder/dense_2` · op `Log` · line `losses.py:41` "
        "· samples 3, 5"
    )


def test_the_proof_begins_with_the_control_and_the_change_that_mended_it(told):
    text = Markdown().render(told["diverged"])
    rows = re.findall(r"^\| (.*?) \| (.*?) \|", text.split("### Proof")[1], re.MULTILINE)[2:5]
    assert rows == [
        ("nothing (control)", "still fails"),
        ("the input of Log kept above 1e-7", "**failure gone**"),
        ("the learning rate divided by 10", "still fails"),
    ]


def test_the_code_to_paste_stands_in_python_fences(told):
    text = Markdown().render(told["diverged"])
    assert "```python\ntf.math.log(tf.maximum(p, 1e-7))\n```" in text
    assert "```python\nkeras.losses.BinaryCrossentropy(from_logits=True)\n```" in text


def test_what_reached_nothing_is_told_and_not_blamed(told):
    harmless = Markdown().render(told["diverged"]).split("### Not finite, but harmless")[1]
    assert "| op `Softmax` | `attention` | forward |" in harmless.split("###")[0]


def test_symptoms_stand_in_a_table_of_their_own(told):
    text = Markdown().render(told["diverged"])
    symptoms = text.split("### Symptoms")[1].split("###")[0]
    assert (
        "| `dead-units` DD801 | 31 of 64 units of dense are dead. | `log-of-zero` | — |" in symptoms
    )
    assert "dead-units" not in text.split("Every finding")[1]


@pytest.mark.slow
def test_five_thousand_layers_stay_below_the_limit_and_the_cut_is_announced():
    trace = training_trace(losses=(1.0,), layers=[f"block_{i}/dense" for i in range(5_000)])
    told = document(trace, diagnose(trace, rules=()))
    text = Markdown().render(told)
    assert len(text) <= 60_000
    assert len(text) > 50_000
    match = re.search(r"\*\*Cut for length:\*\* ([\d,]+) more of 5,000 layers left out", text)
    assert match is not None
    assert text.count("<details>") == text.count("</details>")
    assert len(Markdown(limit=3_000).render(told)) <= 3_000


def test_a_main_part_that_is_too_long_loses_whole_blocks_and_names_their_sections(told):
    text = Markdown(limit=3_000).render(told["diverged"])
    assert len(text) <= 3_000
    (cut,) = re.findall(r"\*\*Cut for length:\*\* more of (.*): `report.html` has all", text)
    assert cut.split(", ")[-3:] == ["but harmless", "Reproduce", "Figures"]
    assert {"Evidence", "Symptoms"} <= set(cut.split(", "))
    assert text.count("```") % 2 == 0
    assert text.count("<details") == text.count("</details>")


@pytest.fixture(scope="module")
def large(runs):
    """A thousand layers, 64 samples to blame, 60 trials, and every name as long as they come."""
    names = [f"model/{'stage_of_the_network/' * 5}block_{n}/dense" for n in range(1_000)]
    event = SyntheticEvent("Log", layer=names[500], samples=tuple(range(64)), inputs=([0.0],))
    x = np.ones((64, 4))
    x[:63, 1] = np.nan
    trace = training_trace(
        layers=names,
        losses=(math.nan,),
        x=x,
        y=np.zeros((64, 1)),
        events=(event,),
        trials=[
            {"name": "lower-rate", "cause": "high-learning-rate", "changed": f"{name} changed",
             "outcome": "still-fails", "detail": f"{name} is not finite", "breadth": 3}
            for name in names[:60]
        ],
    )  # fmt: skip
    site = Site(step=0, layer=names[500], op="Log", source=f"{'deep/' * 100}losses.py:41")
    evidence = tuple(Evidence(f"of {name}", 1.0, f"/activations/{name}") for name in names[:40])
    return document(
        trace,
        runs.diagnosed(trace, site=site, samples=tuple(range(64)), evidence=evidence),
    )


def test_a_thousand_layers_and_64_culprits_with_long_names_fit_and_every_cut_is_told(large):
    text = Markdown().render(large)
    assert 20_000 < len(text) <= 60_000
    assert text.splitlines()[0].startswith("## ❌ `log-of-zero`")
    assert "samples 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … (64 in all: see `report.json`)" in text
    cuts = [line for line in text.splitlines() if "Cut for length" in line]
    assert [cut for cut in cuts if "trials left out" in cut] == [
        "**Cut for length:** 36 more of 60 trials left out here. `report.html` has all of them."
    ]
    assert any(re.search(r"more of 1,000 layers left out here", cut) for cut in cuts)
    assert all("`report.html`" in cut for cut in cuts)


@pytest.mark.parametrize("name", ["diverged", "healthy", "empty", "hostile", "large"])
def test_every_table_is_whole_and_folded_away(name, told, request):
    text = Markdown().render(request.getfixturevalue("large") if name == "large" else told[name])
    depth, widths = 0, []
    for token in MarkdownIt("gfm-like").parse(text):
        if token.type == "html_block":
            depth += token.content.count("<details") - token.content.count("</details>")
        if token.type == "table_open":
            assert depth == 1
            widths.append([])
        if token.type == "tr_open":
            widths[-1].append(0)
        if token.type in {"th_open", "td_open"}:
            widths[-1][-1] += 1
    assert depth == 0
    assert len(widths) >= {"empty": 0, "healthy": 2}.get(name, 7)
    for rows in widths:
        assert len(rows) > 1
        assert len(set(rows)) == 1
    # What did not become a table would stand as text with its bars.
    parsed = [token for token in inline_tokens(text) if token.type == "text"]
    assert not [token.content for token in parsed if token.content.lstrip().startswith("| ")]


@pytest.mark.parametrize("name", ["hostile", "diverged"])
def test_nothing_from_the_input_is_live(name, told):
    text = Markdown().render(told[name])
    assert len(text) <= 60_000
    for token in inline_tokens(text):
        assert token.type != "link_open"
        if token.type in {"html_inline", "html_block"}:
            assert re.fullmatch(
                r"(<details( open)?><summary>[\w ,']+</summary>|</details>)\s*", token.content
            )
        assert token.type != "image"
        if token.type == "text":
            assert not re.search(r"[@#<>$]|://|www\.|\x1b|\u202e", token.content), token.content


def test_a_hostile_name_breaks_no_table(told):
    text = Markdown().render(told["hostile"])
    tables, width = 0, None
    for line in text.splitlines():
        if not line.startswith("| "):
            width = None
            continue
        cells = len(re.split(r"(?<!\\)\|", line)) - 2
        tables += width is None
        width = width or cells
        assert cells == width, line
    assert tables >= 8


def test_every_fence_is_closed_whatever_stands_in_it():
    assert code("a`b") == "``a`b``"
    assert code("``` x") == "```` ``` x ````"
    assert code("") == "—"
    assert fenced("```\nx\n````") == "`````\n```\nx\n````\n`````"


def test_prose_puts_what_could_become_markup_into_code_spans():
    assert prose("ask @everyone in #12, now") == "ask `@everyone` in `#12`, now"
    assert prose("see (http://a.b/c).") == "see (`http://a.b/c`)."
    assert prose("Adam(learning_rate=*)") == "`Adam(learning_rate=*)`"
    assert prose("layer dense_2/kernel holds 3 NaN") == "layer dense_2/kernel holds 3 NaN"
    assert prose("- 1. item") == "\\- 1. item"
    assert prose("1. item") == "1\u200d. item"
    assert prose("__init__ fixed 0123abc") == "`__init__` fixed `0123abc`"
    assert prose("use `a | b` here") == "use `a | b` here"
    assert prose("in !12, %3, {noformat} and KEY-7 a!b!") == (
        "in `!12`, `%3`, `{noformat}` and `KEY-7` `a!b`!"
    )
    assert prose("95% of 1e-05, all of it!") == "95% of 1e-05, all of it!"


def test_a_list_in_brackets_is_one_piece_of_code_and_a_product_is_none():
    assert prose("outside [0, 1] and x[5, 2]: 0 * NaN") == "outside `[0, 1]` and `x[5, 2]`: 0 * NaN"
    assert prose("* not a bullet").startswith("`*`")
