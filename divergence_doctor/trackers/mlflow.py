"""How does a report come to an MLflow run? As its artifacts, and as tags to search by."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, final

from divergence_doctor.trackers._tracker import FOLDER, Tracker, refused

if TYPE_CHECKING:
    from divergence_doctor.trackers._tracker import Reports

_FIX: Final = "give the id of a run on the server that MLFLOW_TRACKING_URI names"


@final
class Mlflow(Tracker):
    """MLflow, by its client and the server that it is configured for."""

    name: ClassVar[str] = "mlflow"
    package: ClassVar[str] = "mlflow"

    def attach(self, run: str, reports: Reports) -> str:
        """Attach the files under ``divergence/``, then set the tags.

        Raises:
            MissingPackageError: ``mlflow`` is not installed (``mlflow-skinny`` will do).
            UsageError: there is no such run, or the server would not take them.
        """
        mlflow, exceptions = self.client(), self.client("mlflow.exceptions")
        try:
            client = mlflow.MlflowClient()
            # Asked for first: artifacts of a run that is not there would lie about somewhere.
            client.get_run(run)
            client.log_artifacts(run, str(reports.folder), FOLDER)
            for name, value in reports.tags.items():
                client.set_tag(run, name, value)
        except (exceptions.MlflowException, OSError) as error:
            raise refused("MLflow", run, error, fix=_FIX) from error
        return f"run {run} on {mlflow.get_tracking_uri()}, artifacts under {FOLDER}/"
