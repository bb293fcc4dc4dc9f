"""The `anomalygpt` command: finds the subcommand, runs it, and turns every failure into one line and an exit code.

A subcommand is a file of this folder with `add_arguments(parser)` and `run(args) -> int`, and a text in `help/`; only
the chosen one is imported, so `anomalygpt --help` answers at once. Exit codes: 0 done; 1 not all pictures are normal
and `--fail-on-anomaly` was given; 2 wrong usage or something that cannot be read or written; 130 interrupted.
"""

import argparse
import functools
import importlib
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any, TextIO

COMMANDS = {
    "inspect": "inspect pictures; write a table, overlays and a report",
    "chat": "talk about one picture in the terminal",
    "parts": "keep what was learned of a part under a name; list, export, import",
    "watch": "judge pictures as a camera writes them into a folder",
    "serve": "judge pictures that come by HTTP",
    "results": "counts by hour, worst first, of what was judged; confirm or correct",
    "drift": "whether light, sharpness and scores of a shift still are as they were at its beginning",
    "demo": "open the page in a browser: inspect, ask, many pictures",
    "train": "train on good photographs or data sets; a small adapter folder comes out",
    "merge": "make one checkpoint of an adapter and the checkpoint it was trained from",
    "compose": "make one checkpoint of a vision model and a language model",
    "evaluate": "measure a model, and methods to compare it with, on labelled pictures",
    "mmad": "answer the questions of the MMAD benchmark; accuracies of its subtasks",
    "synthesize": "make defects on good pictures; write a data set or a contact sheet",
    "convert": "turn the published AnomalyGPT weights into one folder",
    "export": "write the map path as ONNX, OpenVINO or torch.export, for other runtimes",
    "validate": "check an export before it goes to the line: files, maps, latency",
    "push": "put a model or an adapter on the Hugging Face Hub",
    "push-space": "put a page for a model on the Hugging Face Hub, as a Space",
}
"""Subcommands with their help; a dash becomes an underscore in the name of the file."""

_HELP = pathlib.Path(__file__).parent / "help"
_EPILOG = """examples:
  anomalygpt inspect photo.png --references good_1.png good_2.png --category bolt
  anomalygpt inspect line_3/ --references good/ --output monday --save-maps
  anomalygpt chat photo.png --references good/

`anomalygpt COMMAND --help` explains a command. Set ANOMALYGPT_DEBUG=1 to see the traceback of a failure."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with where to read on."""

    def __init__(self, **options):
        layout = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        super().__init__(formatter_class=layout, allow_abbrev=False, **options)

    def error(self, message: str) -> None:
        """Ends the process with code 2."""
        stop = "" if message.endswith(("?", ".")) else "."
        self.exit(2, f"{self.prog}: error: {message}{stop} See `{self.prog} --help`.\n")

    def refuse(self, words: list[str]) -> None:
        """Ends the process because of words that nothing takes; names the option that may have been meant."""
        from ..errors import did_you_mean

        word = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
        known = re.findall(r"--[\w-]+", self.format_usage())
        hint = did_you_mean(word, known) or did_you_mean(word.replace("_", "-"), known)
        self.error(f"unrecognized arguments: {' '.join(words)}.{hint}")


def main(argv: list[str] | None = None) -> int:
    """Runs the command with these words, by default those of the process; returns the exit code."""
    sys.stdout, sys.stderr = (_lasting(stream) for stream in (sys.stdout, sys.stderr))
    argv = list(sys.argv[1:] if argv is None else argv)
    # Before torch is loaded: threads that wait by spinning make every small operation wait for a busy core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run(argv)
    except SystemExit as stop:  # argparse: --help, --version, errors
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("\nanomalygpt: interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("ANOMALYGPT_DEBUG"):
            raise
        from ..errors import describe_error

        command = " ".join(["anomalygpt", *(name for name in argv[:1] if name in COMMANDS)])
        print(f"{command}: error: {describe_error(error)}", file=sys.stderr)
        return 2


def _lasting(stream: TextIO | None) -> TextIO:
    """The stream, such that nothing written to it ends the work or changes its exit code.

    Where it is closed (`>&-`), its reader has had enough (head, less) or its disk is full, what is written goes
    nowhere; letters that it cannot show are written as their numbers.
    """
    if stream is None:
        return _lasting(open(os.devnull, "w", encoding="utf-8"))
    if not hasattr(stream, "reconfigure") or "write" in vars(stream):
        return stream
    stream.reconfigure(errors="backslashreplace")
    said = []

    def lasting(method: Callable) -> Callable:
        @functools.wraps(method)
        def call(*args: Any) -> Any:
            try:
                return method(*args)
            except BrokenPipeError:  # what is still buffered goes there as well
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except OSError as error:  # a full disk, which may have room again
                if stream is not sys.stderr and not said:
                    said.append(error)
                    print(f"anomalygpt: what is printed is lost: {error.strerror}.", file=sys.stderr)
            except ValueError:
                if not stream.closed:
                    raise

        return call

    stream.write, stream.flush = lasting(stream.write), lasting(stream.flush)
    return stream


def _run(argv: list[str]) -> int:
    from modeling_anomalygpt import __version__

    parser = OneLineParser(
        prog="anomalygpt",
        usage="anomalygpt [--help] [--version] COMMAND ...",
        description="Inspects photographs of parts with a vision-language model, from one good photograph on.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"anomalygpt {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", prog="anomalygpt")
    parsers = {
        name: commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        for name, text in COMMANDS.items()
    }
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    if argv[0] in COMMANDS:
        module = importlib.import_module(f".{argv[0].replace('-', '_')}", __package__)
        parsers[argv[0]].epilog = (_HELP / f"{argv[0]}.txt").read_text(encoding="utf-8")
        parsers[argv[0]].set_defaults(run=module.run)
        module.add_arguments(parsers[argv[0]])
    elif argv[0] not in ("-h", "--help", "--version"):
        from ..errors import did_you_mean

        if argv[0].startswith("-"):
            parser.refuse(argv)
        parser.error(f"there is no command {argv[0]!r}.{did_you_mean(argv[0], COMMANDS)}")
    args, unknown = parser.parse_known_args(argv)
    if "further_words" in args:  # of `train`, which reads them itself
        args.further_words = unknown
    elif unknown:
        parsers[args.command].refuse(unknown)
    return args.run(args)
