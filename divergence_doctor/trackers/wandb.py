"""How does a report come to a W&B run? As an artifact and a panel, and in the run's summary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor._clean import clean
from divergence_doctor.errors import UsageError
from divergence_doctor.trackers._tracker import CAUSE, FOLDER, Tracker, refused

if TYPE_CHECKING:
    from divergence_doctor.trackers._tracker import Reports

#: The kind of artifact that crashes are collected under.
_TYPE: Final = "divergence-report"
_FIX: Final = "log in with `wandb login`, and give the run as ENTITY/PROJECT/RUN_ID"
#: Longest tag that W&B takes.
_TAG: Final = 64
_OFF: Final = frozenset({"disabled"})


@final
class Wandb(Tracker):
    """Weights & Biases, by its client; in its offline mode the report waits for ``wandb sync``."""

    name: ClassVar[str] = "wandb"
    package: ClassVar[str] = "wandb"

    def attach(self, run: str, reports: Reports) -> str:
        """Resume the run, add the files and the summary's entries, and finish it.

        Raises:
            MissingPackageError: ``wandb`` is not installed.
            UsageError: the run's name is none, there is no such run, or W&B is switched off.
        """
        wandb = self.client()
        named = _named(run)
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True
        )
        mode = str(wandb.setup().settings.mode)
        if mode in _OFF:
            raise UsageError(
                "cannot-attach",
                f"the report was not attached to run {clean(run)} of W&B",
                why=f"W&B is switched off here (its mode is {mode})",
                fix="unset WANDB_MODE, or set it to online or offline",
            )
        offline = mode in ("offline", "dryrun")
        try:
            # A mistyped id must not start a run of that name; offline nobody can say what is there.
            resumed = wandb.init(**named, resume="allow" if offline else "must", settings=settings)
            with resumed:
                kept = Path(resumed.dir).parent
                _add(wandb, resumed, reports)
        except (wandb.errors.Error, OSError) as error:
            raise refused("W&B", run, error, fix=_FIX) from error
        if offline:
            return f"run {run}, offline: `wandb sync {clean(str(kept), 400)}` sends it"
        return f"run {run}, artifact {_artifact(named['id'])}"


def _named(run: str) -> dict[str, str]:
    """Return the arguments that name a run, out of ``ENTITY/PROJECT/RUN_ID`` or its end."""
    parts = run.strip().strip("/").split("/")
    # The address of a run in the browser has `runs` before the id.
    parts = [part for part in parts if part != "runs"][-3:] if "runs" in parts else parts
    if len(parts) > 3 or not all(parts):
        raise UsageError(
            "not-a-run",
            f"{clean(run)!r} names no run of W&B",
            why="a run is named by at most three words with slashes between",
            fix="give ENTITY/PROJECT/RUN_ID, as the run's overview shows it",
        )
    return dict(zip(("entity", "project", "id")[-len(parts) :], parts, strict=True))


def _artifact(identity: str) -> str:
    return f"{FOLDER}-{identity}"


def _add(wandb: Any, run: Any, reports: Reports) -> None:
    artifact = wandb.Artifact(_artifact(run.id), type=_TYPE, metadata=dict(reports.tags))
    for name in reports.files():
        artifact.add_file(str(reports.folder / name), name)
    run.log_artifact(artifact).wait() if not run.offline else run.log_artifact(artifact)
    page = reports.folder / "report.html"
    if page.is_file():
        html = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
        run.summary.update({f"{FOLDER}/report": html})
    run.summary.update(dict(reports.tags))
    run.tags = (*(run.tags or ()), f"{CAUSE}:{reports.tags[CAUSE]}"[:_TAG])
