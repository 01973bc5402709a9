"""A SLURM of one node for the tests: munge, controller and daemon on loopback, in a folder of their own, with fake GPUs.

python tests/slurm.py FOLDER starts one, prints what to export, and ends it with its standard input.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

_TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
_CONF = """\
ClusterName=avpbench
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
JobRequeue=1
GresTypes=gpu
ReturnToService=2
KillWait=12
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=262144 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""


def missing() -> str | None:
    """Why no SLURM can be started here; None where one can."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    lacking = [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]
    if lacking:
        return f"SLURM is not installed (no {', '.join(lacking)}): apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "a SLURM of one's own needs root"


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Starts a SLURM in this folder; yields what the environment of its users must hold. Ends with the block."""
    host = socket.gethostname().split(".")[0]
    for part in ("state", "spool"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(_CONF.format(host=host, folder=folder, ports=_free_ports(2)))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    (folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName={host} Name=gpu File=/dev/tty[60-61]\n")
    env = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    files = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("pid-file", "log-file", "seed-file")]
    commands = [
        ["munged", "-F", "--force", f"--key-file={key}", f"--socket={folder}/munge.sock", *files],
        ["slurmctld", "-D", "-f", env["SLURM_CONF"]],
        ["slurmd", "-D", "-f", env["SLURM_CONF"], "-N", host],
    ]
    running: list[subprocess.Popen[bytes]] = []
    try:
        with closing((folder / "out").open("wb")) as out:
            for command in commands:
                running.append(subprocess.Popen(command, env=os.environ | env, stdout=out, stderr=out))
                time.sleep(1)
        _await_node(env, folder)
        yield env
    finally:
        _empty_queue(os.environ | env)
        for one in reversed(running):
            one.terminate()
        for one in reversed(running):
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()


def _empty_queue(env: dict[str, str]) -> None:
    """Ends every job, so that none outlives the daemons."""
    for _ in range(40):
        for words in (["--signal=KILL"], []):
            subprocess.run(["scancel", *words, "-u", "root"], env=env, check=False, capture_output=True)
        left = subprocess.run(["squeue", "-h"], env=env, capture_output=True, text=True, check=False)
        if left.returncode or not left.stdout.strip():
            return
        time.sleep(0.5)


def _await_node(env: dict[str, str], folder: Path) -> None:
    for _ in range(60):
        said = subprocess.run(["sinfo", "-h", "-o", "%t"], env=os.environ | env, capture_output=True, text=True, check=False)
        if said.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join((folder / name).read_text()[-2000:] for name in ("out", "slurmctld.log", "slurmd.log") if (folder / name).exists())
    raise RuntimeError(f"SLURM did not come up: {said.stdout}{said.stderr}\n{logs}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if reason := missing():
        sys.exit(reason)
    with slurm(Path(sys.argv[1]).absolute()) as wanted:
        print("export " + " ".join(f"{name}='{value}'" for name, value in wanted.items()), flush=True)
        sys.stdin.read()
