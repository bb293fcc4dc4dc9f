"""Results as a database: `results.db` beside `results.jsonl`, made from it and from what people said of the verdicts.

The JSON lines are what counts. The database follows them, reads only what was added since, and is made anew whenever
it does not belong to them any more or is damaged; so it may be deleted at any time.
"""

import datetime
import hashlib
import json
import os
import pathlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..files import read_json_lines
from ..results import VERDICTS, InspectionResult, result_of_line

DATABASE, ROWS, FEEDBACK = "results.db", "results.jsonl", "feedback.jsonl"
_WORST_FIRST = """
    CASE COALESCE(said, verdict) WHEN 'anomalous' THEN 0 WHEN 'uncertain' THEN 1 WHEN 'unknown' THEN 2
    WHEN 'error' THEN 3 ELSE 4 END, pred_score DESC, number
"""
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS results (
        number INTEGER PRIMARY KEY, time TEXT, hour TEXT, image TEXT, verdict TEXT, said TEXT, pred_score REAL,
        log_odds REAL, part TEXT, category TEXT, regions INTEGER, answer TEXT, seconds REAL, error TEXT, json TEXT,
        incoming TEXT, source TEXT
    );
    CREATE INDEX IF NOT EXISTS results_time ON results (time);
    CREATE INDEX IF NOT EXISTS results_image ON results (image);
