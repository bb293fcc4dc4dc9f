"""`anomalygpt chat`: a dialogue about one picture in the terminal."""

import argparse
import sys
from typing import Any

from .options import add_model_arguments, find_references, load_inspector, uses_colour

EPILOG = """examples:
  anomalygpt chat photo.png --references good_1.png --category bolt
  anomalygpt chat photo.png --references good/ --language zh
  printf 'Where is it?\\nHow large is it?\\n' | anomalygpt chat photo.png

`exit` or Ctrl-D ends the dialogue; Ctrl-C stops an answer."""

_WORDS = {
    "en": {"you": "You", "hint": "Ask about the picture; `exit` or Ctrl-D ends.", "score": "map score"},
    "zh": {"you": "提问", "hint": "请就图片提问；输入 exit 或按 Ctrl-D 结束。", "score": "热图得分"},
}
_LEAVE = frozenset({"exit", "quit", "退出"})


def add_chat_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt chat`."""
    parser.add_argument("image", metavar="IMAGE", help="the picture to talk about")
    add_model_arguments(parser)
    parser.add_argument(
        "--question", metavar="TEXT", help="the first question (default: whether there is any anomaly)"
    )


def run_chat(args: argparse.Namespace) -> int:
    """Runs `anomalygpt chat`.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_chat_arguments`].

    Returns:
        `int`: The exit code.
    """
    from ..images import load_picture

    load_picture(args.image)  # a wrong path is told before the model is loaded
    inspector = load_inspector(args, find_references(args))
    result = inspector.inspect(
        args.image,
        question=args.question,
        language=args.language,
        category=args.category,
        description=args.description,
    )
    words = _WORDS[args.language]
    print(summary(result, args.language))
    print(result.answer)
    interactive = sys.stdin.isatty()
    if interactive:
        _enable_line_editing()
        print(f"\n{words['hint']}")
    prompt = f"\n{words['you']}: " if interactive else ""
    while True:
        question = _question(prompt)
        if question is None or question.lower() in _LEAVE:
            return 0
        if question:
            _answer(inspector, result, question, interactive)


def summary(result: Any, language: str) -> str:
    """The verdict in one line.

    Args:
        result (`InspectionResult`): Of the picture.
        language (`str`): `"en"` or `"zh"`.

    Returns:
        `str`: Such as `"Anomalous: top left · map score 0.81 · log-odds +3.20"`.
    """
    from ..report.report import regions_in_words
    from ..report.words import report_words

    words = report_words(language)
    places = regions_in_words(result.regions, language, limit=3)
    parts = [words[result.verdict] + (f": {places}" if places else "")]
    parts.append(f"{_WORDS[language]['score']} {result.pred_score:.3f}")
    if result.log_odds is not None:
        parts.append(f"{words['log_odds'].lower()} {result.log_odds:+.2f}")
    return " · ".join(parts)


def _question(prompt: str) -> str | None:
    """The next line, or nothing at the end of the input."""
    try:
        return input(prompt).strip()
    except EOFError:
        if prompt:
            print()
        return None


def _answer(inspector: Any, result: Any, question: str, interactive: bool) -> None:
    """Prints an answer as it comes; a question that cannot be answered does not end the dialogue."""
    bold = ("\033[1m", "\033[0m") if interactive and uses_colour() else ("", "")
    print(bold[0], end="")
    try:
        for piece in inspector.ask(result, question, stream=True):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not interactive:
            raise
        print(" ...", end="")
    except (ValueError, RuntimeError) as error:
        from ..errors import describe_error

        print(f"anomalygpt chat: {describe_error(error)}", file=sys.stderr, end="")
    print(bold[1])


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401  its import alone gives input() history and arrow keys
    except ImportError:
        return


__all__ = ["EPILOG", "add_chat_arguments", "run_chat", "summary"]
