"""One monthly cycle of flights through a real Airflow, against the plain script `bare.py`, in turns.

    python benchmarks/cycle.py [--quick] [--cycles 3]

A fresh installation in a temporary folder: Airflow and MLflow of `bin/local.py` on free ports. The months before run
through Airflow unmeasured, so that a champion serves. Then each month is one cycle, run once by either side, who
begins changing from month to month. Nothing is found done before: every cycle has a new batch, and the champion
moves on. Airflow's schedule is off, each run is triggered by hand with its `interval`, so that the sides do not
overlap; the runs are real ones, no dry runs. While the script has its turn Airflow is frozen (SIGSTOP); both talk to
the same MLflow server.

| figure | of the cycle | of the script |
|---|---|---|
| wall | first task queued to last task ended | start to end of the process |
| CPU | all processes of Airflow and MLflow, their ended children included | the process, its children, MLflow |
| peak | resident memory of the largest task's process | resident memory of the process |

A forked task's resident memory counts the pages that it shares with its parent.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]

from benchmarks import measure
from benchmarks.measure import Figures
from bin import local, processes, settings
from retrain.policy.regret import best_window
from retrain.results import Signal
from retrain.state.ledger import Ledger
from retrain.state.run import run_key
from retrain.state.settings import Home
from retrain.state.store import Store

BAR = 1.2
MODEL, DAG = "flights", "flights_retrain"
LOOP_ONLY = {"recalibrated", "changed", "reference_champion"}
"""Models that the script does not have."""
ENDED = {"success", "failed"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """Where one task's time went, in seconds, in the order in which it passes.

    Attributes:
        wait: from the end of the task before it until it was queued.
        start: until its process ran (Airflow's `start_date`).
        setup: until the stage began: reading the DAG file and the context.
        stage: in the stage, as the ledger has it.
        after: until the task had ended: report, XCom, state.
    """

    name: str
    wait: float
    start: float
    setup: float
    stage: float
    after: float


@dataclass(frozen=True)
class Cycle:
    """One cycle of the loop: what was measured, and what it decided."""

    wall: float
    cpu: float
    peak: float
    tasks: tuple[Task, ...]
    verdict: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Bare:
    """One cycle of the script; the imports are a part of the wall and the CPU time."""

    wall: float
    cpu: float
    peak: float
    imports: float
    imports_cpu: float
    seconds: dict[str, float]
    verdict: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Pair:
    """Both sides of one month."""

    interval: str
    cycle: Cycle
    bare: Bare

    @property
    def same(self) -> bool:
        """Whether both fitted the same candidates and judged them alike: the same scores and the same verdict."""
        shared = set(self.cycle.scores) & set(self.bare.scores)
        near = all(abs(self.cycle.scores[name] - self.bare.scores[name]) < 1e-6 for name in shared)
        return near and set(self.cycle.scores) == set(self.bare.scores) and self.cycle.verdict == self.bare.verdict


# --- what the loop has left


def champion(home: Home, model: str) -> dict[str, Any]:
    """The champion as the script takes it, with the window that its shadows did best on until now.

    Raises:
        RuntimeError: the months so far have brought none.
    """
    ledger = Ledger(home.ledger)
    promotions = ledger.records(model, "promotion")
    if not promotions:
        raise RuntimeError("no champion after the unmeasured months: nothing to compare a cycle with")
    head = promotions[-1].body["champion"]
    configuration = {name: head["configuration"][name] for name in ("estimator", "parameters", "window")}
    signals = (Signal.model_validate(record.body["signal"]) for record in ledger.records(model, "signal"))
    if rows := best_window(signals):
        configuration["window"] = None if rows == "all" else int(rows.removeprefix("last "))
    reference = Store(home.store).url(f"{head['reference']}/reference.parquet")
    return {
        "model": model,
        "version": head["version"],
        "configuration": configuration,
        "reference": reference,
    }


def judged(home: Home, model: str, run: str) -> tuple[str, dict[str, float]]:
    """The gate's verdict of a run, and the primary metric of every model that the script has too."""
    store, folder = Store(home.store), f"{model}/runs/{run}"
    gate, evaluate = (json.loads(store.read(f"{folder}/{stage}.json")) for stage in ("gate", "evaluate"))
    metric = gate["metric"]
    return gate["decision"]["verdict"], {
        name: of[metric]["value"] for name, of in evaluate["metrics"].items() if name not in LOOP_ONLY
    }


# --- the script


def bare(spec: Path, interval: str, root: Path, work: Path, serving: dict[str, Any], mlflow: str) -> Bare:
    """One cycle of the script in a fresh `work` folder; the months before are laid there first, unmeasured."""
    work.mkdir(parents=True)
    (work / "champion.json").write_text(json.dumps(serving))
    given: list[str | Path] = [
        "benchmarks/bare.py",
        "--spec",
        spec,
        "--interval",
        interval,
        "--root",
        root,
        "--work",
        work,
    ]
    measure.run([*given, "--prepare"])
    ended = measure.run([*given, "--champion", work / "champion.json"], MLFLOW_TRACKING_URI=mlflow)
    printed = json.loads(ended.output.splitlines()[-1])
    kept = {name: printed[name] for name in ("imports", "imports_cpu", "seconds", "verdict", "scores")}
    return Bare(wall=ended.wall, cpu=ended.cpu, peak=ended.peak, **kept)


# --- Airflow


class Servers:
    """Airflow and MLflow in a home of their own, for as long as a benchmark runs."""

    def __init__(self, home: Path, say: Say) -> None:
        airflow, mlflow = measure.free_ports(2)
        os.environ |= measure.QUIET
        os.environ |= measure.env_of(RETRAIN_HOME=home, AIRFLOW_PORT=airflow, MLFLOW_PORT=mlflow)
        # Runs are triggered one by one: a schedule that catches up would run into the script's turn.
        os.environ["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] = "False"
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        self.say = say
        self.services = local.start(say=say)
        self.mlflow = os.environ["MLFLOW_TRACKING_URI"] = self.services.mlflow_url
        headers = {"Authorization": f"Bearer {self.services.token()}"}
        url = f"{self.services.airflow_url}/api/v2"
        self.client = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)
        while self.client.patch(f"/dags/{DAG}", json={"is_paused": False}).status_code == 404:
            time.sleep(0.5)

    def stop(self) -> None:
        local.stop(say=self.say)

    def _members(self, *names: str) -> set[psutil.Process]:
        recorded = settings.read("services.json")["processes"]
        return {
            process for name in names or recorded for process in processes.session(processes.Running(*recorded[name]))
        }

    def cpu(self, *names: str) -> float:
        """CPU seconds of these services so far, their ended children included; of all of them by default."""
        total = 0.0
        for process in self._members(*names):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def memory(self) -> float:
        """MiB that everything holds together, shared pages counted once."""
        total = 0
        for process in self._members():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 2**20

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Airflow stands still, MLflow answers."""
        names = [name for name in settings.read("services.json")["processes"] if name != "mlflow"]
        members = self._members(*names)
        for process in members:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in members:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
            while not self._healthy():
                time.sleep(0.3)

    def _healthy(self) -> bool:
        with suppress(httpx.TransportError):
            parts = self.client.get("/monitor/health").json()
            return all(parts[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "dag_processor"))
        return False

    def trigger(self, interval: str) -> tuple[str, list[dict[str, Any]]]:
        """Run one interval to its end; the run's key and its task instances.

        Raises:
            RuntimeError: a task failed.
        """
        name = f"bench__{interval}"
        body = {"dag_run_id": name, "logical_date": None, "conf": {"interval": interval, "force": True}}
        self.client.post(f"/dags/{DAG}/dagRuns", json=body).raise_for_status()
        while (state := self.client.get(f"/dags/{DAG}/dagRuns/{name}").raise_for_status().json()["state"]) not in ENDED:
            time.sleep(0.25)
        tasks = self.client.get(f"/dags/{DAG}/dagRuns/{name}/taskInstances").raise_for_status().json()["task_instances"]
        if state == "failed":
            raise RuntimeError(f"{interval}: {[(task['task_id'], task['state']) for task in tasks]}")
        return run_key(name), tasks

    def cycle(self, home: Home, interval: str) -> Cycle:
        """One measured cycle."""
        before = self.cpu()
        with Peak(self._members("scheduler")) as peak:
            run, instances = self.trigger(interval)
        time.sleep(0.5)  # the last task's process is still to be reaped by its parent, which is when its time counts
        cpu = self.cpu() - before
        tasks = [task for task in instances if task["start_date"] and task["queued_when"]]
        wall = max(_moment(task["end_date"]) for task in tasks) - min(_moment(task["queued_when"]) for task in tasks)
        return Cycle(wall, cpu, peak.highest, tuple(_passed(home, run, tasks)), *judged(home, MODEL, run))


class Peak:
    """The largest resident memory, in MiB, that a process forked from these since then has had."""

    def __init__(self, parents: set[psutil.Process]) -> None:
        self.parents, self.highest, self.over = parents, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.2):
            for parent in self.parents:
                with suppress(psutil.Error):
                    for child in set(parent.children(recursive=True)) - self.parents:
                        self.highest = max(self.highest, _highest(child.pid))


def _highest(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def _moment(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _passed(home: Home, run: str, tasks: list[dict[str, Any]]) -> Iterator[Task]:
    stages = {record.body["stage"]: record for record in Ledger(home.ledger).records(MODEL, "stage", run=run)}
    ended: float | None = None
    for task in sorted(tasks, key=lambda instance: _moment(instance["queued_when"])):
        queued, began, end = (_moment(task[name]) for name in ("queued_when", "start_date", "end_date"))
        record = stages.get(task["task_id"])
        seconds = record.body["seconds"] if record else 0.0
        closed = record.recorded_at.timestamp() if record else end
        yield Task(
            task["task_id"],
            wait=queued - ended if ended is not None else 0.0,
            start=began - queued,
            setup=max(closed - seconds - began, 0.0),
            stage=seconds,
            after=end - closed,
        )
        ended = end


# --- the comparison


@dataclass(frozen=True)
class MetricEstimate:
    """The measured months, what Airflow takes when nothing runs, and what the stages do inside."""

    pairs: list[Pair]
    idle: dict[str, float]
    inside: list[dict[str, Any]]


def compare(root: Path, intervals: list[str], cycles: int, say: Say) -> MetricEstimate:
    """Measure the last of these months inside the stages, the `cycles` before it on both sides, the rest not."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-bench-"))
    kept = dict(os.environ)
    os.environ["RETRAIN_ROOT"] = str(root)
    servers = Servers(folder / "home", say)
    try:
        home = Home.from_environment()
        *before, last = intervals
        for interval in before[:-cycles]:
            say(f"{interval}: unmeasured")
            servers.trigger(interval)
        idle = _idle(servers)
        pairs = []
        for place, interval in enumerate(before[-cycles:]):
            serving, spec = champion(home, MODEL), home.models / f"{MODEL}.yaml"

            def script(interval: str = interval, serving: dict[str, Any] = serving, spec: Path = spec) -> Bare:
                say(f"{interval}: the script")
                with servers.frozen():
                    before = servers.cpu("mlflow")
                    measured = bare(spec, interval, root, folder / f"bare-{interval}", serving, servers.mlflow)
                    return replace(measured, cpu=measured.cpu + servers.cpu("mlflow") - before)

            first = script() if place % 2 == 0 else None
            say(f"{interval}: through Airflow")
            through = servers.cycle(home, interval)
            pairs.append(Pair(interval, through, first or script()))
            say(_line(pairs[-1]))
        say(f"{last}: inside the stages")
        with servers.frozen():
            inside = json.loads(measure.run(["benchmarks/inside.py", MODEL, last]).output.splitlines()[-1])
        return MetricEstimate(pairs, idle, inside)
    finally:
        servers.stop()
        os.environ.clear()
        os.environ.update(kept)
        shutil.rmtree(folder, ignore_errors=True)


