"""Shows every spec that cannot be read among the UI's import errors.

A file of its own, without a DAG: Airflow takes down all DAGs of a file that has an import error, so a broken
spec must not be reported from the file that makes the others.
"""

from retrain.errors import InvalidSpec
from retrain.spec import load
from retrain.state.settings import Home

problems = []
for file in Home.from_environment().specs:
    try:
        load(file)
    except InvalidSpec as error:
        problems.append(str(error))
    except Exception as error:  # whatever one holds, the others are shown too
        problems.append(f"{file.name}: cannot be read: {type(error).__name__}: {error}")
if problems:
    raise InvalidSpec("\n\n".join(problems), do="the other models run on") from None
