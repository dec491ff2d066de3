"""A `python` for tests whose libraries are loaded already: what a command costs is then its work, not its imports.

`python -m tests.warm`, a listening socket as its stdin, loads the heavy libraries, none of retrain, and forks for each
command. `folder()` starts
it, once per test process, and gives a folder with a `python` for the front of PATH: a small program that hands its
arguments, folder, environment and streams over, and ends as the command does.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

HEAVY = (
    *("dvc.repo", "evidently", "evidently.presets", "great_expectations", "matplotlib.figure", "mlflow.sklearn"),
    *("mlflow.store.model_registry.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_store", "pandas", "pyarrow"),
    *("scipy.stats", "skops.io", "sklearn.pipeline", "xgboost"),
)
PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    command = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    server.sendall(command[socket.send_fds(server, [command], [0, 1, 2]):])
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(16) or 1))
"""


@functools.cache
def folder() -> Path:
    """The folder of a `python` that runs a module or a file in a fork of a process with the libraries loaded."""
    place = Path(tempfile.mkdtemp(prefix="warm-"))
    address = str(place / "socket")
    program = place / "python"
    program.write_text(PROGRAM.format(python=sys.executable, address=address))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(16)
        server = subprocess.Popen([sys.executable, "-m", "tests.warm"], stdin=listening, cwd=Path(__file__).parents[1])

    def end() -> None:
        server.kill()
        server.wait()
        shutil.rmtree(place)

    atexit.register(end)
    return place


def _serve() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    _own, *paths = (path for path in sys.path if path not in os.environ.get("PYTHONPATH", "").split(os.pathsep))
    with socket.socket(fileno=0) as listening:
        while True:
            with listening.accept()[0] as client:
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os._exit(_answer(client, paths))


def _answer(client: socket.socket, paths: list[str]) -> int:
    """Run one command in a fork, and send its code."""
    begin, streams, _, _ = socket.recv_fds(client, 1 << 16, 3)
    command = b"".join((begin, *iter(lambda: client.recv(1 << 16), b"")))
    if (runner := os.fork()) == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os._exit(_run(*json.loads(command), paths))
    code = os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1])
    client.sendall(str(code if code >= 0 else 128 - code).encode())
    return 0


def _run(arguments: list[str], folder: str, environment: dict[str, str], paths: list[str]) -> int:
    """Be `python -m MODULE …` or `python FILE …`; its exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    is_module = arguments[0] == "-m"
    sys.argv = arguments[is_module:]
    first = folder if is_module else str(Path(sys.argv[0]).parent)
    sys.path[:] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *paths]
    code = 0
    try:
        run = runpy.run_module if is_module else runpy.run_path
        run(sys.argv[0], run_name="__main__", **({"alter_sys": True} if is_module else {}))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve()
