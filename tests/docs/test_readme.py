"""The examples in the README and the docs run, as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import need

ROOT = Path(__file__).parents[2]


def example(path: Path) -> str:
    found = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{path} has no example"
    return str(found[0])


def test_the_readme_example_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    code = example(ROOT / "README.md")
    assert len(code.strip().splitlines()) <= 15
    script = tmp_path / "example.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "b'hello'\n"


def test_the_readme_example_of_a_heap_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    need("numpy")
    code = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[1]
    script = tmp_path / "example.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "2.0 8\n"


def test_claiming_together_as_documented(tmp_path: Path) -> None:
    parent, worker = re.findall(r"^r = (.*)$", example(ROOT / "docs/backings.md"), re.MULTILINE)
    script = tmp_path / "example.py"
    script.write_text(f"""\
import multiprocessing, stead

def work(connection):
    r = {worker}
    connection.send(r.range)

if __name__ == "__main__":
    here, there = multiprocessing.Pipe()
    connections = [here]
    process = multiprocessing.get_context("spawn").Process(target=work, args=(there,))
    process.start()
    r = {parent}
    print(here.recv() == r.range)
    process.join()
""")
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "True\n"


def test_the_examples_of_the_arena_run(tmp_path: Path) -> None:
    need("numpy")
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/arena.md").read_text(), re.DOTALL | re.MULTILINE)
    said = []
    for code in found:
        script = tmp_path / "example.py"
        script.write_text("import stead\n" + code)
        done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        said.append(done.stdout)
    assert said == ["0 blocks live\n", "", "True stead\n"]


def test_the_example_of_channels_runs(tmp_path: Path) -> None:
    need("numpy")
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/channels.md").read_text(), re.DOTALL | re.MULTILINE)
    script = tmp_path / "example.py"
    script.write_text(found[0])
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("10\n", "")