"""
_INSERT = f"INSERT INTO results VALUES ({', '.join('?' * 17)})"
_FORMAT = 4
_TAIL = 512
_AT_ONCE = 500
_CLOCK = re.compile(r"\d\d:\d\d(:\d\d)?")


@dataclass(frozen=True)
class Wanted:
    """Which rows are wanted.

    Args:
        since, until (`str`, *optional*): `"2026-03-29T06:00:00"`, by the clock of the machine that judged.
        verdict (`str`, *optional*): What was judged, or said by a person since.
    """

    since: str | None = None
    until: str | None = None
    verdict: str | None = None

    def condition(self) -> tuple[str, list[str]]:
        """The condition of an SQL query and its values."""
        terms = {
            "substr(time, 1, 19) >= ?": self.since,
            "substr(time, 1, 19) < ?": self.until,
            "COALESCE(said, verdict) = ?": self.verdict,
        }
        given = {term: value for term, value in terms.items() if value is not None}
        return " AND ".join(given) or "1", list(given.values())


class ResultsDatabase:
    """The database of one folder of results, brought up to date when it is opened.

    Where the folder cannot be written, it is kept in memory alone.

    Args:
        folder (`str` or `os.PathLike`): What `anomalygpt watch` or `inspect` wrote.
        patient (`bool`, *optional*, defaults to `True`): Whether to wait while others hold it, and to do without the
            file where that is in vain.

    Raises:
        ValueError: If there are no results.
        sqlite3.OperationalError: If it cannot be written at once and is not waited for.
    """

    def __init__(self, folder: str | os.PathLike, patient: bool = True):
        self.folder = pathlib.Path(folder)
        if not (self.folder / ROWS).is_file():
            raise ValueError(f"There are no results in {os.fspath(folder)!r}. Name a folder with a {ROWS}.")
        path = self.folder / DATABASE
        try:
            self._open(str(path), 20 if patient else 0.1)
        except sqlite3.OperationalError:  # locked for long, on a disk that is full or read-only
            if not patient:
                raise
            self._open(":memory:")
        except sqlite3.DatabaseError:  # damaged
            try:
                path.unlink(missing_ok=True)
                self._open(str(path))
            except (OSError, sqlite3.Error):  # held by another one, who makes it anew
                self._open(":memory:")

    def close(self) -> None:
        """Closes it."""
        self._connection.close()

    def counts(self, wanted: Wanted) -> dict[str, dict[str, int]]:
        """How many pictures of each verdict in each hour (`"2026-03-29 06:00"`), in order; what was said counts."""
        condition, values = wanted.condition()
        query = f"SELECT hour, COALESCE(said, verdict), COUNT(*), MIN(number) FROM results WHERE {condition}"
        table: dict[str, dict[str, int]] = {}
        for hour, verdict, count, _ in sorted(
            self._connection.execute(f"{query} GROUP BY 1, 2", values), key=lambda row: row[3]
        ):
            table.setdefault(hour, {})[verdict] = count
        return table

    def worst(self, wanted: Wanted, limit: int = -1) -> list[tuple[int, str | None, InspectionResult]]:
        """Number, what was said by a person, and result of the wanted rows, worst first; `limit` -1: all."""
        condition, values = wanted.condition()
        query = f"SELECT number, said, json FROM results WHERE {condition} ORDER BY {_WORST_FIRST} LIMIT ?"
        rows = self._connection.execute(query, [*values, limit])
        return [(number, said, InspectionResult.from_dict(json.loads(text))) for number, said, text in rows]

    def in_order(self, wanted: Wanted) -> Iterator[tuple[int, str | None, InspectionResult]]:
        """The same in the order of judging, one by one."""
        condition, values = wanted.condition()
        query = f"SELECT number, said, json FROM results WHERE number > ? AND {condition} ORDER BY number LIMIT ?"
        number = 0
        # Not by one cursor: while that is open, nobody can write.
        while rows := self._connection.execute(query, [number, *values, _AT_ONCE]).fetchall():
            for number, said, text in rows:
                yield number, said, InspectionResult.from_dict(json.loads(text))

    def said(self, wanted: Wanted) -> tuple[int, int]:
        """How many verdicts of the wanted rows were confirmed and how many corrected."""
        condition, values = wanted.condition()
        query = "SELECT COALESCE(SUM(said = verdict), 0), COALESCE(SUM(said != verdict), 0) FROM results"
        return self._connection.execute(f"{query} WHERE {condition}", values).fetchone()

    def last_time(self) -> str | None:
        """When the newest row was written: the last one, not the highest time, which a wrong clock may have given."""
        query = "SELECT substr(time, 1, 19) FROM results WHERE time IS NOT NULL ORDER BY number DESC"
        return next((time for (time,) in self._connection.execute(query) if _is_time(time)), None)

    def find(self, picture: str) -> tuple[int, InspectionResult]:
        """Number and result of the picture of this path or name, its own or the one that it came with.

        Of several rows of one path, the newest.

        Raises:
            ValueError: If there is none, **or** several pictures have this name.
        """
        query = "SELECT number, image, json FROM results WHERE"
        given = [_text(picture), _text(os.path.abspath(picture))]
        rows = self._connection.execute(f"{query} image IN (?, ?) ORDER BY number", given).fetchall()
        if not rows:
            escaped = "".join(f"!{letter}" if letter in "!%_" else letter for letter in _text(picture))
            ends = [f"%/{escaped}", f"%\\{escaped}"]
            named = " OR ".join(f"{column} LIKE ? ESCAPE '!'" for column in ("image", "image", "incoming", "incoming"))
            query = f"{query} incoming IN (?, ?) OR {named} ORDER BY number"
            rows = self._connection.execute(query, [*given, *ends, *ends]).fetchall()
        paths = list(dict.fromkeys(path for _, path, _ in rows))
        if len(paths) != 1:
            found = f"{len(paths)} are called so: {', '.join(paths[:3])}" if paths else "there is none"
            raise ValueError(f"`PICTURE` must be one judged picture, got {picture!r}; {found}. Give its path.")
        return rows[-1][0], InspectionResult.from_dict(json.loads(rows[-1][2]))

    def _open(self, path: str, timeout: float = 20) -> None:
        self._connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._follow()
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.close()  # and with it what was begun
            raise

    def _follow(self) -> None:
        """Takes over what was added to the JSON lines; all of it where they are others than before."""
        self._connection.execute("CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value)")
        state = dict(self._connection.execute("SELECT key, value FROM state"))
        if state.get("format") != _FORMAT:
            self._connection.execute("DROP TABLE IF EXISTS results")
        for statement in _SCHEMA.split(";"):
            self._connection.execute(statement)
        with (self.folder / ROWS).open("rb") as file:
            at, number, status = state.get("bytes", 0), state.get("lines", 0), os.fstat(file.fileno())
            edited = state.get("size") == status.st_size and state.get("modified") != status.st_mtime_ns
            if edited or (state.get("format"), state.get("tail")) != (_FORMAT, _tail(file, at)):
                at = number = 0
            self._connection.execute("DELETE FROM results WHERE number > ?", [number])
            file.seek(at)
            for line in file:
                if (result := result_of_line(line)) is not None:
                    self._connection.execute(_INSERT, _row(number + 1, result))
                if not line.endswith(b"\n"):
                    break  # it is being written, or was saved so by hand: it is read again the next time
                at, number = at + len(line), number + 1
            state = {"format": _FORMAT, "bytes": at, "lines": number, "tail": _tail(file, at)}
            state |= {"size": status.st_size, "modified": status.st_mtime_ns}
        self._connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state.items())
        self._connection.execute("UPDATE results SET said = NULL WHERE said IS NOT NULL")
        for line in standing_feedback(self.folder):
            which, value = ("source", _source(line["source"])) if line.get("source") else ("number", line["row"])
            values = [line["said"], _text(line.get("image")), value]
            self._connection.execute(f"UPDATE results SET said = ? WHERE image IS ? AND {which} = ?", values)


def standing_feedback(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of the audit file that were not taken back, oldest first."""
    path, standing = folder / FEEDBACK, []
    for line in read_json_lines(path) if path.exists() else []:
        if line.get("undo") and standing:
            standing.pop()
        elif type(line.get("row")) is int and line.get("said") in ("normal", "anomalous"):
            standing.append(line)
    return standing


