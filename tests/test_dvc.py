"""`dvc repro` on the checked-in dvc.yaml, in a checkout of its own with a model of its own.

That it says the same as the DAG is shown in `test_airflow.py`.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import warm
from tests.conftest import churn_rows, churn_spec

ROOT = Path(__file__).parents[1]
CARRIED = (
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    "requirements.txt",
    "bin/dvc_outputs.py",
    ".dvc/config",
    ".dvc/.gitignore",
)
MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01")
DATA = ("ingest", "validate", "snapshot", "labels")
AFTER = ("drift", "measure", "diagnose", "regret", "decide", "train", "evaluate", "gate")
STAGES = (*DATA, "context", *AFTER)
PLUMBING = {"errors", "masking", "results", "spec"} | {
    f"state/{name}" for name in ("evidence", "failures", "ledger", "private", "run", "settings", "store")
}
"""What every stage stands on; dvc.yaml says why it is no dependency."""


class Checkout:
    """What a fresh clone has, with specs and data of a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in CARRIED:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
        shutil.copytree(ROOT / ".dvc" / "plots", root / ".dvc" / "plots")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "include" / "retrain", root / "include" / "retrain", ignore=ignored)
        (root / "include" / "models").mkdir()
        self.models: dict[str, dict[str, str]] = {}

    def add(self, name: str, months: tuple[str, ...], **changes: Any) -> None:
        """A model: its spec, its deliveries, and its line in params.yaml."""
        folder = self.root / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        for month in months:
            churn_rows(month).to_csv(folder / f"{month[:7]}.csv", index=False)
        source = {"path": f"data/{name}/{{start:%Y-%m}}.csv", "time": "signup", "key": ["id"]}
        spec = {**churn_spec(), "model": name, "source": source, "gate": {"min_rows": 100}, **changes}
        (self.root / "include" / "models" / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        self.models[name] = {"interval": months[-1], "source": f"data/{name}"}
        (self.root / "params.yaml").write_text(yaml.safe_dump({"models": self.models}))

    def call(self, *command: str, code: int = 0) -> str:
        settings = ("RETRAIN_", "MLFLOW_TRACKING")
        env = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
        # `python` in dvc.yaml is the environment's, as after `source .venv/bin/activate`, with its libraries loaded.
        env["PATH"] = os.pathsep.join([str(warm.folder()), str(Path(sys.executable).parent), env["PATH"]])
        env["PYTHONPATH"] = str(self.root / "include")
        env["GIT_CONFIG_GLOBAL"] = os.devnull
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def dvc(self, *arguments: str, code: int = 0) -> str:
        return self.call(sys.executable, "-m", "dvc", *arguments, code=code)

    def repro(self, *arguments: str) -> set[str]:
        """The stages that ran."""
        lines = self.dvc("repro", *arguments).splitlines()
        return {line.split("'")[1] for line in lines if line.startswith("Running stage")}

    def commit(self) -> None:
        git = ("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        self.call(*git, "add", "-A")
        self.call(*git, "commit", "-q", "-m", "as it is")

    def stale(self) -> set[str]:
        """The stages that the next `dvc repro` would run."""
        return set(json.loads(self.dvc("status", "--json")))

    def report(self, model: str, name: str) -> dict[str, Any]:
        return dict(json.loads((self.root / f".retrain/store/{model}/runs/dvc/{name}").read_text()))


def all_of(model: str, *stages: str) -> set[str]:
    return {f"{stage}@{model}" for stage in stages or STAGES}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A fresh clone after its first `dvc repro`, committed."""
    clone = Checkout(tmp_path_factory.mktemp("clone"))
    clone.add("churn", MONTHS)
    clone.call("git", "init", "-q", "-b", "main")
    clone.commit()
    assert clone.repro() == all_of("churn")
    clone.commit()
    return clone


def test_every_stage_of_the_loop_up_to_the_gate_is_there() -> None:
    from retrain.pipeline import NAMES

    named = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert tuple(named) == NAMES[: NAMES.index("gate") + 1] == STAGES
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())["models"]) == {
        file.stem for file in (ROOT / "include" / "models").glob("*.yaml")
    }


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_of_a_stage_is_its_dependency(stage: str) -> None:
    named = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["do"]["deps"]
    code = {name.removeprefix("${code}/").removesuffix(".py") for name in named if name.startswith("${code}/")}
    wanted = imported(f"stages/{stage}")
    if stage == "context":
        assert wanted == {"stages/context", "state/projections"}, "it runs always, so its own code is no question"
        return
    assert {part for part in wanted if not any(part == room or part.startswith(f"{room}/") for room in code)} == set()
    assert {room for room in code if not any(part == room or part.startswith(f"{room}/") for part in wanted)} == set()


def _is_room(path: Path) -> bool:
    """Whether a package holds modules and no code of its own."""
    file = path / "__init__.py"
    return file.is_file() and len(ast.parse(file.read_text()).body) == 1


def imported(module: str) -> set[str]:
    """A module of retrain and all that it imports there, but the plumbing."""
    package, reached, todo = ROOT / "include" / "retrain", {module}, [module]
    while todo:
        for node in ast.walk(ast.parse((package / f"{todo.pop()}.py").read_text())):
            if not (isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "retrain"):
                continue
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                path = "/".join(name.split(".")[1:])
                file = path if (package / f"{path}.py").is_file() else f"{path}/__init__"
                if (
                    path not in PLUMBING
                    and not _is_room(package / path)
                    and file not in reached
                    and (package / f"{file}.py").is_file()
                ):
                    reached.add(file)
                    todo.append(file)
    return reached


def test_the_first_run_reaches_a_decision(clone: Checkout) -> None:
    assert clone.report("churn", "gate.json")["decision"]["verdict"] == "promote"
    assert len(clone.report("churn", "context.json")["accepted"]) == len(MONTHS), "earlier months were taken in too"
    assert not clone.call("git", "status", "--porcelain"), "it leaves nothing that git would have to know"


def test_what_has_not_changed_is_skipped(clone: Checkout) -> None:
    assert clone.repro() == {"context@churn"}
    assert not clone.call("git", "status", "--porcelain")


def test_nothing_is_promoted_and_no_policy_counts_a_training(clone: Checkout) -> None:
    from retrain.state.ledger import Ledger

    ledger = Ledger(f"sqlite:///{clone.root / '.retrain/ledger.db'}")
    assert ledger.records("churn", "promotion") == []
    assert ledger.records("churn", "training") == []


def test_metrics_and_plots_are_shown(clone: Checkout) -> None:
    by_file = json.loads(clone.dvc("metrics", "show", "--json"))[""]["data"]
    (metrics,) = by_file.values()
    measured = clone.report("churn", "evaluate.json")["metrics"]["new"]
    assert metrics["data"]["new.log_loss"] == measured["log_loss"]["value"]
    page = Path(clone.dvc("plots", "show").strip().removeprefix("file://")).read_text()
    for axis in ("true_positive_rate", "precision", "observed", "loss when a column is shuffled"):
        assert axis in page
    assert not clone.call("git", "status", "--porcelain")


def test_changed_code_makes_stale_what_runs_it(clone: Checkout) -> None:
    gate, search = (clone.root / "include/retrain" / name for name in ("stages/gate.py", "modeling/search.py"))
    before = gate.read_bytes(), search.read_bytes()
    try:
        gate.write_bytes(before[0] + b"# changed\n")
        assert clone.stale() == {"context@churn", "gate@churn"}
        search.write_bytes(before[1] + b"# changed\n")
        assert clone.stale() == {"context@churn", "gate@churn", "train@churn"}
    finally:
        gate.write_bytes(before[0])
        search.write_bytes(before[1])


def test_a_changed_spec_runs_what_depends_on_it_and_the_difference_is_shown(clone: Checkout) -> None:
    changed = {**churn_spec()["training"], "candidates": [{"estimator": "linear", "parameters": {"C": 0.001}}]}
    clone.add("churn", MONTHS, training=changed)
    assert clone.repro() == all_of("churn") - all_of("churn", "ingest", "snapshot")
    (difference,) = json.loads(clone.dvc("metrics", "diff", "--json")).values()
    assert difference["new.log_loss"]["diff"] != 0
    assert "naive.log_loss" not in difference
    clone.commit()


def test_another_model_is_a_spec_and_a_line_and_a_calm_no_is_green(clone: Checkout) -> None:
    clone.add("young", MONTHS[:1])
    assert clone.repro() == {"context@churn", *all_of("young")}
    assert clone.report("young", "decide.json")["decision"]["verdict"] == "skip"
    for stage in ("train", "evaluate", "gate"):
        decision = clone.report("young", f"{stage}.json")["decision"]
        assert decision["verdict"] == "skipped"
        assert "waiting" in decision["reasons"][0]
    assert clone.repro() == {"context@churn", "context@young"}
    clone.dvc("metrics", "show")
    clone.dvc("plots", "show")


def test_a_context_copied_over_is_taken_as_it_lies_there(clone: Checkout) -> None:
    """How a run of Airflow is repeated: its context.json is copied over."""
    file = clone.root / ".retrain/store/churn/runs/dvc/context.json"
    forced = json.loads(file.read_text())
    forced["trigger"] |= {"kind": "manual", "id": "by-hand", "force": True, "reason": "to see"}
    file.write_text(json.dumps(forced, indent=2) + "\n")
    assert clone.repro("--downstream", "drift@churn") == all_of("churn", *AFTER)
    assert clone.report("churn", "decide.json")["decision"]["reasons"] == ["forced by hand: to see"]
    assert clone.report("churn", "context.json") == forced


def test_a_refusal_stops_what_follows_and_says_why(clone: Checkout) -> None:
    clone.add("torn", MONTHS[:1])
    (clone.root / "data/torn/2024-01.csv").write_text("id,signup\n1,2024-01-05,extra\n")
    output = clone.dvc("repro", "gate@torn", code=255)
    assert "validate@torn" not in output
    assert not (clone.root / ".retrain/store/torn/runs/dvc/gate.json").exists()
