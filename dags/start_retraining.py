"""The monitor's last task: starts the retraining that was decided, once.

A file of its own, imported by the monitor's tasks alone: the operator brings Airflow's database models along.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException


class StartRetraining(TriggerDagRunOperator):
    """A run of the retraining DAG whose id is made of the decision's: the same decision twice is one run."""

    def execute(self, context: Any) -> None:
        said = context["ti"].xcom_pull(task_ids="decide")
        if said["verdict"] != "retrain":
            raise AirflowSkipException(f"nothing to start: {'; '.join(said['reasons'])}")
        self.trigger_run_id = f"alert-{said['run']}"
        self.conf = {"alert": said["run"], "interval": said["interval"], "reason": "; ".join(said["reasons"])[:500]}
        super().execute(context)
