"""Records where real programs map: each is started many times, does its work, and is looked at while it waits.

python benchmarks/footprints/record.py [NAME...]; writes footprints.json.xz beside this file. A program that is not
installed here keeps what was recorded of it before.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stead import snapshot
from stead.ranges import RangeSet

HERE = Path(__file__).resolve().parent
FILE = HERE / "footprints.json.xz"

_READY = "print('ready', flush=True); input()"
_NUMPY = "import numpy as n; a = n.ones((512, 512)); a @ a; b = n.zeros(1 << 27); "
_TORCH = "import torch; a = torch.ones(512, 512); a @ a; torch.nn.Linear(512, 512)(a).sum().backward(); "
_ARROW = "import pyarrow.compute as c, pyarrow as p; c.sum(p.array(range(1 << 20))); "
_JAVA = """
public class Main {
    public static void main(String[] arguments) throws Exception {
        java.util.Map<Integer, byte[]> kept = new java.util.HashMap<>();
        for (int i = 0; i < 20000; i++) kept.put(i, new byte[1024]);
        System.out.println("ready"); System.out.flush(); System.in.read();
    }
}
"""
_NODE = """
const kept = []; for (let i = 0; i < 20000; i++) kept.push(new Array(100).fill(i));
const wasm = new WebAssembly.Memory({initial: 16, maximum: 1024});
console.log("ready"); process.stdin.once("data", () => process.exit());
"""
_GO = """
package main
import ("fmt"; "os")
func main() {
    kept := map[int][]byte{}
    for i := 0; i < 20000; i++ { kept[i] = make([]byte, 1024) }
    fmt.Println("ready"); os.Stdin.Read(make([]byte, 1)); _ = kept
}
"""
_C = """
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    for (int i = 0; i < 20000; i++) if (!malloc(1000)) return 1;
    puts("ready"); fflush(stdout);
    return getchar() == EOF;
}
"""


def programs(folder: Path) -> dict[str, list[str]]:
    """Name → command; what must be compiled is, into ``folder``. Each prints "ready" and waits for input."""
    python = sys.executable
    unlimited = f"ulimit -s unlimited; exec {shlex.join([python, '-c', _NUMPY + _READY])}"
    found = {
        "python": [python, "-c", _READY],
        "python, numpy": [python, "-c", _NUMPY + _READY],
        "python, numpy, unlimited stack": ["sh", "-c", unlimited],
        "python, numpy, torch": [python, "-c", _TORCH + _READY],
        "python, pyarrow": [python, "-c", _ARROW + _READY],
    }  # fmt: skip
    if shutil.which("java"):
        (folder / "Main.java").write_text(_JAVA)
        found["java, G1"] = ["java", "-XX:+UseG1GC", str(folder / "Main.java")]
        found["java, ZGC"] = ["java", "-XX:+UseZGC", str(folder / "Main.java")]
    if shutil.which("node"):
        found["node"] = ["node", "-e", _NODE]
    if shutil.which("go"):
        (folder / "main.go").write_text(_GO)
        subprocess.run(["go", "build", "-o", folder / "go", folder / "main.go"], check=True)
        found["go"] = [str(folder / "go")]
    (folder / "main.c").write_text(_C)
    for name, options in {
        "c": [],
        "c, static": ["-static"],
        "c, address sanitizer": ["-fsanitize=address"],
        "c, thread sanitizer": ["-fsanitize=thread"],
    }.items():
        subprocess.run(["cc", "-O1", *options, "-o", folder / name, folder / "main.c"], check=True)
        found[name] = [str(folder / name)]
    return found


def occupied(command: list[str]) -> list[tuple[int, int]]:
    """What one start of it has mapped when it is ready, without what only the kernel sees."""
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}  # it would report what is kept on purpose
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdin
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{shlex.join(command)} did not get ready")
        seen = snapshot(process.pid)
        process.stdin.write("\n")
    user = RangeSet(each.range for each in seen.mappings if each.range.stop <= 1 << 47)
    return [(each.start, each.stop) for each in user]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these programs")
    parser.add_argument("--starts", type=int, default=32, help="how often each is started (32)")
    options = parser.parse_args()
    recorded = json.loads(lzma.decompress(FILE.read_bytes())) if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, command in programs(Path(folder)).items():
            if options.names and name not in options.names:
                continue
            begun = time.strftime("%Y-%m-%d")
            starts = [occupied(command) for _ in range(options.starts)]
            recorded[name] = {
                "date": begun,
                "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
                "starts": starts,
            }
            print(f"{name:<32} {sum(map(len, starts)) / len(starts):6.0f} ranges in each of {len(starts)} starts")
    FILE.write_bytes(lzma.compress(json.dumps(recorded, separators=(",", ":")).encode(), preset=9))


if __name__ == "__main__":
    main()
