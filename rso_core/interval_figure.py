"""A figure of values with intervals as SVG text, for documents: readable in light and dark, no library needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LABEL, _ROW, _TOP, _BOTTOM, _RIGHT = 760, 250, 22, 34, 34, 30  # half of "100 %" stands right of its line
_COLOURS = ("#0072b2", "#d55e00", "#009e73")  # Okabe and Ito's, told apart by the colour-blind
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
_MOST_TICKS = 8

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Point:
    """A value with its interval, as fractions, in one row of the figure; `series` is its colour."""

    row: str
    series: str
    value: float
    low: float
    high: float


def interval_figure(title: str, points: Sequence[Point]) -> str:
    """Return an SVG of rows with a dot and its 95 % interval for each series, in %. Raises ValueError without points."""
    if not points:
        message = f"the figure {title!r} has no points"
        raise ValueError(message)
    rows = list(dict.fromkeys(point.row for point in points))
    series = list(dict.fromkeys(point.series for point in points))
    low, high, step = _range(points)
    height = _TOP + _ROW * len(rows) + _BOTTOM

    def x(value: float) -> float:
        return _LABEL + (value - low) / (high - low) * (_WIDTH - _LABEL - _RIGHT)

    parts = [_grid(x, low, high, step, height), *(_label(row, number) for number, row in enumerate(rows))]
    parts += [_mark(point, x, rows.index(point.row), series.index(point.series), len(series)) for point in points]
    legend = [
        f'<circle cx="{_LABEL + 130 * n}" cy="12" r="4" fill="{_COLOURS[n % 3]}"/>'
        f'<text x="{_LABEL + 130 * n + 9}" y="16">{escape(name)}</text>'
        for n, name in enumerate(series)
    ]
    style = "text{font:12px system-ui,sans-serif;fill:#666}line{stroke:#999}.grid{stroke:#9993;}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><style>{style}</style>{''.join([*legend, *parts])}</svg>\n"
    )


def _range(points: Sequence[Point]) -> tuple[float, float, float]:
    least, most = min(point.low for point in points), max(point.high for point in points)
    step = next((step for step in _STEPS if (most - least) / step <= _MOST_TICKS), _STEPS[-1])
    return step * (least // step), step * (most // step + 1), step


def _grid(x: Scale, low: float, high: float, step: float, height: int) -> str:
    ticks = [low + step * number for number in range(round((high - low) / step) + 1)]
    lines = [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP - 8}" y2="{height - _BOTTOM}"/>'
        f'<text x="{x(tick):.1f}" y="{height - 14}" text-anchor="middle">{100 * tick:.0f} %</text>'
        for tick in ticks
    ]
    return "".join(lines)


def _label(row: str, number: int) -> str:
    return f'<text x="{_LABEL - 10}" y="{_TOP + _ROW * number + 10}" text-anchor="end">{escape(row)}</text>'


def _mark(point: Point, x: Scale, row: int, series: int, count: int) -> str:
    y = _TOP + _ROW * row + 6 + (series - (count - 1) / 2) * 6
    colour = _COLOURS[series % 3]
    words = f"{point.row}, {point.series}: {100 * point.value:.1f} % [{100 * point.low:.1f}, {100 * point.high:.1f}]"
    return (
        f'<g><title>{escape(words)}</title><line x1="{x(point.low):.1f}" x2="{x(point.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
        f'style="stroke:{colour};stroke-width:2"/><circle cx="{x(point.value):.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/></g>'
    )
