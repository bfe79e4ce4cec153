"""The chart of bench/delivery.py's figures: events a second, and CPU an event, of the relay and its peers."""

from __future__ import annotations

from html import escape
from typing import Any

WIDTH, LABELS, RIGHT, BAR, GAP = 800, 190, 210, 22, 10
# The figure, how it is written, its ratio, and how that is written behind a peer's bar.
SPEED = ("events a second", ",.0f", "events a second", "  (keepline: {}x)")
CPU = ("CPU ms an event", ".3f", "CPU of the relay", "  (keepline: 1/{})")
# With a background of its own it can be read on any page, whatever that takes for light and dark.
STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de; }
  text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2328; }
  .head { font-weight: 600; font-size: 14px; }
  .small { font-size: 12px; fill: #59636e; }
  .ours { fill: #0969da; }
  .peer { fill: #8c959f; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #3d444d; }
    text { fill: #f0f6fc; }
    .small { fill: #9198a1; }
    .ours { fill: #4493f8; }
    .peer { fill: #656c76; }
  }
"""

Mark = tuple[str, float, str]
"""A bar: its label, its length in whatever unit, and the text behind it."""


def panel(top: int, head: str, bars: list[Mark]) -> tuple[list[str], int]:
    """Bars under a heading; the first one is ours.

    Args:
        top: where it begins.
        head: the heading.
        bars: what is drawn, from the top.

    Returns:
        the elements, and where the panel ends.
    """
    drawn = [f'<text class="head" x="20" y="{top + 14}">{escape(head)}</text>']
    most = max(length for _, length, _ in bars)
    y = top + 28
    for number, (label, length, text) in enumerate(bars):
        width = max(round((WIDTH - LABELS - RIGHT) * length / most, 1), 1.0)
        middle = y + BAR - 6
        drawn += [
            f'<text x="{LABELS - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="{"peer" if number else "ours"}" x="{LABELS}" y="{y}" width="{width}" '
            f'height="{BAR}" rx="3"/>',
            f'<text x="{LABELS + width + 8}" y="{middle}">{escape(text)}</text>',
        ]
        y += BAR + GAP
    return drawn, y + 10


def _bars(delivery: dict[str, Any], figure: str, form: str, ratio: str, beside: str) -> list[Mark]:
    found = []
    for name, row in delivery["figures"].items():
        value = row[figure]["median"]
        times = delivery["ratios"].get(name)
        found.append(
            (name, value, format(value, form) + (beside.format(times[ratio]["median"]) if times else ""))
        )
    return found


def drawn(delivery: dict[str, Any]) -> str:
    """The chart, as an SVG document."""
    speed, y = panel(16, "events a second (longer is better)", _bars(delivery, *SPEED))
    cpu, y = panel(y, "CPU per event, milliseconds (shorter is better)", _bars(delivery, *CPU))
    height = y + 14
    note = (
        f"Events of {delivery['peer bytes'] / 1000:.1f} KB to nginx on loopback, side by side on the same "
        f"machine; medians of {delivery['rounds']} rounds."
    )
    title = "Delivery by keepline's relay and by the transports of openlineage-python"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        *speed,
        *cpu,
        f'<text class="small" x="20" y="{height - 14}">{escape(note)}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
