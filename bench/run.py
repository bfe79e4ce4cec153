"""Runs every benchmark, one after the other, and writes RESULTS.md, results.json and results.svg beside them.

    python bench/run.py [--quick] [--into FOLDER] [--folder FOLDER] [NAME ...]

With ``--quick`` the numbers are small: it shows that all of it works, and its figures mean nothing. With
names, only those benchmarks run, and the others' figures are the ones that were there.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import backlog
import chart
import contention
import delivery
import emit
import idle
import machine
import report
import serialise

BENCHMARKS = {
    "delivery": delivery,
    "emit": emit,
    "serialise": serialise,
    "contention": contention,
    "backlog": backlog,
    "idle": idle,
}
HERE = Path(__file__).resolve().parent


def measured(name: str, words: list[str]) -> Any:
    """The figures of one benchmark, run in a process of its own."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            text, _ = process.communicate()
        except BaseException:
            # Not killed: it ends what it has started first.
            process.terminate()
            raise
    if process.returncode:
        raise SystemExit(f"the benchmark {name} has failed; why stands above")
    return json.loads(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (all)")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run at all?")
    parser.add_argument("--into", type=Path, default=HERE, help="where to write the results (bench/)")
    parser.add_argument("--folder", help="where to make outboxes (the folder for temporary files)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    names = options.names or list(BENCHMARKS)
    kept = options.into / "results.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if options.names and kept.exists() else {}
    words = ["--quick"] * options.quick + (["--folder", options.folder] if options.folder else [])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    for number, name in enumerate(names, 1):
        print(f"{number} of {len(names)}: {name}", file=sys.stderr, flush=True)
        results[name] = measured(name, words)
    results["machine"] = machine.described()
    results["quick"] = options.quick
    if missing := [name for name in BENCHMARKS if name not in results]:
        raise SystemExit(f"the results of {', '.join(missing)} are missing; run these too")
    # All three or none: they are of the same figures.
    pages = {
        "results.json": json.dumps(results, indent=1) + "\n",
        "RESULTS.md": report.written(results, BENCHMARKS),
        "results.svg": chart.drawn(results["delivery"]),
    }
    for file, text in pages.items():
        (options.into / file).write_text(text)
    for bar in report.bars(results):
        print(f"{'met   ' if bar.met else 'MISSED'}  {bar.what}: {bar.measured} ({bar.bar})")
    took = time.monotonic() - began
    print(f"{options.into / 'RESULTS.md'} is written; {took:.0f} s in all", file=sys.stderr)


if __name__ == "__main__":
    main()
