"""`access`: who may retrain, approve and roll back the model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from retrain.spec.base import Part

Action = Literal["retrain", "approve", "rollback"]
"""What a person does to a model."""
ROLE = "role:"
"""How the name of a role begins."""
Person = Annotated[str, Field(pattern=r"^(role:)?[^\s:/][^\s:/]{0,127}$")]


class Access(Part):
    """Who may do what, by user name, or `role:` and a role of Airflow's; a list without entries leaves it to Airflow.

    What the schedule and the monitor start is nobody's act, and always allowed.
    """

    retrain: tuple[Person, ...] = Field(default=(), description="who may start a retraining")
    approve: tuple[Person, ...] = Field(default=(), description="who may answer a version that waits")
    rollback: tuple[Person, ...] = Field(default=(), description="who may put an earlier champion back")

    def of(self, action: Action) -> tuple[str, ...]:
        """The entries of an action."""
        entries: tuple[str, ...] = getattr(self, action)
        return entries

    def roles(self, action: Action) -> set[str]:
        """The roles among them, without their prefix, in small letters: auth managers spell them differently."""
        return {entry.removeprefix(ROLE).lower() for entry in self.of(action) if entry.startswith(ROLE)}
