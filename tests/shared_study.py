"""Four workers tune on one PostgreSQL database, and one is killed: python tests/shared_study.py [TRIALS]

Starts Debian's server (package postgresql) in a temporary folder, as the user postgres where this one is root. Needs
optuna and psycopg[binary]. Prints what happened; the exit status is 1 if the study is not as it should be.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
from test_tuning import CONFIG, OFFSET

WORKERS = 4


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server on loopback, with an empty database; its URL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        sys.exit("there is no PostgreSQL: apt-get install postgresql")
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *words: str) -> None:
        subprocess.run([*as_user, str(programs[-1] / program), *words], check=True, cwd=folder, capture_output=True)

    run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "tuner")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://tuner@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")


def main() -> int:
    """Returns the exit status."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory() as server, tempfile.TemporaryDirectory() as place, postgres(Path(server)) as url:
        Path(place, "offset.py").write_text(OFFSET)
        Path(place, "target.yaml").write_text(CONFIG)
        words = [sys.executable, "-m", "rlcore", "tune", "target.yaml", "--fresh", "0"]
        words += ["--trials", str(trials), "--storage", url]

        def start(number: int) -> "subprocess.Popen[str]":
            own = [*words, "--out", f"machine{number}"]
            return subprocess.Popen(own, cwd=place, text=True, stdout=subprocess.PIPE)

        workers = [start(number) for number in range(WORKERS)]

        def study() -> optuna.Study | None:
            if "target" not in optuna.get_all_study_names(url):
                return None
            return optuna.load_study(study_name="target", storage=url)

        while (found := study()) is None or not any(
            "machine0" in one.user_attrs.get("folder", "") for one in found.trials
        ):
            time.sleep(0.1)
        workers[0].kill()
        print("killed the first worker in the middle of its trials; starting it again")
        workers[0].wait()
        workers[0] = start(0)
        told = [worker.communicate()[0] for worker in workers]
        statuses = [worker.returncode for worker in workers]
        done = study()
        assert done is not None
        states = Counter(trial.state.name for trial in done.trials)
        wrong = [
            trial.number
            for trial in done.trials
            if trial.state.name == "COMPLETE" and abs(trial.value + (trial.params["agent.by"] - 0.3) ** 2) > 1e-4
        ]
        counts = [text.count("\ntrial ") for text in told]
        print(f"statuses {statuses}; states {dict(states)}; trials of each worker {counts}; wrong values {wrong}")
        counted = sum(states[state] for state in ("COMPLETE", "PRUNED"))
        return int(statuses != [0] * WORKERS or counted != trials or states["RUNNING"] > 0 or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
