"""Operators of the last task of monitor and retraining: each starts a run of another DAG, once.

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
    """Starts a run of the retraining DAG whose id is made of the decision's: the same decision twice is one run."""

    def execute(self, context: Any) -> None:
        """Start the run, where the stage decide said so."""
        decision = context["ti"].xcom_pull(task_ids="decide")
        reasons = "; ".join(decision["reasons"])
        if decision["verdict"] != "retrain":
            raise AirflowSkipException(f"nothing to start: {reasons}")
        self.trigger_run_id = f"alert-{decision['run']}"
        self.conf = {"alert": decision["run"], "interval": decision["interval"], "reason": reasons[:500]}
        super().execute(context)


class StartApproval(TriggerDagRunOperator):
    """Starts a run of the approval DAG whose id is made of the version's: by itself it asks about a version once."""

    def execute(self, context: Any) -> None:
        """Start the run, where the stage promote said that the version waits."""
        outcome = context["ti"].xcom_pull(task_ids="promote")
        if outcome["verdict"] != "waiting":
            raise AirflowSkipException(f"nobody to ask: {'; '.join(outcome['reasons'])}")
        folder = outcome["report"].rpartition("/")[0]
        registered = Store(Home.from_environment().store).read_report(RegisterReport, f"{folder}/register.json")
        self.trigger_run_id = f"approve-v{registered.version}"
        self.conf = {"version": registered.version, "digest": registered.digest}
        super().execute(context)
