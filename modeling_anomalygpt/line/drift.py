"""Drift: whether the line still looks as it did when it was set up. Tells it and draws it; never changes a verdict.

Compared are the first pictures of a part and its latest ones. Each quantity is a ratio to what the references say, so
a mean of 1 has a meaning of its own; a handful of references are too few to be a distribution to compare with.
"""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..report.drift_chart import Chart
from ..report.page import report_words
from ..results import InspectionResult
from .corrections import part_of
from .database import ResultsDatabase, Wanted, moment

QUANTITIES = ("score", "distance", "exposure", "sharpness")
"""Ratios to the threshold, to the largest comparable distance, to the references' light, to the least sharpness."""

WINDOW = 100
FEWEST = 30
"""Pictures of which each side must have so many."""

_BINS = 5
# What practice calls a major shift; with few pictures chance alone reaches more, which `stability_limit` knows.
_MAJOR = 0.25
# A change of the mean by less of its unit moves no verdict, however sure it is.
_LEAST = 0.05
_ONE_IN_A_THOUSAND = 18.467  # chi-square with four degrees of freedom, one less than bins, exceeds it so often


def traits_of(result: InspectionResult, verdict: str) -> dict[str, float]:
    """What a row says of the line: light and sharpness of every comparable picture, score and distance of good ones.

    Args:
        result ([`InspectionResult`]): The row.
        verdict (`str`): What it counts as: its own verdict, or what a person said of it.

    Returns:
        `dict[str, float]`: Some of [`QUANTITIES`].
    """
    traits = result.evidence.get("traits")
    traits = dict(traits) if isinstance(traits, dict) else {}
    if verdict == "normal" and "threshold" in result.evidence:
        traits["score"] = result.pred_score
    elif verdict != "normal":
        traits.pop("distance", None)
    return {
        name: float(traits[name])
        for name in QUANTITIES
        if isinstance(traits.get(name), int | float) and math.isfinite(traits[name])
    }


