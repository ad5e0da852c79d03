"""A cluster of Slurm on this machine, in a folder: one node, ended by the processes' own numbers.

It takes Debian's packages slurm-wlm and munge, and no configuration of the machine: keys, sockets,
ports and files of state are its own.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NEEDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
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
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
KillWait=10
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Say why there can be no cluster here; `None` where there can."""
    path = f"{os.environ['PATH']}:{SBIN}"
    missing = [name for name in NEEDS if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(missing)} (slurm-wlm, munge)" if missing else None


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start one; give the variables by which commands of Slurm find it. Ends it, jobs and all."""
    import pwd

    is_root = os.getuid() == 0
    host, user = socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, host=host, user=user, ports=_free_ports(2)))
    variables = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:{SBIN}"}
    env = {**os.environ, **variables}
    munge = folder / "munge"
    key = munge / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    # Where this process is killed they end too: nobody else knows of them.
    ends_too = ["setpriv", "--pdeathsig", "TERM"]
    as_munge = list[str]()
    if is_root:  # which munge would rather not be
        for path in (folder, munge):
            path.chmod(0o711)
        found = pwd.getpwnam("munge")
        for path in (munge, key):
            os.chown(path, found.pw_uid, found.pw_gid)
        as_munge = [f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]
    files = {name: munge / name for name in ("socket", "log", "seed")}
    words = [f"--{name}-file={path}" for name, path in files.items() if name != "socket"]
    words += [f"--key-file={key}", f"--socket={files['socket']}", f"--pid-file={munge / 'pid'}"]
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (folder / f"{len(started)}.out").open("wb") as file:
            started.append(
                subprocess.Popen(
                    (*ends_too, *command),
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            )

    try:
        start(*as_munge, "munged", "--foreground", "--force", *words)
        _until(files["socket"].exists, started)
        start("slurmctld", "-D", "-f", str(conf))
        start("slurmd", "-D", "-f", str(conf), "-N", host)

        def is_up() -> bool:
            said = subprocess.run(
                ["sinfo", "--noheader", "--format=%T"], env=env, capture_output=True, text=True
            )
            return said.stdout.strip() == "idle"

        _until(is_up, started)
        yield variables
    finally:
        with contextlib.suppress(FileNotFoundError):
            _end_jobs(env, user)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def jobs(user: str | None = None) -> list[str]:
    """Return the jobs that wait or run."""
    found = subprocess.run(
        ["squeue", "--noheader", "--format=%i %T"], capture_output=True, text=True
    )
    return found.stdout.splitlines()


def _end_jobs(env: dict[str, str], user: str) -> None:
    subprocess.run(["scancel", "--user", user], env=env, capture_output=True)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = subprocess.run(["squeue", "--noheader"], env=env, capture_output=True, text=True)
        if not found.stdout.strip():
            return
        time.sleep(0.2)


def _until(is_so: "object", started: "list[subprocess.Popen[bytes]]") -> None:
    assert callable(is_so)
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until, "the cluster does not come up"
        for process in started:
            assert process.poll() is None, f"{process.args!r} ended"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody has."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
