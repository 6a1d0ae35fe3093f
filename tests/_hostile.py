"""What may a stranger call a layer, a variable, an array, a file? One string for every trick."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from divergence_doctor.diagnosis import Diagnosis, diagnose
from divergence_doctor.rules import Evidence, Finding, Rule, Site
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace

if TYPE_CHECKING:
    from divergence_doctor.trace import Trace

STRINGS: Final[dict[str, str]] = {
    # What moves the cursor, colours, names the window, writes the clipboard, or hides.
    "ansi-colour": "\x1b[31mred\x1b[0m",
    "ansi-clear": "\x1b[2J\x1b[H",
    "ansi-cursor-up": "fine\x1b[1A\x1b[2Kworse",
    "ansi-8-bit": "\x9b31mred\x9b0m",
    "osc-title": "\x1b]0;owned\x07",
    "osc-link": "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "osc-link-st": "\x1b]8;;file:///etc/passwd\x1b\\open\x1b]8;;\x1b\\",
    "osc-clipboard": "\x1b]52;c;cm0gLXJmIC8K\x07",
    "dcs": "\x1bP1;2q\x1b\\",
    "apc": "\x1b_Gf=100;AAAA\x1b\\",
    "c1-string": "\x90payload\x9c",
    "backspaces": "safe\b\b\b\bevil",
    "carriage-return": "checked\rfailed",
    "bell": "\a\a\a",
    "nul": "a\0b",
    "delete": "a\x7fb",
    "lines": "one\ntwo\r\nthree\x0b\x0cfour",
    "tabs": "a\tb\tc",
    "next-line": "a\x85b",
    "line-separator": "a\u2028b\u2029c",
    # What looks like something else.
    "bidi-override": "user\u202egnp.exe",
    "bidi-isolate": "\u2066admin\u2069\u2067x",
    "zero-width": "ad\u200bmin\ufeff",
    "joiner": "a\u200d\u200cb",
    "soft-hyphen": "pass\u00adword",
    "tag-characters": "a\U000e0041\U000e0042",
    "combining": "z" + "\u0334\u0335\u0336\u0337" * 30,
    "homoglyph": "\u0430dmin",
    "private-use": "\ue000\U000f0000",
    "lone-surrogate": "a\ud800b",
    "reversed-surrogates": "\udc00\ud800",
    "not-a-character": "a\ufffe\uffffb",
    "right-to-left": "\u05e9\u05db\u05d1\u05d4/\u0634\u0628\u0643\u0629",
    "emoji": "\U0001f469\u200d\U0001f4bb/dense",
    # HTML and what runs in it.
    "script": "<script>alert(1)</script>",
    "script-end": "</script><script>alert(1)//",
    "style-end": "</style><style>*{display:none}",
    "svg-onload": "<svg/onload=alert(1)>",
    "img-onerror": '"><img src=x onerror=alert(1)>',
    "attribute": "' autofocus onfocus='alert(1)",
    "iframe": "<iframe src=//evil.example></iframe>",
    "base": "<base href=//evil.example>",
    "meta": '<meta http-equiv=refresh content="0;url=//evil.example">',
    "comment": "<!-- --!> <b>",
    "cdata": "]]><x/><![CDATA[",
    "entity": "&lt;b&gt;&amp;&#x3c;script&#x3e;",
    "xml-entity": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>&e;',
    "javascript-url": "javascript:alert(1)",
    "data-url": "data:text/html;base64,PHNjcmlwdD4=",
    "details-end": "</details></td></table><h1>x",
    # Markdown, on GitHub, on GitLab and in Jira.
    "md-link": "[click](http://evil.example)",
    "md-link-title": '[a](<javascript:alert(1)> "t")',
    "md-image": "![x](http://tracker.example/x.png)",
    "md-reference": "[a]: http://evil.example\n[a]",
    "md-autolink": "<http://evil.example>",
    "bare-url": "https://evil.example/x?y=1#z",
    "bare-www": "www.evil.example",
    "bare-mail": "mail@evil.example",
    "mention": "@everyone @org/team",
    "issue": "#1 GH-2 org/repo#3 !4 %5 $6 ~7 PROJ-8",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "md-table": "a | b | c |",
    "md-table-escaped": "\\| a \\\\| b",
    "md-heading": "# h\n## h\n===\n---",
    "md-list": "- a\n* b\n1. c\n> d",
    "md-fence": "```\n</code>\n```` ~~~",
    "md-backticks": "`a``b```c",
    "md-emphasis": "**a** __b__ ~~c~~ *d* _e_",
    "md-html": "<details open><summary>x</summary>",
    "jira": "{code}[x|http://evil.example]!http://evil.example/x.png!{color:red}",
    # Templates, formats, formulas, maths.
    "jinja": "{{ 7 * 7 }}{% raw %}{# x #}",
    "jinja-attack": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "percent": "%s %n %d %(x)s %",
    "braces": "{0} {x} {0.__class__} {{",
    "rich-markup": "[red]x[/red][link=http://evil.example]y[/link] :bomb:",
    "mathtext": "$\\frac{$",
    "mathtext-valid": "$x^2$ $\\mathrm{a}$",
    "latex": "\\input{/etc/passwd}",
    "csv-formula": '=cmd|"/C calc"!A1',
    "csv-formulas": "+1+1",
    "csv-minus": "-1+1",
    "csv-at": "@SUM(1+1)",
    "python-string": '"""\' + __import__("os").system("x") + """',
    "python-escape": "\\N{BELL}\\x00\\u202e\\",
    "shell": "$(rm -rf ~); `id` && echo; 'x'",
    # Paths and file names.
    "traversal": "../../../../etc/passwd",
    "absolute": "/etc/passwd",
    "windows-traversal": "..\\..\\windows\\system32",
    "windows-device": "CON",
    "windows-stream": "file.txt::$DATA",
    "trailing-dots": "name. . .",
    "option": "--help",
    "hidden": ".htaccess",
    # Of unusual length.
    "long": "x" * 100_000,
    "long-path": "encoder/" * 10_000,
    "long-hostile": "<b>\x1b[31m`" * 10_000,
    "blank": " \u00a0\u3000 ",
    "quotes": "'\"`\u201c\u201d",
    "underscore": "_hidden",
    "none": "None",
    "nan": "NaN",
}  # fmt: skip


