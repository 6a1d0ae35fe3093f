"""``doctor rules``: which causes the doctor knows."""

from __future__ import annotations

import re


def rules() -> None:
    """List the causes that the doctor knows, and what mends each."""
    from divergence_doctor.cli._screen import Screen
    from divergence_doctor.rules import all_rules

    screen = Screen()
    screen.table(
        ("code", "cause", "the pattern", "what mends it"),
        [
            (
                rule.code,
                rule.id + (" (symptom)" if rule.symptom else ""),
                rule.title(),
                _first_sentence(_paragraph(rule.page(), "Fix")),
            )
            for rule in all_rules()
        ],
        left=("code", "cause", "the pattern", "what mends it"),
    )
    screen.text("")
    screen.text("`doctor explain CAUSE` shows the page of one; a divergence that none of them")
    screen.text("explains is reported as `unexplained`, with the op that made the first bad value.")
    screen.show()


def _paragraph(page: str, word: str) -> str:
    """Return the paragraph of a rule's page that begins with a word and a colon, on one line."""
    for paragraph in page.split("\n\n"):
        if paragraph.startswith(f"{word}:"):
            return " ".join(paragraph.removeprefix(f"{word}:").split())
    return ""


def _first_sentence(text: str) -> str:
    """Return the first sentence; a full stop or semicolon within backticks does not end it."""
    parts = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(parts), 2):
        ends = re.search(r"[.;](?=\s|$)(?<!e\.g\.)(?<!i\.e\.)", parts[index])
        if ends:
            return "".join(parts[:index]) + parts[index][: ends.start()]
    return text