def _idle(servers: Servers, seconds: float = 5.0) -> dict[str, float]:
    before = servers.cpu()
    time.sleep(seconds)
    return {"cores": (servers.cpu() - before) / seconds, "MiB": servers.memory()}


def _line(pair: Pair) -> str:
    ratio = pair.cycle.wall / pair.bare.wall
    same = "the same scores and verdict" if pair.same else f"NOT the same: {pair.cycle.scores} {pair.bare.scores}"
    return f"{pair.interval}: {pair.cycle.wall:.1f} s against {pair.bare.wall:.1f} s, {ratio:.2f}; {same}"


# --- figures


def ratios(pairs: list[Pair]) -> Figures:
    """Medians over the months of each ratio, with and without the script's imports."""

    def row(name: str, values: list[tuple[float, float, float]], unit: str, bar: bool) -> tuple[str, ...]:
        cycle, script = (statistics.median(value[place] for value in values) for place in (0, 1))
        whole = statistics.median(value[0] / value[1] for value in values)
        without = statistics.median(value[0] / (value[1] - value[2]) for value in values)
        judged = measure.verdict(whole, BAR) if bar else ""
        return name, f"{cycle:.1f} {unit}", f"{script:.1f} {unit}", f"{whole:.2f}", f"{without:.2f}", judged

    rows = [
        row("wall", [(p.cycle.wall, p.bare.wall, p.bare.imports) for p in pairs], "s", True),
        row("CPU", [(p.cycle.cpu, p.bare.cpu, p.bare.imports_cpu) for p in pairs], "s", True),
    ]
    peaks = [(p.cycle.peak, p.bare.peak) for p in pairs]
    peak = statistics.median(cycle / script for cycle, script in peaks)
    medians = [statistics.median(side) for side in zip(*peaks, strict=True)]
    rows.append(
        ("peak memory", *(f"{value:.0f} MiB" for value in medians), f"{peak:.2f}", "", measure.verdict(peak, BAR))
    )
    same = all(pair.same for pair in pairs)
    each = ", ".join(f"{pair.interval[:7]} {pair.cycle.wall / pair.bare.wall:.2f}" for pair in pairs)
    work = "Both sides reached the same scores and verdicts" if same else "THE SIDES DIFFER in scores or verdict"
    best = "; ".join(f"{pair.interval[:7]}: {_scored(pair)}" for pair in pairs)
    notes = (f"{work} ({best}).", f"Wall ratio by month: {each}; medians of {len(pairs)} months above.")
    columns = ("", "cycle", "script", "ratio", "without the script's imports", f"bar {BAR}")
    return Figures("One cycle against one script", columns, tuple(rows), notes)


