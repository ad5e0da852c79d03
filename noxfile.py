"""The chores of this repository: `nox -l` lists them, `nox` alone runs what a change must pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["change"]
# A session imports what it installed, and compiles it no more than once.
for variable in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(variable, None)

HERE = Path(__file__).parent
PYPROJECT = nox.project.load_toml(HERE / "pyproject.toml")
PLUGINS = sorted(path.parent for path in HERE.glob("plugins/*/pyproject.toml"))
EXAMPLES = sorted(path.parent for path in HERE.glob("examples/*/pyproject.toml"))
SAELENS = "sae-lens==6.54.12"
# pip would compile all of torch each time; Python compiles what is imported, the first time.
CONSTRAINED = ("--no-compile", "-c", str(HERE / "constraints.txt"))
OF_VLLM = ("--no-compile", "-c", str(HERE / "plugins/vllm/constraints.txt"))
PYTEST = ("pytest", "pytest-timeout", "pytest-xdist")
# Each worker waits while processes run that its test has started: on two cores three are quicker.
AT_ONCE = ("-n", "3", "--dist", "loadfile")


@nox.session(venv_backend="none")
def change(session: nox.Session) -> None:
    """Run what a change must pass: `ci`, and beside it `core` and `wheels`.

    Much of each is one process that installs or checks types, so two cores do both in the time of
    one. What the second says is shown when the first has ended.
    """
    nox_ = (sys.executable, "-m", "nox", "-f", __file__)
    log = HERE / ".nox" / "built.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as file:
        built = subprocess.Popen(
            (*nox_, "-s", "core", "wheels"), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        session.run(*nox_, "-s", "ci", external=True)
    finally:
        failed = built.wait()
        sys.stdout.write(log.read_text())
    if failed:
        session.error("core or wheels failed: see above.")


@nox.session
def ci(session: nox.Session) -> None:
    """Lint, check types and run the tests of all but core, in one environment."""
    install_for_work(session)
    run_ruff(session)
    run_mypy(session)
    # The longest files first, so that at the end no worker is alone with one.
    session.run("pytest", *AT_ONCE, "tests", "plugins", *session.posargs)


@nox.session
def whole(session: nox.Session) -> None:
    """Run every test, core's too, of matrices each case: before a release, or a large change."""
    install_for_work(session)
    session.run("pytest", *AT_ONCE, *session.posargs, env={"TENTERHOOK_WHOLE": "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; what follows `--` goes to pytest."""
    install_for_work(session)
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    session.install(*CONSTRAINED, "ruff")
    run_ruff(session)


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, strictly: core, plugins, examples, benchmarks, and their tests."""
    install_for_work(session)
    run_mypy(session)


@nox.session
def docs(session: nox.Session) -> None:
    """Run the code of README and docs, and follow their links."""
    install_for_work(session)
    session.run("pytest", "tests/test_docs.py", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """Build the site of the docs, strictly, with search and the docstrings, into .nox/site-built.

    Nothing of ours is installed for it: docstrings are read from the sources. `-- serve` shows it.
    """
    session.install(*CONSTRAINED, "mkdocs-material", "mkdocstrings[python]", "ruff")
    session.run("python", ".ci/site_pages.py", ".nox/pages")
    sources = [str(member / "src") for member in (HERE / "core", *PLUGINS)]
    env = {"PYTHONPATH": os.pathsep.join(sources), "NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", *(session.posargs or ["build"]), "--strict", env=env)


@nox.session
def demo(session: nox.Session) -> None:
    """Do the main job: run a small real model over real text and store what its layers return."""
    install_members(session)
    shutil.rmtree("demo-store", ignore_errors=True)  # of the last time; nothing else is there
    session.run("tenterhook", "layers", "tiny:")
    layers = ("--layer", "transformer.h.1", "--layer", "transformer.h.1.mlp")
    session.run(
        *("tenterhook", "capture", "tiny:", *layers, "--data", "tiny:sample"),
        *("--out", "demo-store"),
    )
    session.run("tenterhook", "runs", "list", "demo-store")
    session.run("tenterhook", "runs", "show", "demo-store")


@nox.session
def faults(session: nox.Session) -> None:
    """Kill captures 100 times at random, and half as often exports, deletions, trainings of SAEs.

    Fill disks, flip bits, change records, cut connections.
    """
    install_for_work(session)
    zarr = HERE.glob("plugins/zarr/tests/test_zarr_[fks][a3iu]*.py")
    tests = sorted(map(str, (*zarr, *HERE.glob("plugins/sae/tests/test_sae_f[au]*.py"))))
    env = {"TENTERHOOK_KILLS": "100", "TENTERHOOK_FUZZ": "10000"}
    session.run("pytest", *tests, *session.posargs, env=env)


@nox.session
def engines(session: nox.Session) -> None:
    """Kill workers of engines 20 times at random, and those that drive them; every test of these.

    Takes about ten minutes.
    """
    install_for_work(session)
    tests = ("tests/test_processes_engine.py", "plugins/zarr/tests/test_zarr_engine.py")
    env = {"TENTERHOOK_KILLS": "20", "TENTERHOOK_WHOLE": "1"}
    session.run("pytest", *tests, "--timeout", "1200", *session.posargs, env=env)


@nox.session
def slurm(session: nox.Session) -> None:
    """Have a local Slurm cluster do captures, its tasks killed at random; and torchrun.

    It is started by the tests, from Debian's packages slurm-wlm and munge, and ends with them;
    where those are not installed the tests are skipped. Ray is here for the run that every engine
    goes on with. What follows `--` goes to pytest.
    """
    install_for_work(session)
    session.install(*CONSTRAINED, "ray")
    env = {"TENTERHOOK_KILLS": "20", "TENTERHOOK_WHOLE": "1"}
    tests = ("tests/check_slurm.py", "tests/test_launchers.py")
    session.run("pytest", *tests, *session.posargs, env=env)


@nox.session
def ray(session: nox.Session) -> None:
    """Have a local Ray cluster of two nodes do captures; kill one, and who drives them.

    Ray is in no other session's environment but that of Slurm: it is large, and few need it. Takes
    under five minutes on two idle cores. What follows `--` goes to pytest.
    """
    install_members(session)
    session.install(*CONSTRAINED, "ray", "hypothesis", *PYTEST)
    session.run("pytest", "plugins/ray/tests", *session.posargs)


@nox.session
def vllm(session: nox.Session) -> None:
    """Have vLLM itself serve requests that are changed and captured, on the CPU, and capture runs.

    In an environment of its own of about 3 GB, with the versions of plugins/vllm/constraints.txt.
    Each file of tests starts an engine in a process of its own. `nox -s vllm -- bench` times how
    fast an engine is with the plugin; what else follows `--` goes to pytest.
    """
    session.install(*OF_VLLM, "torch", "hatchling", "editables")
    session.install(*OF_VLLM, "--no-deps", "-r", OF_VLLM[-1])
    editable = [arg for member in (HERE / "core", *PLUGINS) for arg in ("-e", str(member))]
    session.install(*OF_VLLM, "--no-deps", "--no-build-isolation", *editable, str(HERE))
    if session.posargs[:1] == ["bench"]:
        session.run("python", "benchmarks/bench_vllm.py", *session.posargs[1:])
        return
    for test in sorted(HERE.glob("plugins/vllm/tests/check_vllm_*.py")):
        session.run("pytest", str(test), "--timeout", "1200", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Open pages of activations in Debian's chromium, with no network: click, read, print.

    Without the packages chromium and chromium-driver they are skipped. Pictures are drawn, too;
    with TENTERHOOK_SCREENSHOTS=write those of the docs are made anew.
    """
    install_members(session)
    session.install(*CONSTRAINED, "selenium", "matplotlib", *PYTEST)
    names = ("check_view_browser.py", "test_view_command.py")
    tests = [f"plugins/view/tests/{name}" for name in names]
    session.run("pytest", *tests, *session.posargs)


@nox.session
def interleavings(session: nox.Session) -> None:
    """Run 1,000 random interleavings of scopes, registrations, surgery, copies, forks, threads.

    Takes about four minutes. What fails is printed as the steps that led there, shrunk.
    """
    install_for_work(session)
    test = "core/tests/test_interleavings.py"
    env = {"TENTERHOOK_INTERLEAVINGS": "1000"}
    session.run("pytest", test, "--timeout", "0", *session.posargs, env=env)


@nox.session
def tokens(session: nox.Session) -> None:
    """Generate with every small architecture in every way; hold captures to the texts alone.

    Takes a quarter of an hour. With TENTERHOOK_TABLE=write it writes the table of the docs anew.
    """
    install_for_work(session)
    matrix = "plugins/transformers/tests/test_tokens_matrix.py"
    session.run("pytest", matrix, *session.posargs, env={"TENTERHOOK_WHOLE": "1"})


@nox.session
def interiors(session: nox.Session) -> None:
    """Prove the names inside attention and experts on a tiny model of each family.

    With TENTERHOOK_TABLE=write it writes the table of the docs anew.
    """
    install_for_work(session)
    families = "plugins/interiors/tests/test_interiors_families.py"
    session.run("pytest", families, *session.posargs, env={"TENTERHOOK_WHOLE": "1"})


@nox.session
def large(session: nox.Session) -> None:
    """Hold models that do not fit to what models in memory give: offloaded, quantised, shared."""
    install_for_work(session)
    session.install(*CONSTRAINED, "torchao", "optimum-quanto", "bitsandbytes")
    names = ("test_large_models.py", "test_shared_models.py")
    tests = [f"plugins/transformers/tests/{name}" for name in names]
    session.run("pytest", *tests, *session.posargs, env={"TENTERHOOK_WHOLE": "1"})


@nox.session
def repeat(session: nox.Session) -> None:
    """Run the contracts on our own plugins 200 times over, with two busy processes beside.

    What fails once in a hundred runs fails for somebody. Takes hours: `-- --repeat 20` runs them 20
    times, `-- -k threads` those that run threads.
    """
    install_for_work(session)
    tests = sorted(map(str, HERE.glob("plugins/*/tests/test_*_contract.py")))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        plain = ("-p", "tests.repeated", "--timeout", "0", *tests)
        session.run("python", "-m", "pytest", *plain, *session.posargs)
    finally:
        for each in busy:
            each.kill()


@nox.session
def bench(session: nox.Session) -> None:
    """Time what we promise to be fast, and print the tables; `-- NAME` runs bench_NAME.py alone."""
    install_for_work(session)
    for script in sorted(HERE.glob("benchmarks/bench_*.py")):
        if not session.posargs or script.stem.removeprefix("bench_") in session.posargs:
            session.run("python", str(script))


@nox.session
def saelens(session: nox.Session) -> None:
    """Compare files and numbers of SAEs with SAELens, in an environment of its own.

    Not among the sessions that every change must pass: SAELens brings some 60 packages that nothing
    else needs, and installing takes about two minutes. What follows `--` goes to pytest, `-- bench`
    times SAEs beside SAELens.
    """
    install_members(session)
    session.install(*CONSTRAINED, SAELENS, "hypothesis", *PYTEST)
    if session.posargs[:1] == ["bench"]:
        session.run("python", "benchmarks/bench_sae.py", *session.posargs[1:])
        return
    tests = sorted(map(str, HERE.glob("plugins/sae/tests/test_sae_[fs]*.py")))
    session.run("pytest", *tests, *session.posargs, env={"TENTERHOOK_NEED_SAELENS": "1"})


@nox.session
def build(session: nox.Session) -> None:
    """Build a wheel of core and of every plugin into dist/, of examples beside it."""
    session.install(*CONSTRAINED, "build", "hatchling")
    shutil.rmtree("dist", ignore_errors=True)
    for member in (HERE, HERE / "core", *PLUGINS, *EXAMPLES):
        folder = "dist/examples" if member in EXAMPLES else "dist"
        wheel = ("--wheel", "--outdir", folder, str(member))
        session.run("python", "-m", "build", "--no-isolation", *wheel, silent=True)


@nox.session
def release(session: nox.Session) -> None:
    """Rehearse a release: build all, check metadata and versions, list what would be published.

    A wheel is built from its sdist: what the one lacks, the other does.
    """
    session.install(*CONSTRAINED, "build", "hatchling", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    for member in (HERE, HERE / "core", *PLUGINS):
        both = ("python", "-m", "build", "--no-isolation", "--outdir", "dist", str(member))
        session.run(*both, silent=True)
    files = (*HERE.glob("dist/*.whl"), *HERE.glob("dist/*.tar.gz"))
    session.run("twine", "check", "--strict", *map(str, sorted(files)), silent=True)
    session.run("python", ".ci/release.py", "dist")


@nox.session(requires=["build"], reuse_venv=False)
def core(session: nox.Session) -> None:
    """Install core's wheel alone, with torch, pluggy and attrs; pass its tests, use it."""
    session.install(*CONSTRAINED, *built("tenterhook_core"), "hypothesis", *PYTEST)
    session.run("pytest", *AT_ONCE, "tests/check_core.py", "core/tests", *session.posargs)


@nox.session(requires=["build"], reuse_venv=False)
def wheels(session: nox.Session) -> None:
    """Install built wheels, and see that strangers' plugins are found and work beside them.

    First some of ours, and a plugin of each kind as `tenterhook plugins new` begins it; then all of
    ours, and the examples.
    """
    names = (
        "tenterhook_core",
        "tenterhook_layer_activation",
        "tenterhook_cli",
        "tenterhook_capture",
        "tenterhook_store",
        "tenterhook_specs",
        "tenterhook_selections",
        "tenterhook_transformers",
        "tenterhook_zarr",
    )
    tools = ["hatchling", "numpy", "ruff", *PYTEST]
    if os.environ.get("TENTERHOOK_WHOLE"):
        tools += ["mypy", "pyright[nodejs]"]
    session.install(*CONSTRAINED, *built(*names), *tools)
    session.chdir(session.create_tmp())  # away from the sources
    settings = ("-c", str(HERE / "pyproject.toml"))
    # Not in the environment's own temporary folder: pyright takes what is there for a library's.
    scaffold = str(HERE / "tests/check_scaffold.py")
    session.run("pytest", *settings, scaffold, *session.posargs, env={"TMPDIR": None})

    examples = [str(wheel) for wheel in HERE.glob("dist/examples/*.whl")]
    session.install(*CONSTRAINED, *built("tenterhook*"), *examples)
    checks = [HERE / "tests/check_wheels.py", *HERE.glob("examples/*/tests")]
    session.run("pytest", *settings, *map(str, checks), *session.posargs)


def built(*names: str) -> list[str]:
    """Return the wheels of the distributions, as session `build` left them."""
    return [str(wheel) for name in names for wheel in sorted(HERE.glob(f"dist/{name}-*.whl"))]


def install_members(session: nox.Session) -> None:
    """Install core and every plugin from their sources, as `pip install -e` does."""
    session.install(*CONSTRAINED, "hatchling")
    editable = [arg for member in (HERE / "core", *PLUGINS) for arg in ("-e", str(member))]
    # The root has no code, and hatchling makes no editable wheel of nothing.
    session.install(*CONSTRAINED, "--no-build-isolation", *editable, str(HERE))


def install_for_work(session: nox.Session) -> None:
    """Install core, every plugin, and the tools."""
    install_members(session)
    session.install(*CONSTRAINED, *nox.project.dependency_groups(PYPROJECT, "dev"))


def run_ruff(session: nox.Session) -> None:
    """Check style and formatting."""
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


def run_mypy(session: nox.Session) -> None:
    """Check all at once, modules named conftest as copies: mypy wants a name to be of one."""
    members = (HERE / "core", *PLUGINS, *EXAMPLES, HERE)
    folders = (member / each for member in members for each in ("src", "tests"))
    checked = [*filter(Path.is_dir, folders), HERE / ".ci", HERE / "benchmarks"]
    copies = HERE / ".nox" / "conftests"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir(parents=True)
    for member in members:
        if (conftest := member / "tests" / "conftest.py").exists():
            name = f"conftest_of_{member.name.replace('-', '_')}.py"
            shutil.copy(conftest, copies / name)
    session.run("mypy", "--exclude", r"/conftest\.py$", *map(str, (*checked, copies)))