def is_about(line: dict[str, Any], number: int, result: InspectionResult) -> bool:
    """Whether a line of the audit file is about a row: by its file, for a resumed run numbers rows anew."""
    same = line["source"] == result.source if line.get("source") else line["row"] == number
    return same and line.get("image") == result.image


def moment(text: str, last: str | None, after: str | None = None) -> str:
    """A moment as a person writes it: `06:00`, `2026-03-29`, or both with a space or a `T` between; without an offset.

    An hour alone is the last one of that name in the results; with `after`, the first one after that moment.

    Example:
    ```python
    >>> moment("22:00", last="2026-03-29T05:30:00")
    '2026-03-28T22:00:00'
    >>> moment("06:00", last="2026-03-29T05:30:00", after="2026-03-28T22:00:00")
    '2026-03-29T06:00:00'

    ```

    Raises:
        ValueError: If it is none.
    """
    try:
        if not _CLOCK.fullmatch(text):
            found = datetime.datetime.fromisoformat(text)
            if found.tzinfo is not None:  # rows are compared by the clock of the machine that judged
                raise ValueError
            return found.isoformat(timespec="seconds")
        known = datetime.datetime.fromisoformat(after or last or datetime.datetime.now().isoformat()[:19])
        found = datetime.datetime.combine(known.date(), datetime.time.fromisoformat(text))
        if after and found <= known:
            found += datetime.timedelta(days=1)
        elif not after and found > known:
            found -= datetime.timedelta(days=1)
        return found.isoformat(timespec="seconds")
    except ValueError:
        raise ValueError(
            f"a moment must be like 06:00 or 2026-03-29T06:00, got {text!r}. Quote it; leave an offset out."
        ) from None


def _is_time(text: str) -> bool:
    try:
        return bool(datetime.datetime.fromisoformat(text))
    except ValueError:
        return False


def _row(number: int, result: InspectionResult) -> list[Any]:
    time = result.time or ""
    return [
        number, time or None, f"{time[:10]} {time[11:13]}:00" if time else "-", _text(result.image), result.verdict,
        None, result.pred_score, result.log_odds, _text(result.evidence.get("part") or result.setup.get("part")),
        _text(result.category), len(result.regions), _text(result.answer), result.seconds, _text(result.error),
        json.dumps(result.to_dict()), _text(result.evidence.get("incoming")),
        _source(result.source) if result.source else None,
    ]  # fmt: skip


def _source(source: Any) -> str:
    """Names the file that a row or a line of the audit file is about."""
    return json.dumps(source, sort_keys=True)


def _text(value: Any) -> str | None:
    """As SQLite can hold it: names of files may have bytes that are no UTF-8."""
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode()


def _tail(file: Any, at: int) -> str:
    """Names what stands before a place of a file; `""` where the file ends before it."""
    start = max(0, at - _TAIL)
    file.seek(start)
    content = file.read(at - start)
    return hashlib.sha256(content).hexdigest()[:16] if len(content) == at - start else ""


__all__ = ["FEEDBACK", "VERDICTS", "ResultsDatabase", "Wanted", "is_about", "moment", "standing_feedback"]
