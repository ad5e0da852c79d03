"""The settings of the engine, and what it says where it cannot be had; no cluster is started."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from tenterhook.plugins import MissingDependency
from tenterhook_capture.engine import make_engine
from tenterhook_capture.errors import BadArgument
from tenterhook_ray import ActorsDied, NoCluster, NoRoom, RayEngine
from tenterhook_store.testing.small_runs import a_plan


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install, before any model is loaded."""
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(MissingDependency, match=r"pip install tenterhook-ray\[ray\]"):
        make_engine("ray")


def test_a_command_without_ray(
    th: Callable[..., tuple[object, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so in one line, and its options are listed all the same."""
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("tiny:", "--layer", "layer_0", "--data", "tiny:sample", "--out", "nowhere")
    code, _, said = th("capture", *words, "--engine", "ray", "--ray-gpus", "0.5")
    assert code == 1
    assert "pip install tenterhook-ray[ray]" in said
    code, said, _ = th("capture", "--help")
    assert code == 0
    assert all(each in said for each in ("--ray-address", "--ray-cpus", "--ray-gpus"))


def test_a_dry_run_without_ray(
    th: Callable[..., tuple[object, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what a cluster elsewhere would take, for which nothing need be here."""
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("tiny:", "--layer", "layer_0", "--data", "tiny:sample", "--sample-limit", "4")
    code, said, _ = th("capture", *words, "--dry-run", "--engine", "ray", "--workers", "64")
    assert code == 0
    assert "With 64 workers of the engine ray, each as fast as this machine" in said
    code, said, _ = th("capture", *words, "--dry-run", "--engine", "ray", "--ray-cpus", "2")
    assert code == 0
    assert "With 2 workers of the engine ray" in said


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("workers", 0),
        ("cpus", -1),
        ("cpus", "many"),
        ("gpus", 1.5),
        ("gpus", float("nan")),
        ("gpus", None),
    ],
)
def test_settings_that_make_no_sense(
    setting: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are named, with what is right."""
    expected = "1 or more" if setting == "workers" else "a whole number, or a part of 1"
    with pytest.raises(BadArgument, match=f"{setting}=.*{expected}"):
        make_engine("ray", **{setting: value})


@pytest.mark.usefixtures("needs_ray")
def test_nobody_answers() -> None:
    """It is said at once, with the way out."""
    with pytest.raises(
        NoCluster, match=r"answers at '127\.0\.0\.1:1' .*refused.* `ray status` says"
    ):
        list(RayEngine(address="127.0.0.1:1").run(a_plan().units(), dict))  # type: ignore[arg-type]


def test_errors_say_the_way_out() -> None:
    """Each names what there is."""
    nodes = [{"CPU": 2.0, "GPU": 0.0}] * 7
    with pytest.raises(
        NoRoom, match=r"asks for 1 CPU and 2 GPU, .* have 2 CPU and 0 GPU; .*2 more"
    ):
        raise NoRoom({"CPU": 1.0, "GPU": 2.0}, nodes)
    with pytest.raises(NoRoom, match=r"it has no node\. Ask for less with --ray-cpus"):
        raise NoRoom({"CPU": 1.0}, [])
    with pytest.raises(NoCluster, match=r"answers at 'there:1' \(refused\)\. `ray status`"):
        raise NoCluster("there:1", "refused")
    with pytest.raises(ActorsDied, match=r"3 actors died .* so: killed\. If a node's memory"):
        raise ActorsDied(3, "killed")
