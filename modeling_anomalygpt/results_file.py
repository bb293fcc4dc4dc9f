"""The file of finished results: one JSON line a picture, appended as soon as it is known, readable after a kill."""

import json
import os
import pathlib

from .inspection_result import InspectionResult


class ResultsFile:
    r"""
    Appends results to a JSON-lines file and gives back those of an earlier, interrupted run.

    Args:
        path (`str` or `os.PathLike`):
            The file; its folder must exist.
        resume (`bool`):
            Whether finished results in it are kept. Otherwise the file starts empty.
    """

    def __init__(self, path: str | os.PathLike, resume: bool):
        self.path = pathlib.Path(path)
        self.finished: dict[str, InspectionResult] = {}
        if resume and self.path.exists():
            self.finished = {row.image: row for row in read_results(self.path) if row.image and row.error is None}
        # Rewritten rather than appended to: a last line cut off by a kill must not swallow the next one.
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(b"".join(_line(row) for row in self.finished.values()))
        os.replace(temporary, self.path)

    def append(self, result: InspectionResult) -> None:
        """Writes one finished result; it survives the end of this process."""
        with self.path.open("ab") as file:
            file.write(_line(result))
            file.flush()
            os.fsync(file.fileno())


def read_results(path: str | os.PathLike) -> list[InspectionResult]:
    """Reads all whole lines of a results file; what was cut off or damaged is left out."""
    results = []
    for line in pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            result = InspectionResult.from_dict(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        if _is_sound(result):
            results.append(result)
    return results


def _is_sound(result: InspectionResult) -> bool:
    """Whether every value is of the kind that a report and a table can show."""
    texts = (result.verdict, result.answer, result.question, result.category, result.language)
    numbers = (result.pred_score, result.log_odds, result.seconds)
    return (
        all(isinstance(text, str) for text in texts)
        and all(text is None or isinstance(text, str) for text in (result.image, result.error))
        and all(value is None or isinstance(value, int | float) for value in numbers)
        and isinstance(result.evidence, dict)
    )


def _line(result: InspectionResult) -> bytes:
    # File names with bytes that are no UTF-8 hold lone surrogates; written as \\udc.. they are valid JSON.
    return json.dumps(result.to_dict(), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


__all__ = ["ResultsFile", "read_results"]