def _scored(pair: Pair) -> str:
    candidates = [name for name in ("new", "refresh") if name in pair.bare.scores]
    return ", ".join(f"{name} {pair.bare.scores[name]:.6f}" for name in candidates) + f", {pair.bare.verdict}"


def where(pairs: list[Pair], idle: dict[str, float]) -> Figures:
    """Per task, medians over the months: where the cycle's time went, and the script's for the same work."""
    names = list(dict.fromkeys(task.name for pair in pairs for task in pair.cycle.tasks))
    rows = []
    for name in names:
        of_name = [task for pair in pairs for task in pair.cycle.tasks if task.name == name]
        parts = [statistics.median(getattr(task, part) for task in of_name) for part in _PARTS]
        script = [pair.bare.seconds[name] for pair in pairs if name in pair.bare.seconds]
        rows.append((name, *(f"{part:.2f}" for part in parts), f"{statistics.median(script):.2f}" if script else ""))
    sums = [sum(float(row[place]) for row in rows) for place in range(1, len(_PARTS) + 1)]
    imports = statistics.median(pair.bare.imports for pair in pairs)
    rows.append(("sum", *(f"{total:.2f}" for total in sums), f"{sum(float(row[-1] or 0) for row in rows):.2f}"))
    notes = (
        f"The script imports for {imports:.1f} s before any of it; a task is forked from a parent that has imported.",
        f"With nothing to do Airflow and MLflow take {idle['cores']:.2f} cores and {idle['MiB']:,.0f} MiB"
        " (shared pages counted once).",
    )
    return Figures("Where the time goes, in seconds", ("task", *_PARTS, "the script's"), tuple(rows), notes)


