"""Does what the rules have in common hold for every one of them, also for one added tomorrow?"""

from __future__ import annotations

import importlib
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import divergence_doctor
from divergence_doctor.rules import Rule, all_rules
from divergence_doctor.trace import Trace
from divergence_doctor.trace.schema import TABLES
from divergence_doctor.trace.synthetic import training_trace

RULES = all_rules()
CAUSES = [rule for rule in RULES if not rule.symptom]

CODES = {
    "bad-input": "DD101",
    "unscaled-input": "DD102",
    "bad-labels": "DD103",
    "bad-sample-weight": "DD104",
    "log-of-zero": "DD201",
    "division-by-zero": "DD202",
    "invalid-domain": "DD203",
    "exp-overflow": "DD204",
    "masked-softmax": "DD205",
    "loss-activation-mismatch": "DD206",
    "high-learning-rate": "DD301",
    "bad-hyperparameter": "DD302",
    "corrupt-optimizer-state": "DD303",
    "exploding-gradient": "DD401",
    "exploding-activation": "DD402",
    "gradient-singularity": "DD403",
    "low-precision-overflow": "DD501",
    "low-precision-underflow": "DD502",
    "corrupt-weights": "DD601",
    "degenerate-normalization": "DD602",
    "execution-mismatch": "DD701",
    "not-deterministic": "DD702",
}
STAGES = {"data", "forward", "loss", "backward", "update", "checkpoint", "execution"}
PARAGRAPHS = ("Why it diverges", "Evidence", "Fix", "Mistaken for", "Seen in")

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
every_cause = pytest.mark.parametrize("rule", CAUSES, ids=lambda rule: rule.id)
every_finding = pytest.mark.parametrize(
    ("rule", "example"),
    [(rule, example) for rule in RULES for example in rule.fires_on()],
    ids=lambda value: getattr(value, "id", None) or getattr(value, "what", None),
)
every_quiet = pytest.mark.parametrize(
    ("rule", "example"),
    [(rule, example) for rule in RULES for example in rule.quiet_on()],
    ids=lambda value: getattr(value, "id", None) or getattr(value, "what", None),
)


@every_rule
def test_one_word_in_four_places(rule: Rule) -> None:
    module = type(rule).__module__.rpartition(".")[2]
    kebab = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(rule).__name__).lower()
    assert module.replace("_", "-") == rule.id
    assert kebab == rule.id


@every_cause
def test_a_cause_has_the_code_of_the_contract(rule: Rule) -> None:
    assert rule.code == CODES[rule.id]


def test_no_two_rules_share_a_code_or_an_id() -> None:
    assert len({rule.code for rule in RULES}) == len(RULES)
    assert len({rule.id for rule in RULES}) == len(RULES)


@every_rule
def test_the_file_says_first_which_question_it_answers(rule: Rule) -> None:
    module = importlib.import_module(type(rule).__module__)
    assert (module.__doc__ or "").splitlines()[0].endswith("?")


@every_rule
def test_the_page_has_its_paragraphs_in_order(rule: Rule) -> None:
    paragraphs = rule.page().split("\n\n")
    opening = [name for text in paragraphs for name in PARAGRAPHS if text.startswith(name)]
    assert opening == list(PARAGRAPHS)
    assert not paragraphs[0].startswith(PARAGRAPHS)
    assert rule.title().endswith(".")


@every_cause
def test_the_page_cites_a_real_report(rule: Rule) -> None:
    seen = rule.page().partition("Seen in")[2]
    assert re.search(r"[\w.-]+/\s*[\w.-]+#\d+|https://", seen)


@every_rule
def test_what_it_needs_is_in_the_schema(rule: Rule) -> None:
    for need in rule.needs:
        table, _, column = need.partition("/")
        assert table in TABLES
        assert not column or column in {c.name for c in TABLES[table].all_columns()}


@every_rule
def test_it_explains_only_other_known_causes(rule: Rule) -> None:
    assert rule.explains <= set(CODES) - {rule.id}


@every_finding
def test_it_fires_on_its_example(rule, example) -> None:
    verdict = rule.ask(example.trace())
    assert verdict.word == "found", verdict.skipped
    finding = verdict.finding
    assert finding.cause == rule.id
    assert finding.stage in STAGES
    assert 0 < finding.confidence <= 1
    assert finding.remedies
    assert all(remedy.strip() for remedy in finding.remedies)
    assert finding.evidence
    in_the_trace = [item.where for item in finding.evidence if item.where.startswith("/")]
    assert in_the_trace, "at least one figure must stand in the trace"
    assert all(where.split("/")[1] in TABLES for where in in_the_trace)
    assert all(item.where for item in finding.evidence)
    assert all(isinstance(sample, int) for sample in finding.samples)


