"""Is the doctor right on a fast subset of the cases? `python -m tests.accuracy` runs them all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.examination import Request, examine
from tests.accuracy import _case
from tests.accuracy._figures import figures
from tests.accuracy._tables import grids

#: One of each family of models and causes; each takes about a second.
SUBSET = (
    "b05_prompt_fills_window",
    "b15_isolated_node",
    "d13_segmentation_class_missing",
    "d21_nan_target_masked",
    "g01_duplicate_positive_norm",
    "g13a_where_log_of_relu",
    "h_action_mask",
    "h_attention_masks",
    "h_loss_scale_search",
    "l01_bce_clip_below_resolution",
    "m01_cholesky_of_collapsed_code",
    "n05_absent_class_nan_bias",
    "o19_shared_embeddings",
    "x01_vae_unscaled_images",
)


def request_of(name: str, folder: Any) -> Request:
    checkpoint, batch, flag, code, *more = _case.write(name, folder)
    steps = int(more[more.index("--steps") + 1]) if "--steps" in more else 10
    own: dict[str, Any] = {"model": code} if flag == "--model" else {"custom_objects": (code,)}
    return Request(checkpoint, (batch,), steps=steps, **own)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", SUBSET)
def test_a_case_is_told_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    out = tmp_path / "out"
    out.mkdir()

    diagnosis = diagnose(examine(request_of(name, tmp_path), out))

    said: dict[str, Any] = {"outcome": diagnosis.outcome}
    if diagnosis.main is not None:
        finding = diagnosis.main.finding
        said |= {
            "cause": finding.cause,
            "stage": finding.stage,
            "layer": finding.site.layer,
            "op": finding.site.op,
            "samples": list(finding.samples),
        }
    expected = _case.load(name).EXPECTED
    assert {key: said.get(key) for key in ("cause", *expected)} == {"cause": None, **expected}


def test_every_case_says_what_is_true_of_it():
    for name in _case.names():
        case = _case.load(name)
        assert {"outcome"} <= set(case.EXPECTED) <= {"outcome", "cause", *_case.PLACES}, name
        assert (case.EXPECTED["outcome"] == "diverged") == ("cause" in case.EXPECTED), name
        assert case.__doc__, name


def test_readme_shows_the_rows_of_the_runner_for_as_many_cases_as_there_are():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    halves: dict[str, list[_case.Answer]] = {"tuning": [], "report": []}
    for name in _case.names():
        held = _case.held_out(name)
        answer = _case.Answer(name, _case.load(name).EXPECTED, None, "", 0.0, held)
        halves["report" if held else "tuning"].append(answer)
    for columns, rows in grids({half: figures(answers) for half, answers in halves.items()}):
        assert f"| {' | '.join(columns)} |" in readme
        cases = [row[:2] if row[0].startswith(("cases", "`")) else row[:1] for row in rows]
        missing = [row for row in cases if f"\n| {' | '.join(row)} |" not in readme]
        assert missing == []
