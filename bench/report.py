"""bench/RESULTS.md from the figures: what was promised, what was measured, and how to measure it again."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from figures import Table


@dataclass(frozen=True)
class Bar:
    """A promise and what became of it.

    Args:
        what: is promised.
        bar: how much.
        measured: how much it is.
        met: whether that is enough.
    """

    what: str
    bar: str
    measured: str
    met: bool

    def row(self) -> list[str]:
        """For the table."""
        return [self.what, self.bar, self.measured, "yes" if self.met else "**no**"]


def bars(results: dict[str, Any]) -> Iterator[Bar]:
    """All that is promised in figures."""
    delivery, backlog = results["delivery"], results["backlog"]
    ratios, wanted = delivery["ratios"]["client http"], delivery["bars"]
    ours = delivery["figures"]["keepline relay"]
    ratio = ratios["events a second"]["median"]
    bound = f"{wanted['events a second']}x, aim {wanted['aim']}x"
    what = "events a second, beside the client's http"
    yield Bar(what, bound, f"{ratio}x", ratio >= wanted["events a second"])
    ratio = ratios["CPU of the relay"]["median"]
    what = "CPU per event, beside the client's http"
    yield Bar(what, f"1/{wanted['CPU']}", f"1/{ratio}", ratio >= wanted["CPU"])
    connections = round(ours["connections at once"]["most"])
    at_most = wanted["connections"]
    yield Bar("connections of the relay", f"at most {at_most}", str(connections), connections <= at_most)
    wanted = backlog["bars"]
    memory = {f"{step['waiting']:,} waiting": step["at most MB"] for step in backlog["steps"]}
    memory["delivering with these behind"] = backlog["drain"]["at most MB"]
    memory[f"delivering {delivery['events']:,}"] = ours["memory MB"]["most"]
    for when, most in memory.items():
        bound = f"at most {wanted['memory']} MB"
        yield Bar(f"memory of the relay, {when}", bound, f"{most} MB", most <= wanted["memory"])
    for label, found in backlog["append"].items():
        for p, ratio in found["ratio"].items():
            what = f"an append beside {backlog['events']:,} waiting and none, {p}, {label}"
            bound, median = wanted["append"], ratio["median"]
            yield Bar(what, f"at most {bound}x", f"{median:.2f}x", median <= bound)


def written(results: dict[str, Any], modules: dict[str, ModuleType]) -> str:
    """The page.

    Args:
        results: of each benchmark by its name, and ``machine``.
        modules: the benchmarks, in the order in which they are told of.
    """
    promised = [bar.row() for bar in bars(results)]
    machine = [[name, value] for name, value in results["machine"].items()]
    parts = [
        "# What Keepline costs, and what its peers cost",
        "**A quick run: these figures mean nothing.**" if results["quick"] else "",
        "Made by `make bench`, which measures all of this again; each benchmark also runs alone, as its "
        "section says. Keepline and its peers run side by side, on the same machine in the same minutes, "
        "with the same events: ratios hold on other machines, absolute figures don't. Memory is resident "
        "memory in MB of 10^6 bytes; CPU is user and system time.",
        "![Events a second and CPU per event of the relay and of the client's transports](results.svg)",
        Table("## What is promised", ["promise", "bar", "measured", "met"], promised).markdown(),
        Table("## Where", ["", ""], machine).markdown().replace("---:", "---"),
    ]
    for name, module in modules.items():
        head, _, rest = (module.__doc__ or "").partition("\n\n")
        parts.append(f"## {name}: {head[0].lower() + ' '.join(head.split())[1:].rstrip('.')}")
        parts.append(_prose(rest))
        parts += [table.markdown() for table in module.tables(results[name])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _prose(text: str) -> str:
    """A docstring's paragraphs; what is indented in it is a command."""
    paragraphs = []
    for part in text.strip("\n").split("\n\n"):
        if part.startswith("    "):
            paragraphs.append(f"```\n{textwrap.dedent(part).rstrip()}\n```")
        else:
            paragraphs.append(part.strip())
    return "\n\n".join(paragraphs)