_SAID: Final = ("name", "changed", "detail")
_HARMLESS: Final = (
    "what", "name", "layer", "phase", "source", "because", "reason", "ended_in", "ended_layer",
)  # fmt: skip


class Quoting(Rule):
    """A rule that finds one thing and quotes a stranger's names in every part of it."""

    id = "log-of-zero"
    code = "DD201"

    def __init__(self, name: str) -> None:
        self.name = name

    def examine(self, trace: Trace) -> Finding:
        del trace
        name = self.name
        return Finding(
            cause="log-of-zero",
            summary=f"`Log` in layer {name} was given a zero by {name}.",
            confidence=0.8,
            stage="loss",
            site=Site(step=1, layer=name, op=name, source=name),
            samples=(0,),
            evidence=(Evidence(f"zeros in {name}", name, name),),
            remedies=(
                # A backtick would end the code that is to be pasted, as in any prose.
                f"Change it: `tf.math.log({name.replace('`', '')})`.",
                f"Look at {name.replace('`', '')}",
            ),
        )

    @classmethod
    def fires_on(cls) -> tuple[()]:
        return ()

    @classmethod
    def quiet_on(cls) -> tuple[()]:
        return ()


def run_of(*names: str) -> Trace:
    """Return a run in which all that a stranger can name bears these names.

    Layers, their classes and configs, variables, arrays, ops, source lines, stacks, messages,
    paths, versions, trials and links of the chain.
    """
    name = names[0]
    event = SyntheticEvent(
        name, layer=name, layer_class=name, source=name, origin="batch", origin_name=name,
        samples=(0,), inputs=([0.0],), outputs=([math.nan],),
    )  # fmt: skip
    texts = dict.fromkeys(("name", "layer", "source", "phase", "through", "index", "what"), name)
    batch = {"batch": 0, "sample": 0}
    statistics = tensor([0.0, 1.0, math.nan])
    trace = training_trace(
        losses=(1.0, math.nan),
        layers=names,
        layer_class=name,
        events=(event,),
        raised=name,
        raised_type=name,
        raised_op=name,
        raised_layer=name,
        configs={name: {name: name}},
        weights={f"{one}/kernel": np.ones(2) for one in names},
        trials=[
            {"cause": "log-of-zero", "outcome": "finite", **dict.fromkeys(_SAID, one)}
            for one in names
        ],
        rows={
            "chain": [
                {"step": 1, "op": 0, "link": link, "followed": True, "departed": link == 0,
                 "value": 0.0, **dict.fromkeys(texts, one), **statistics}
                for link, one in enumerate(names)
            ],
            "cells": [{**batch, "name": name, "index": "0,0", "value": math.nan}],
            "batch": [
                {"batch": 0, "name": one, "role": "x", **statistics, "shape": one}
                for one in names[:6]
            ],
            "samples": [
                {**batch, "name": one, "role": "x", "nonfinite": 1, "min": 0.0, "max": 1.0}
                for one in names[:6]
            ],
            "losses": [{"step": 1, "name": one, "value": 1.0} for one in names[:4]],
            "sample_losses": [
                {"step": 1, "name": one, "sample": 0, "value": 1.0} for one in names[:4]
            ],
            "harmless": [
                {"step": 0, "times": 1, "nan": 1, "posinf": 0, "neginf": 0,
                 **dict.fromkeys(_HARMLESS, name)}
            ],
        },
        context={
            "run": {"versions": {name: name}, "device": name, "dtype_policy": name},
            "fidelity": {"notes": [name], "execution": {"reference": name, "as_trained": name}},
            "checkpoint": {"path": name, "format": name},
            "batch": {"paths": [name]},
            "died": {"how": name, "place": name},
            "reproduce": {
                "checkpoint": name, "batch": name, "loss": name, "model": name,
                "custom_objects": [name], "optimizer": name, "arrays": {"x": [name], "y": [name]},
            },
        },
    )  # fmt: skip
    trace.context["outcome_because"] = name
    return trace


def judged(trace: Trace, name: str) -> Diagnosis:
    """Return a diagnosis that quotes a name wherever one can stand."""
    return diagnose(trace, rules=(Quoting(name),))
