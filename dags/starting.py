"""The last tasks of monitor and retraining: each starts a run of another DAG, once.

A file of its own, imported by the DAGs that start something: the operator brings Airflow's database models along.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException

from retrain.results import RegisterReport
from retrain.state.settings import Home
from retrain.state.store import Store


class StartRetraining(TriggerDagRunOperator):
    """A run of the retraining DAG whose id is made of the decision's: the same decision twice is one run."""

    def execute(self, context: Any) -> None:
        said = context["ti"].xcom_pull(task_ids="decide")
        if said["verdict"] != "retrain":
            raise AirflowSkipException(f"nothing to start: {'; '.join(said['reasons'])}")
        self.trigger_run_id = f"alert-{said['run']}"
        self.conf = {"alert": said["run"], "interval": said["interval"], "reason": "; ".join(said["reasons"])[:500]}
        super().execute(context)


class StartApproval(TriggerDagRunOperator):
    """A run of the approval DAG whose id is made of the version's: a version is asked about once by itself."""

    def execute(self, context: Any) -> None:
        said = context["ti"].xcom_pull(task_ids="promote")
        if said["verdict"] != "waiting":
            raise AirflowSkipException(f"nobody to ask: {'; '.join(said['reasons'])}")
        folder = said["report"].rpartition("/")[0]
        found = RegisterReport.from_json(Store(Home.from_environment().store).read(f"{folder}/register.json"))
        self.trigger_run_id = f"approve-v{found.version}"
        self.conf = {"version": found.version, "digest": found.digest}
        super().execute(context)
