"""The files to copy of the pages on launchers: they say what `tenterhook work` reads."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tenterhook_capture import Slice, slice_of_launcher
from tenterhook_capture.loading import load_model
from tenterhook_store import LocalStore
from tenterhook_transformers import LanguageModel

HOW_TO = Path(__file__).parents[1] / "docs/how-to"


def block(page: str, language: str, at: int = 0) -> str:
    """Return a block of a page."""
    text = (HOW_TO / page).read_text()
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return found[at]


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    """Return the job of the page on Kubernetes."""
    found: dict[str, Any] = yaml.safe_load(block("kubernetes.md", "yaml"))
    return found


class TestKubernetes:
    """The indexed job."""

    def test_it_is_an_indexed_job(self, job: dict[str, Any]) -> None:
        """With a failure policy, which needs pods that are not started again in place."""
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
        spec = job["spec"]
        assert spec["completionMode"] == "Indexed"
        pod = spec["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        codes = spec["podFailurePolicy"]["rules"][1]["onExitCodes"]
        assert codes["containerName"] == container["name"]
        mounted = {each["name"] for each in container["volumeMounts"]}
        assert mounted == {each["name"] for each in pod["volumes"]}

    def test_each_pod_has_its_slice(self, job: dict[str, Any]) -> None:
        """From the number that Kubernetes gives it, and the count that the job's file does."""
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["command"][:2] == ["tenterhook", "work"]
        assert "--slice" not in container["command"]
        own = {each["name"]: each["value"] for each in container["env"]}
        count = job["spec"]["completions"]
        for index in range(count):
            found = slice_of_launcher({**own, "JOB_COMPLETION_INDEX": str(index)})
            assert found is not None
            assert found[0] == Slice(index, count)


class TestSlurm:
    """The script of one's own."""

    def test_bash_reads_it(self) -> None:
        """And its array has what says a task's slice."""
        script = block("slurm.md", "sh", 1)
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
        (array,) = re.findall(r"^#SBATCH --array=0-(\d+)$", script, re.MULTILINE)
        count = int(array) + 1
        variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": str(count)}
        found = slice_of_launcher(variables)
        assert found is not None
        assert found[0] == Slice(3, count)


@pytest.mark.matrix(sample=0)  # three processes with torch: it runs in `nox -s slurm`, and `whole`
class TestTorchrun:
    """Two processes that torchrun starts."""

    def test_a_program(self, tmp_path: Path) -> None:
        """Each does its slice, they meet, and the run has the bytes of one process."""
        file = tmp_path / "capture.py"
        file.write_text(block("torchrun.md", "python"))
        model = load_model("tiny:")
        assert isinstance(model, LanguageModel)
        whole, store = LocalStore(str(tmp_path / "whole")), LocalStore(str(tmp_path / "store"))
        options: dict[str, Any] = {"sample_limit": 6, "rows_per_unit": 100, "run_name": "r"}
        model.activations.save("layer_1", "tiny:sample", store=whole, **options)
        plan = whole.run("r").plan
        store.write_run("r", plan)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", str(file), store.location, "r"]
        env = {**os.environ, "OMP_NUM_THREADS": "2"}  # not the run's: each process sets that
        found = subprocess.run(command, capture_output=True, text=True, env=env)
        assert found.returncode == 0, found.stderr
        said = f"complete: True, {plan.rows} rows"
        assert sorted(found.stdout.splitlines()) == [
            f"RANK={rank} WORLD_SIZE=2: slice {rank}/2, {said}" for rank in range(2)
        ]
        run = store.run("r")
        assert run["layer_1"][:].equal(whole.run("r")["layer_1"][:])
        sessions = run.recent(0)["sessions"]
        assert {each["part"] for each in sessions} == {"0/2", "1/2"}
        assert {each["threads"] for each in sessions} == {plan.about["threads"]}