def population_stability(first: Sequence[float], last: Sequence[float]) -> float:
    """Population stability index: 0 for equal distributions, 0.25 is usually called a major shift.

    The values are counted in five bins, bounded by the quintiles of the first ones; half a picture is added to each
    bin, so that none is empty: `sum((q - p) * log(q / p))` of the shares `p` and `q`.

    Args:
        first, last (`Sequence[float]`): Two samples.

    Example:
    ```python
    >>> first = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    >>> population_stability(first, first), round(population_stability(first, [20] * 10), 3)
    (0.0, 1.948)

    ```
    """
    edges = np.quantile(first, np.arange(1, _BINS) / _BINS)
    shares = [
        (np.bincount(np.searchsorted(edges, values), minlength=_BINS) + 0.5) / (len(values) + 0.5 * _BINS)
        for values in (first, last)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def stability_limit(num_first: int, num_last: int) -> float:
    """The index that two samples of one distribution exceed once in a thousand times, at least 0.25.

    Of such samples the index over `1/n + 1/m` is distributed as chi-square with one degree of freedom less than bins
    (Yurdakul 2018, https://scholarworks.wmich.edu/dissertations/3208).
    """
    return max(_MAJOR, (1 / num_first + 1 / num_last) * _ONE_IN_A_THOUSAND)


@dataclass(frozen=True)
class Comparison:
    """One quantity of one part, its first pictures against its latest.

    Args:
        part (`str`, *optional*): The stored part.
        quantity (`str`): One of [`QUANTITIES`].
        first, last (`float`): Means.
        shift (`float`): Their difference in standard deviations of the first pictures.
        stability (`float`): See [`population_stability`].
        limit (`float`): See [`stability_limit`].
    """

    part: str | None
    quantity: str
    first: float
    last: float
    shift: float
    stability: float
    limit: float

    @property
    def drifted(self) -> bool:
        """Whether the latest pictures are others than the first, by more than chance, and enough to matter."""
        return self.stability > self.limit and abs(self.last - self.first) >= _LEAST


def compare(part: str | None, quantity: str, first: Sequence[float], last: Sequence[float]) -> Comparison:
    """Compares two samples of at least two values each."""
    means, spread = (float(np.mean(first)), float(np.mean(last))), max(float(np.std(first, ddof=1)), 1e-6)
    stability, limit = population_stability(first, last), stability_limit(len(first), len(last))
    return Comparison(part, quantity, *means, (means[1] - means[0]) / spread, stability, limit)


@dataclass
class Course:
    """One quantity of one part over time; what lies between the first and the latest values is let go.

    Args:
        first, last: Values.
        complete: Whether the first values are of earlier results; no later ones join them.
    """

    first: list[float]
    last: deque[float]
    complete: bool = False


@dataclass
class Drift:
    """Follows results, one after the other.

    Args:
        window (`int`): So many pictures are the first, and so many the latest.
    """

    window: int = WINDOW
    _courses: dict[tuple[str | None, str], Course] = field(default_factory=dict)
    _warned: set[tuple[str | None, str]] = field(default_factory=set)
    _count: int = 0

    def add(self, result: InspectionResult, said: str | None = None) -> dict[tuple[str | None, str], float]:
        """Takes in a row, `said` is what a person said of it; returns what it tells, by part and quantity."""
        part, traits = part_of(result), traits_of(result, said or result.verdict)
        for quantity, value in traits.items():
            course = self._courses.setdefault((part, quantity), Course([], deque(maxlen=self.window)))
            begins = not course.complete and len(course.first) < self.window
            (course.first if begins else course.last).append(value)
        return {(part, quantity): value for quantity, value in traits.items()}

    def begin_anew(self) -> None:
        """What comes from now on is compared with the first pictures so far."""
        for course in self._courses.values():
            course.last.clear()
            course.complete = True

    def comparisons(self) -> list[Comparison]:
        """All that can be compared: 30 pictures of each side at least; by parts and quantities."""
        courses = ((key, self._courses[key]) for key in sorted(self._courses, key=_place))
        return [
            compare(*key, course.first, course.last)
            for key, course in courses
            if min(len(course.first), len(course.last)) >= FEWEST
        ]

    def first(self, part: str | None, quantity: str) -> tuple[list[float], bool]:
        """The first values, and whether they are of earlier results."""
        course = self._courses[part, quantity]
        return course.first, course.complete

    def num_pictures(self) -> tuple[int, int]:
        """Pictures among the first, and among the latest, of the best-known quantity."""
        return max(((len(course.first), len(course.last)) for course in self._courses.values()), default=(0, 0))

    def warnings(self) -> Iterator[str]:
        """Lines about what has begun to drift, or is over, since the last call; looks at every tenth call."""
        self._count += 1
        for found in self.comparisons() if self._count % 10 == 0 else ():
            key = found.part, found.quantity
            if found.drifted and key not in self._warned:
                self._warned.add(key)
                yield f"{in_words(found)} Verdicts are not changed; look at light and camera, or add references."
            elif not found.drifted and key in self._warned:
                self._warned.discard(key)
                yield f"No drift of {found.quantity} any more (mean {found.last:.2f})."


def drift_of(
    folder: str | os.PathLike,
    window: int = WINDOW,
    since: str | None = None,
    against: str | os.PathLike | None = None,
) -> tuple[Drift, dict[tuple[str | None, str], list[float]]]:
    """The drift of a folder of results, and all values of each part and quantity in the order of judging.

    Args:
        folder (`str` or `os.PathLike`): What `anomalygpt watch` or `inspect` wrote.
        window (`int`, *optional*, defaults to 100): See [`Drift`].
        since (`str`, *optional*): A moment as a person writes it, see [`moment`].
        against (`str` or `os.PathLike`, *optional*): Other results, whose first pictures are the first ones.

    Returns:
        `tuple(Drift, dict)`

    Raises:
        ValueError: If there are no results, **or** `since` is no moment.
    """
    drift, courses = Drift(window), {}
    for place in [folder] if against is None else [against, folder]:
        drift.begin_anew()
        courses.clear()
        database = ResultsDatabase(place)
        try:
            wanted = Wanted(moment(since, database.last_time()) if since and place == folder else None)
            for _, said, result in database.in_order(wanted):
                for key, value in drift.add(result, said).items():
                    courses.setdefault(key, []).append(value)
        finally:
            database.close()
    return drift, courses


def charts(drift: Drift, courses: dict[tuple[str | None, str], list[float]], language: str = "en") -> list[Chart]:
    """What is drawn of it: a chart for each part and quantity, in words of the language.

    The first values stand first, also where they are of earlier results.
    """
    words, found = report_words(language), {(one.part, one.quantity): one for one in drift.comparisons()}
    drawn = []
    for (part, quantity), values in sorted(courses.items(), key=lambda row: _place(row[0])):
        one = found.get((part, quantity))
        line = "" if one is None else words["drift_line"].format(
            first=f"{one.first:.3f}", last=f"{one.last:.3f}", shift=f"{one.shift:+.2f}",
            stability=f"{one.stability:.2f}", limit=f"{one.limit:.2f}",
        )  # fmt: skip
        title = words[f"drift_{quantity}"] + (f" · {part}" if part else "")
        first, earlier = drift.first(part, quantity)
        shown = [*first, *values] if earlier else values
        drawn.append(Chart(title, shown, len(first), line, one is not None and one.drifted))
    return drawn


def _place(key: tuple[str | None, str]) -> tuple[str, int]:
    return key[0] or "", QUANTITIES.index(key[1])


def in_words(found: Comparison) -> str:
    """A comparison in one sentence."""
    of = "" if found.part is None else f" of {found.part!r}"
    return (
        f"Drift: the {found.quantity}{of} is {found.last:.2f} instead of {found.first:.2f} "
        f"({found.shift:+.1f} standard deviations, stability index {found.stability:.2f}, limit {found.limit:.2f})."
    )


__all__ = [
    "FEWEST",
    "QUANTITIES",
    "WINDOW",
    "Comparison",
    "Drift",
    "charts",
    "compare",
    "drift_of",
    "in_words",
    "population_stability",
    "stability_limit",
    "traits_of",
]
