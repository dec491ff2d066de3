"""The words of `retrain.state.former`: no table changes, but a Retrain from before them must not read what follows.

It would not find the interim analyses under their new kind, and would spend the gate's level twice.
"""

revision = "3"
down_revision = "2"


def upgrade() -> None:
    """Nothing to change: records stay as they were written."""