_PARTS = ("wait", "start", "setup", "stage", "after")


def within(inside: list[dict[str, Any]]) -> Figures:
    """Per stage, in one process that had imported everything: reading, work, writing."""
    rows = []
    for stage in inside:
        reading, writing = stage.get("reading", 0.0), stage.get("writing", 0.0)
        parts = (stage["seconds"], reading, stage["seconds"] - reading - writing, writing)
        rows.append((stage["stage"], *(f"{part:.2f}" for part in parts), str(stage["modules"])))
    sums = [sum(float(row[place]) for row in rows) for place in range(1, 5)]
    rows.append(("sum", *(f"{total:.2f}" for total in sums), str(sum(int(row[-1]) for row in rows))))
    notes = ("One more month, all stages in one process; modules: imported only now, though a task's parent has not.",)
    columns = ("stage", "seconds", "reading", "work", "writing", "modules")
    return Figures("Inside the stages, in seconds", columns, tuple(rows), notes)


def figures(quick: bool, cycles: int, say: Say) -> list[Figures]:
    """The whole benchmark.

    Args:
        quick: on every eighth row, with fewer trees: to see that it works, not for figures.
        cycles: measured months, at most seven.
    """
    # Two months until the first model, two more until three intervals are there for the search's folds.
    months = [f"2013-{month:02d}-01" for month in range(1, 6 + cycles)]
    with tempfile.TemporaryDirectory(prefix="retrain-bench-") as folder:
        root = measure.ROOT
        if quick:
            root = Path(folder)
            measure.small_flights(root, 8)
        measured = compare(root, months, cycles, say)
    return [ratios(measured.pairs), where(measured.pairs, measured.idle), within(measured.inside)]


def main() -> None:
    from rich.console import Console

    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="small data: to see that it works, not for figures")
    arguments.add_argument("--cycles", type=int, default=3, choices=range(1, 8), help="measured months")
    given = arguments.parse_args()
    console = Console()
    for section in figures(given.quick, given.cycles, lambda text: console.print(text, style="dim", highlight=False)):
        console.print(section.table())


if __name__ == "__main__":
    main()
