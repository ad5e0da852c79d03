"""A process that forks while its other threads are at work: the child goes on alone."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

BEGIN = """
import faulthandler, os, sys, threading, time, warnings
warnings.simplefilter("ignore")  # of a fork with threads
import torch
from torch import nn
import tenterhook
from types import SimpleNamespace
from tenterhook import Extension, hookimpl, plugins
from tenterhook.hooks import Controller

torch.set_num_threads(1)
model = tenterhook.attach(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
manager = plugins.PluginManager(autoload=False)
x = torch.ones(1, 2)


class Negates(Controller):
    def modify_activations(self, module, inputs, output):
        return -output


class Slow(Negates):
    def set_context(self, context):
        super().set_context(context)
        time.sleep(0.002)  # under the lock, so that nearly every fork finds it held


def registers():
    hook = Slow()
    model.layers.register_hook("0", hook)
    model.layers.unregister_hook(hook)


def opens():
    with model.hooks(("0", Slow()), missing="ignore"):
        pass


def adds_plugin():
    name = f"P{os.getpid()}T{threading.get_ident()}"
    offered = Extension(name, "fractions:Fraction", "Is registered and taken out.")
    declares = hookimpl(lambda: [offered], specname="tenterhook_detectors")
    manager.register(SimpleNamespace(tenterhook_detectors=declares), name)
    manager.unregister(name)


def uses_hooks():
    with model.capture("0", "1") as captured, model.steer("1", torch.neg):
        out = model(x)
    assert len(captured["1"]) == 1  # what it holds depends on what was registered at the fork
    model.layers.register_hook("1", Negates())
    model(x)


def child_of(work, then):
    stop = []

    def loop():
        while not stop:
            work()

    threads = [threading.Thread(target=loop, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        time.sleep(0.005)
        child = os.fork()
        if not child:
            faulthandler.dump_traceback_later(20, exit=True)
            try:
                then()
            except BaseException:
                faulthandler.dump_traceback()
                os._exit(1)
            os._exit(0)
        assert not os.waitpid(child, 0)[1], "the child hangs or fails"
    stop.append(1)
    for thread in threads:
        thread.join(20)
    model.layers.clear()
    tenterhook.assert_clean(model)

"""


@pytest.mark.parametrize(
    ("work", "then"),
    [("registers", "uses_hooks"), ("opens", "uses_hooks"), ("adds_plugin", "adds_plugin")],
)
def test_child_does_not_wait_for_a_thread_it_lacks(work: str, then: str) -> None:
    """No lock that another thread held at the fork is held in the child."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{BEGIN}\nchild_of({work}, {then})"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
