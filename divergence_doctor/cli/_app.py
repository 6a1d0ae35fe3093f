"""Which subcommands are there, and how does an error become its message and exit status?"""

from __future__ import annotations

import errno
import signal
import sys
from typing import Annotated, Any, Final, NoReturn

import typer

from divergence_doctor._clean import clean
from divergence_doctor.cli import (
    attach,
    check,
    compare,
    env,
    explain,
    export,
    inspect,
    replay,
    report,
    rules,
    run,
    salvage,
    verify,
)
from divergence_doctor.errors import DoctorError, UsageError

INTERRUPTED: Final = 130
BUG: Final = 1
#: Characters of an error that are shown.
_LONGEST: Final = 8_000

app = typer.Typer(
    name="doctor",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("replay")(replay.replay)
app.command("run", context_settings=run.CONTEXT)(run.run)
app.command("report")(report.report)
app.command("inspect")(inspect.inspect)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("attach")(attach.attach)
app.command("check")(check.check)
app.command("verify")(verify.verify)
app.command("salvage")(salvage.salvage)
app.command("rules")(rules.rules)
app.command("explain")(explain.explain)
app.command("env")(env.env)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it with the flag's value
    if wanted:
        from divergence_doctor import __version__

        typer.echo(f"divergence_doctor {__version__}")
        raise typer.Exit


@app.callback()
def doctor(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Say why a Keras training run died of NaN: replay the failing step, prove the cause."""
    del version


def main() -> NoReturn:
    """Run the command line; the one place where an error becomes its message."""
    signal.signal(signal.SIGTERM, _end)
    handed = None
    try:
        app()
    except run.HandOver as leaving:
        handed = leaving
    except DoctorError as error:
        _tell(str(error))
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, SystemExit) as ended:
        # Typer turns Ctrl-C into an exit of its own, which says nothing.
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        print("interrupted; nothing was written", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last door: a user sees no traceback
        # Any path may be one that no system takes; it is named where it is first looked at.
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            refused = _too_long(error)
            _tell(str(refused))
            sys.exit(refused.exit_status)
        _tell_bug(error)
        sys.exit(BUG)
    if handed is not None:
        # A user's script ends in its own way: no door of ours is round it.
        run.hand_over(handed)
    sys.exit(0)


def _end(number: int, _frame: Any) -> NoReturn:
    """End as Python does on its own errors, so that the child and the partial folder go, too."""
    sys.exit(128 + number)


def _tell_bug(error: Exception) -> None:
    import traceback

    from divergence_doctor.errors import describe_bug

    frames = traceback.extract_tb(error.__traceback__)
    _tell(describe_bug(error, frames))


def _too_long(error: OSError) -> UsageError:
    return UsageError(
        "path-too-long",
        f"the path {clean(str(error.filename))} is longer than a path can be",
        why="the system takes no file name of that length",
        fix="look at the command: a list of words may have become one",
    )


def _tell(text: str) -> None:
    """Say an error on standard error; what a message quotes may not move the cursor."""
    print(clean(text, _LONGEST, multiline=True), file=sys.stderr)  # noqa: T201