@every_finding
def test_its_summary_is_one_sentence(rule, example) -> None:
    summary = rule.ask(example.trace()).finding.summary
    assert summary.endswith(".")
    assert "\n" not in summary
    assert not re.search(r"\. [A-Z]", summary)


@every_finding
def test_its_proofs_and_figures_can_be_written_as_json(rule, example) -> None:
    finding = rule.ask(example.trace()).finding
    for proof in finding.proofs:
        json.dumps(dict(proof.parameters), allow_nan=False)
    json.dumps([item.value for item in finding.evidence])


@every_finding
def test_it_says_the_same_of_a_trace_asked_twice(rule, example) -> None:
    trace = example.trace()
    assert rule.ask(trace) == rule.ask(trace)


@every_quiet
def test_it_keeps_quiet_on_its_example(rule, example) -> None:
    assert rule.examine(example.trace()) is None


@every_rule
def test_it_has_an_example_for_either_verdict(rule: Rule) -> None:
    assert rule.fires_on()
    assert rule.quiet_on()


@every_cause
def test_no_cause_is_found_in_a_healthy_run(rule: Rule) -> None:
    assert rule.ask(training_trace()).finding is None


@every_rule
def test_an_empty_trace_is_skipped_with_the_reason(rule: Rule) -> None:
    verdict = rule.ask(Trace({}, {}))
    if rule.needs:
        assert verdict.word == "skipped"
        assert min(rule.needs) in (verdict.skipped or "")
    else:
        assert verdict.word == "quiet"


@every_rule
def test_nothing_is_raised_when_only_the_loss_is_known(rule: Rule) -> None:
    full = training_trace(losses=(1.0, math.nan))
    sparse = Trace({"steps": full.table("steps")}, full.context)
    assert rule.ask(sparse).word in {"found", "quiet", "skipped"}


def test_asking_every_rule_imports_neither_tensorflow_nor_keras() -> None:
    code = (
        "import sys\n"
        "from divergence_doctor.rules import all_rules\n"
        "from divergence_doctor.trace.synthetic import training_trace\n"
        "trace = training_trace(losses=(1.0, float('nan')))\n"
        "[rule.ask(trace) for rule in all_rules()]\n"
        "print(sorted({'tensorflow', 'keras', 'h5py', 'matplotlib'} & set(sys.modules)))\n"
    )
    assert _python(code) == "[]"


def test_a_new_cause_costs_one_file(tmp_path: Path) -> None:
    package = Path(divergence_doctor.__file__).parent
    copy = tmp_path / "divergence_doctor"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "rules" / "flat_line.py").write_text(
        '''"""Is the loss a flat line?"""
from divergence_doctor.rules._rule import Evidence, Example, Finding, Rule
from divergence_doctor.trace.synthetic import training_trace


class FlatLine(Rule):
    """The loss does not move."""

    id = "flat-line"
    code = "DD999"
    needs = frozenset({"steps"})

    def examine(self, trace):
        loss = trace.table("steps")["loss"]
        if len(loss) < 2 or (loss != loss[0]).any():
            return None
        seen = Evidence("loss", float(loss[0]), "/steps/loss")
        return Finding("flat-line", "The loss is flat.", 0.9, "update", evidence=(seen,))

    @classmethod
    def fires_on(cls):
        return (Example("flat", lambda: training_trace(losses=(1.0, 1.0))),)

    @classmethod
    def quiet_on(cls):
        return (Example("falling", training_trace),)
''',
        encoding="utf-8",
    )
    code = (
        "import divergence_doctor\n"
        "from divergence_doctor.rules import all_rules\n"
        "rule = {rule.id: rule for rule in all_rules()}['flat-line']\n"
        "words = [rule.ask(e.trace()).word for e in (*rule.fires_on(), *rule.quiet_on())]\n"
        "print(divergence_doctor.__file__, *words)\n"
    )
    assert _python(code, cwd=tmp_path) == f"{copy / '__init__.py'} found quiet"


def _python(code: str, cwd: Path | None = None) -> str:
    """Run code in a new interpreter, started in ``cwd`` so that a package there comes first."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
