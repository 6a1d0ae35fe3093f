"""Is the command line light, and does it say what it can do?"""

from __future__ import annotations

import pytest

COMMANDS = [
    *("replay", "run", "report", "inspect", "compare", "export", "attach"),
    *("check", "verify", "salvage", "rules", "explain", "env"),
]
HEAVY = ("tensorflow", "keras", "matplotlib", "h5py", "numpy", "pandas", "jinja2", "rich")


def imported(err: str) -> set[str]:
    """Return the packages that `python -X importtime` names."""
    lines = [line for line in err.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_help_loads_nothing_heavy(shell):
    said = shell("--help", python=("-X", "importtime"))

    assert said.status == 0
    assert "typer" in imported(said.err)
    assert imported(said.err).isdisjoint(HEAVY)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(doctor, command):
    said = doctor(command, "--help")

    assert said.status == 0
    assert "Usage" in said.out


def test_help_names_every_command_and_none_that_is_not_there(doctor):
    said = doctor("--help")

    listed = said.out.partition("Commands:")[2].split("\n")
    assert [line.split()[0] for line in listed if line.startswith("  ")] == COMMANDS
    assert not any(line.endswith("...") for line in listed)


def test_the_version_is_shown(doctor):
    assert doctor("--version").out == "divergence_doctor 0.1.0\n"


def test_an_unknown_command_is_a_usage_error(doctor):
    said = doctor("heal")

    assert said.status == 2
    assert "No such command 'heal'" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "{trace}"),
        ("compare", "{trace}", "{trace}"),
        ("export", "tensorboard", "{trace}", "logs"),
        ("report", "{trace}", "--out", "report"),
        ("report", "{whole}", "--out", "report", "--zip", "--redact"),
        ("check", "{batch}"),
        ("rules",),
        ("explain", "DD101"),
        ("env",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_reading_commands_never_import_tensorflow(
    shell, bare_file, trace_file, batch_file, arguments
):
    batch = batch_file(x=[[1.0], [2.0]], y=[0, 1])
    told = [word.format(trace=bare_file, whole=trace_file, batch=batch) for word in arguments]

    said = shell(*told, python=("-X", "importtime"))

    assert said.status == 0
    assert {"divergence_doctor", "typer"} <= imported(said.err)
    assert imported(said.err).isdisjoint({"tensorflow", "keras"})
