"""``doctor explain``: the page of one cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from divergence_doctor.rules import Rule

#: The page of the answer that is no rule.
UNEXPLAINED_PAGE: Final = """\
It diverged, the first producer is located, and no cause is proven.

Why it is said: every cause that the doctor knows was asked, and none of them held: nothing in the
trace spoke for it, or the trials aimed at it did not make the failure go away. A wrong confident
cause would cost more time than this answer.

Evidence: `events` names the op that made the first bad value from finite inputs, `operands` what
went into it, `chain` what made those inputs dangerous; the report shows all three, and what was
ruled out and why.

Fix: look at the operands of the first producer. Replay with an earlier checkpoint, with fewer
samples, or with one thing changed (`doctor replay ... --learning-rate X`, `--loss NAME`): what
makes the failure go away points at the cause.

Mistaken for: a healthy run. It is none: `outcome` says `diverged`.
"""


def explain(
    cause: Annotated[
        str, typer.Argument(metavar="CAUSE", help="Id or code, e.g. log-of-zero or DD201.")
    ],
) -> None:
    """Show the page of one cause: signs, reason, evidence, fix."""
    from divergence_doctor.cli._screen import Screen

    screen = Screen()
    screen.markdown(_page(cause))
    screen.show()


def _page(cause: str) -> str:
    from divergence_doctor.diagnosis import UNEXPLAINED
    from divergence_doctor.rules import all_rules

    wanted = cause.strip().casefold().replace("_", "-")
    if wanted == UNEXPLAINED:
        return f"# {UNEXPLAINED}\n\n{UNEXPLAINED_PAGE}"
    for rule in all_rules():
        if wanted in (rule.id.casefold(), rule.code.casefold()):
            return _of_rule(rule)
    raise _unknown(cause, [name for rule in all_rules() for name in (rule.id, rule.code)])


def _of_rule(rule: Rule) -> str:
    found = "\n".join(f"- {example.what}" for example in rule.fires_on())
    quiet = "\n".join(f"- {example.what}" for example in rule.quiet_on())
    return (
        f"# {rule.code} {rule.id}\n\n{_marked(rule.page())}\n\n"
        f"**Found in**, for example:\n\n{found}\n\n**Not found in**:\n\n{quiet}\n"
    )


def _marked(page: str) -> str:
    """Return a page with the words that open its paragraphs in bold."""
    words = ("Why it diverges", "Evidence", "Fix", "Mistaken for", "Seen in", "Why it is said")
    paragraphs = page.split("\n\n")
    for index, paragraph in enumerate(paragraphs):
        for word in words:
            if paragraph.startswith(f"{word}:"):
                paragraphs[index] = f"**{word}:**{paragraph.removeprefix(f'{word}:')}"
    return "\n\n".join(paragraphs)


def _unknown(cause: str, known: list[str]) -> Exception:
    from divergence_doctor._clean import clean
    from divergence_doctor.cli._suggest import suggestion
    from divergence_doctor.errors import UsageError

    return UsageError(
        "unknown-cause",
        f"there is no cause {clean(cause)!r}",
        why="no rule has this id or code",
        fix=suggestion(cause, known, "`doctor rules` lists them"),
    )
