"""What is printed, and what is written down: the table, and each difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parity.capture import LEGS
from parity.verdict import Verdict

_MOST_SHOWN = 5  # differing events of a DAG at a leg


@dataclass(frozen=True)
class Outcome:
    """Of one version of Airflow.

    Args:
        versions: of what was installed, by distribution.
        seconds: that the two runs took.
        verdicts: of the DAGs.
        remarks: by side, what wasn't as it should be and isn't an event.
    """

    versions: Mapping[str, str]
    seconds: float
    verdicts: list[Verdict]
    remarks: Mapping[str, list[str]]

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all, and something to compare."""
        return bool(self.verdicts) and not any(one.mismatches for one in self.verdicts)


def table(outcome: Outcome) -> list[str]:
    """A line for each DAG, in Markdown."""
    legs = ", ".join(LEGS)
    lines = [
        f"| DAG | events upstream ({legs}) | events keepline ({legs}) | differences |",
        "|---|---|---|---|",
    ]
    for one in outcome.verdicts:
        counts = [", ".join(map(str, side)) for side in (one.upstream, one.keepline)]
        lines.append(f"| {one.dag} | {counts[0]} | {counts[1]} | {len(one.mismatches)} |")
    totals = [
        ", ".join(
            str(sum(column)) for column in zip(*(getattr(one, side) for one in outcome.verdicts), strict=True)
        )
        for side in ("upstream", "keepline")
    ]
    lines.append(
        f"| all | {totals[0]} | {totals[1]} | {sum(len(one.mismatches) for one in outcome.verdicts)} |"
    )
    return lines


def mismatches(verdicts: Iterable[Verdict]) -> list[str]:
    """Each difference, by DAG and leg; of many the first few."""
    lines = []
    for verdict in verdicts:
        for leg in LEGS:
            found = [one for where, one in verdict.mismatches if where == leg]
            if found:
                lines.append(f"{verdict.dag}, {leg}:")
                lines += [f"  {line}" for one in found[:_MOST_SHOWN] for line in str(one).splitlines()]
            if len(found) > _MOST_SHOWN:
                lines.append(f"  and {len(found) - _MOST_SHOWN} more")
    return lines


def document(outcomes: Mapping[str, Outcome]) -> str:
    """The page of results."""
    lines = [
        "# Event parity",
        "",
        "Written by `make parity`: the same DAGs, run on a live Airflow without Keepline (the provider's own",
        "listener, the client's composite transport) and with it. The events that arrive at each of the two",
        "destinations are compared as sets, field by field. What is compared and what can't be:",
        "[docs/parity.md](../docs/parity.md).",
    ]
    for version, outcome in outcomes.items():
        lines += ["", f"## Airflow {version}", ""]
        lines.append(", ".join(f"{name} {installed}" for name, installed in outcome.versions.items()) + ".")
        lines += [f"Both runs took {outcome.seconds:.0f} s.", "", *table(outcome)]
        for side, remarks in outcome.remarks.items():
            lines += [f"\n{side}: {remark}." for remark in remarks]
        if found := mismatches(outcome.verdicts):
            lines += ["", "```", *found, "```"]
    return "\n".join(lines) + "\n"
