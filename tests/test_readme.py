"""Is the front door true? What README types is what works, and its table is the doctor's own."""

import re
from pathlib import Path

from divergence_doctor.rules import all_rules

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_stand_as_they_are_typed():
    assert (
        "pip install -e . && doctor replay sample_runs/log_of_zero/model.keras"
        " sample_runs/log_of_zero/batch.npz\n" in README
    )
    assert "pip install -e '.[test]' && pytest -n 2 --dist loadfile\n" in README


def test_ci_runs_the_second_command_as_typed():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -e '.[test]' && pytest -n 2 --dist loadfile" in script


def test_the_table_of_causes_is_that_of_the_rules():
    rows = re.findall(r"^\| (DD\d+) \| `([a-z-]+)` \| (.+) \|$", README, flags=re.MULTILINE)
    causes = [rule for rule in all_rules() if not rule.symptom]
    assert rows == [(rule.code, rule.id, rule.title()) for rule in causes]


def test_every_file_that_it_links_to_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_rule_that_it_shows_is_one(tmp_path):
    block = re.search(r"```python\n(\"\"\"Does the training.+?)```", README, flags=re.DOTALL)
    names = {"__name__": "dead_output"}
    exec(compile(block.group(1), "dead_output.py", "exec"), names)  # noqa: S102 - README's own code
    rule = names["DeadOutput"]()
    assert rule.ask(rule.quiet_on()[0].trace()).word == "quiet"
    assert rule.ask(rule.fires_on()[0].trace()).word == "found"
