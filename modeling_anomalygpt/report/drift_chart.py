"""Courses of numbers over a shift, as SVG charts and as one HTML page that needs nothing else."""

import html
import pathlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .page import report_words

_WIDTH, _HEIGHT, _POINTS = 520, 120, 120
_STYLE = (
    ".drift svg{width:100%;display:block}.drift text{font-size:11px;fill:currentColor;opacity:.7}"
    ".drift .band{fill:currentColor;opacity:.09}.drift .mean{stroke:currentColor;opacity:.5;stroke-dasharray:4 3}"
    ".drift .course{fill:none;stroke:#2457a6;stroke-width:1.6}.drift .drifted .course{stroke:#b3261e}"
    ".drift .drifted h3{color:#b3261e}.drift h3{font-size:14px;margin:14px 0 2px}.drift p{margin:0;font-size:13px}"
)


@dataclass(frozen=True)
class Chart:
    """One quantity of one part.

    Args:
        title (`str`): What it is.
        values (`Sequence[float]`): In order of judging, one at least.
        num_first (`int`): How many of them at the beginning the others are compared with.
        line (`str`): What was found, in words; empty where it is too early.
        drifted (`bool`): Whether it stands out.
    """

    title: str
    values: Sequence[float]
    num_first: int
    line: str = ""
    drifted: bool = False


def draw(charts: Sequence[Chart]) -> str:
    """The charts as a piece of HTML: the course (means of neighbouring pictures) over the range of the first ones.

    The grey band is the mean of the first pictures, two of their standard deviations up and down.
    """
    pieces = "".join(map(_drawn, charts))
    return f"<div class=drift><style>{_STYLE}</style>{pieces}</div>"


def drift_page(charts: Sequence[Chart], folder: str, language: str = "en") -> str:
    """The charts as a page.

    Args:
        charts (`Sequence[Chart]`): What is shown.
        folder (`str`): Of the results.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.

    Returns:
        `str`: HTML without scripts; nothing is fetched from anywhere.
    """
    words = report_words(language)
    style = (pathlib.Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    security = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f"<!DOCTYPE html>\n<html lang={'zh-CN' if language == 'zh' else 'en'}><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{security}">'
        f"<title>{words['drift']}</title><style>{style}</style></head><body><header><h1>{words['drift']}</h1>"
        f"<p>{html.escape(folder)} · {time.strftime('%Y-%m-%d %H:%M')}</p></header>"
        f"<section class=panel><p class=help>{words['drift_help']}</p>{draw(charts)}</section></body></html>\n"
    )


def _drawn(chart: Chart) -> str:
    first = np.asarray(chart.values[: chart.num_first])
    blocks = np.array_split(np.asarray(chart.values), min(_POINTS, len(chart.values)))
    means = [float(block.mean()) for block in blocks]
    band = first.mean() - 2 * first.std(), first.mean() + 2 * first.std()
    low, high = min(*means, band[0]), max(*means, band[1])
    scale = _HEIGHT / max(high - low, 1e-6)

    def down(value: float) -> float:
        return round((high - value) * scale, 1)

    step = _WIDTH / max(1, len(means) - 1)
    points = " ".join(f"{number * step:.1f},{down(mean)}" for number, mean in enumerate(means))
    top, bottom = down(band[1]), down(band[0])
    return (
        f"<section{' class=drifted' if chart.drifted else ''}><h3>{html.escape(chart.title)}</h3>"
        f"<p>{html.escape(chart.line)}</p><svg viewBox='-2 -2 {_WIDTH + 50} {_HEIGHT + 6}' role=img>"
        f"<rect class=band x=0 y={top} width={_WIDTH} height={round(bottom - top, 1)} />"
        f"<path class=mean d='M0 {down(first.mean())}H{_WIDTH}'/><polyline class=course points='{points}'/>"
        f"<text x={_WIDTH + 6} y=9>{high:.2f}</text><text x={_WIDTH + 6} y={_HEIGHT}>{low:.2f}</text></svg></section>"
    )


__all__ = ["Chart", "draw", "drift_page"]
