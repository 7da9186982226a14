"""The plot: an SVG of each server's rate beside the ceiling's, grouped by work."""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from .results import Cell, Results
from .servers import (
    ASYNCPG,
    CEILING,
    LITESTAR,
    ON_POSTGRESQL,
    OURS,
    OURS_NORMAL,
    POCKETBASE,
    PORT,
    PSYCOPG,
    TUTORIAL,
    TWO_ON_POSTGRESQL,
)

_CONNECTIONS = 64
_BARS: Mapping[str, tuple[str, str]] = {  # the server's colour and label
    OURS.name: ("#0b7a75", "hero-api (FULL)"),
    OURS_NORMAL.name: ("#6cc5bf", "hero-api (NORMAL)"),
    POCKETBASE.name: ("#f2a541", "PocketBase (NORMAL)"),
    LITESTAR.name: ("#8d6bb8", "Litestar + advanced-alchemy"),
    PORT.name: ("#7b8794", "async port"),
    TUTORIAL.name: ("#d64545", "tutorial"),
    ON_POSTGRESQL.name: ("#0b7a75", "hero-api on PostgreSQL"),
    TWO_ON_POSTGRESQL.name: ("#6cc5bf", "two processes"),
    ASYNCPG.name: ("#7b8794", "async port on asyncpg"),
    PSYCOPG.name: ("#8d6bb8", "async port on psycopg"),
}
_WIDTH, _HEIGHT = 1280, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 112, 56
_INK, _PALE, _LINE = "#1f2933", "#616e7c", "#e4e7eb"


def draw(path: Path, results: Results, titles: Mapping[str, str], caption: str) -> bool:
    """Draw the works that were measured at 64 connections beside the ceiling, if any."""
    works = [work for work in titles if results.medians(Cell(work, _CONNECTIONS, CEILING.name))]
    names = [
        name
        for name in _BARS
        if any(Cell(work, _CONNECTIONS, name) in results.runs for work in works)
    ]
    if not works or not names:
        return False
    ratios = {(work, name): _ratio(results, work, name) for work in works for name in names}
    top = max(1.0, *(ratio or 0 for ratio in ratios.values())) * 1.08
    parts = [*_head(names, caption), *_grid(top)]
    group = (_WIDTH - _LEFT - _RIGHT) / len(works)
    for index, work in enumerate(works):
        left = _LEFT + group * index
        parts.append(_text(left + group / 2, _HEIGHT - _BOTTOM + 22, work, 14, weight=600))
        parts.append(_text(left + group / 2, _HEIGHT - _BOTTOM + 40, titles[work], 10, _PALE))
        width = group * 0.86 / len(names)
        for place, name in enumerate(names):
            x = left + group * 0.07 + width * place
            parts += _bar(x, width, ratios[work, name], _BARS[name][0], top)
    parts += [_ceiling_line(top), "</svg>\n"]
    path.write_text("\n".join(parts), encoding="utf-8")
    return True


def _ratio(results: Results, work: str, name: str) -> float | None:
    """Return the server's rate in ceilings; zero for one that hung, None for one not measured."""
    cell = Cell(work, _CONNECTIONS, name)
    figures = results.medians(cell)
    if figures is None:
        return None
    return 0 if figures.hung else results.rate_ratio(cell, Cell(work, _CONNECTIONS, CEILING.name))


def _head(names: list[str], caption: str) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
    )
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="10" fill="#ffffff"/>'
    title = "Requests a second, as a share of what FastAPI does with nothing behind it"
    yield _text(_LEFT, 32, title, 17, anchor="start", weight=600)
    yield _text(_LEFT, 52, caption, 12, _PALE, anchor="start")
    x = float(_LEFT)
    for name in names:
        colour, label = _BARS[name]
        yield f'<rect x="{x:.1f}" y="68" width="12" height="12" rx="2" fill="{colour}"/>'
        yield _text(x + 17, 78.5, label, 12, anchor="start")
        x += 40 + 6.4 * len(label)


def _grid(top: float) -> Iterator[str]:
    for percent in range(0, int(top * 100) + 1, 20 if top < 2 else 50):
        y = _y(percent / 100, top)
        yield (
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{_LINE}"/>'
        )
        yield _text(_LEFT - 8, y + 4, f"{percent / 100:.1f}", 11, _PALE, anchor="end")


def _bar(x: float, width: float, ratio: float | None, colour: str, top: float) -> Iterator[str]:
    if ratio is None:
        return
    y = _y(ratio, top)
    if ratio == 0:
        middle, base = x + width / 2 + 4, _y(0, top) - 5
        yield (
            f'<text x="{middle:.1f}" y="{base:.1f}" font-size="11" fill="{colour}" '
            f'transform="rotate(-90 {middle:.1f} {base:.1f})">hung</text>'
        )
        return
    yield (
        f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" '
        f'height="{_y(0, top) - y:.1f}" rx="2" fill="{colour}"/>'
    )
    yield _text(x + width / 2, y - 4, f"{ratio:.2f}", 10)


def _ceiling_line(top: float) -> str:
    y = _y(1, top)
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
        f'stroke="{_INK}" stroke-width="1.5" stroke-dasharray="5 4"/>'
    ) + _text(_WIDTH - _RIGHT, y - 5, "the ceiling", 11, anchor="end")


def _y(ratio: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - ratio / top * (_HEIGHT - _TOP - _BOTTOM)


def _text(  # noqa: PLR0913, PLR0917 - the attributes of an SVG text
    x: float,
    y: float,
    text: str,
    size: int,
    colour: str = _INK,
    anchor: str = "middle",
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}" font-weight="{weight}" '
        f'stroke="#ffffff" stroke-width="2.5" paint-order="stroke">{escape(text)}</text>'
    )
