"""Draws what `benchmarks/mac_latency.py` measured: the latency ratio over that of the multiply-accumulates, as SVG.

    python benchmarks/mac_scatter.py build/results/mac_latency.json [MORE.json ...] --out docs/mac-latency.svg

One row of panels for each file, which is one execution provider and number of threads; one panel for each family of
patterns; one point for each option of each layer, in a colour for each network. Both axes are logarithmic, from 1/16
to 16 of the dense layer's; what lies beyond is drawn at the edge. Below the horizontal line an option is faster than
the layer, on the diagonal as fast as its multiply-accumulates say.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

RANGE = 4.0
"""Both axes reach from 2^-RANGE to 2^RANGE."""

SIZE, LEFT, TOP, GAP = 200, 40, 34, 16
"""Of a panel, of what stands before the first and above each, and between two, in pixels."""

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8d6a9f")
FAMILIES = ("pairs, channels in blocks", "pairs, other channels", "chains and tiles", "sparse")


def family(point: Mapping[str, Any]) -> str:
    """The panel of a point."""
    if point["aligned"] is not None:
        return FAMILIES[0] if point["aligned"] else FAMILIES[1]
    return FAMILIES[3] if str(point["pattern"]).startswith("sparse") else FAMILIES[2]


def place(macs: float, latency: float) -> tuple[float, float]:
    """Where two ratios lie in a panel, in pixels from its upper left corner."""
    across, up = (min(max(math.log2(ratio) if ratio > 0 else -RANGE, -RANGE), RANGE) for ratio in (macs, latency))
    return SIZE * (across + RANGE) / (2 * RANGE), SIZE * (RANGE - up) / (2 * RANGE)


def panel(points: Sequence[Mapping[str, Any]], networks: Sequence[str], name: str) -> list[str]:
    """One panel, its upper left corner at the origin."""
    one, end = SIZE / 2, SIZE
    lines = [
        f'<rect width="{SIZE}" height="{SIZE}" fill="none" stroke="#999"/>',
        f'<path d="M0 {one}H{end}M0 {end}L{end} 0" stroke="#bbb" stroke-dasharray="3 3"/>',
        f'<text x="{one}" y="-6" text-anchor="middle">{escape(name)} ({len(points)})</text>',
    ]
    for colour, network in zip(COLOURS, networks, strict=False):
        of_network = [place(point["macs"], point["latency"]) for point in points if point["network"] == network]
        if of_network:
            path = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in of_network)
            style = f'stroke="{colour}" stroke-width="3" stroke-linecap="round" stroke-opacity="0.5"'
            lines.append(f'<path d="{path}" {style}/>')
    return lines


def drawn(measured: Sequence[Mapping[str, Any]]) -> str:
    """The whole picture of some results files."""
    networks = list(dict.fromkeys(point["network"] for content in measured for point in content["points"]))
    if len(networks) > len(COLOURS):
        raise ValueError(f"expected at most {len(COLOURS)} networks, but got {len(networks)}")
    width = LEFT + len(FAMILIES) * (SIZE + GAP)
    step = SIZE + TOP + 2 * GAP
    height = len(measured) * step + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
    lines = [f'{head} font-size="11">', f'<rect width="{width}" height="{height}" fill="white"/>']
    for row, content in enumerate(measured):
        down = row * step + TOP
        where = f"{', '.join(content['providers'])}, threads: {content['threads']}"
        words = f"Latency (up) over multiply-accumulates (across), both as shares of the layer's: {where}"
        lines.append(f'<text x="{LEFT}" y="{down - 20}" font-weight="bold">{escape(words)}</text>')
        for column, name in enumerate(FAMILIES):
            across = LEFT + column * (SIZE + GAP)
            members = [point for point in content["points"] if family(point) == name]
            lines += [f'<g transform="translate({across} {down})">', *panel(members, networks, name)]
            for ratio in (1 / 8, 1.0, 8.0):
                x, y = place(ratio, ratio)
                lines.append(f'<text x="{x}" y="{SIZE + 13}" text-anchor="middle">{ratio:g}</text>')
                if column == 0:
                    lines.append(f'<text x="-4" y="{y + 4}" text-anchor="end">{ratio:g}</text>')
            lines.append("</g>")
    for number, network in enumerate(networks):
        x = LEFT + number * (SIZE + GAP)
        lines.append(f'<text x="{x}" y="{height - 8}" fill="{COLOURS[number]}">● {escape(network)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the files and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, nargs="+", help="what mac_latency.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.measured]
    arguments.out.write_text(drawn(contents), encoding="utf-8")


if __name__ == "__main__":
    main()
