"""`mlflow server` with the arguments given, once MLflow's tables are made as every command of ours makes them.

Left to itself the server makes them without a lock, and a command that begins at the same moment would meet it there.
"""

from __future__ import annotations

import sys

from retrain.errors import RetrainError
from retrain.registry.mlflow import Registry


def main(arguments: list[str]) -> None:
    from mlflow.cli import cli

    try:
        Registry(arguments[arguments.index("--backend-store-uri") + 1])
    except RetrainError as error:
        raise SystemExit(str(error)) from None
    cli(["server", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
