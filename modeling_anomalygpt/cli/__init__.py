"""The `anomalygpt` command: finds the subcommand, runs it, and turns every failure into one line and an exit code.

Only the chosen subcommand is imported, so `anomalygpt --help` answers at once. Exit codes: 0 done; 1 an anomaly was
found and `--fail-on-anomaly` was given; 2 wrong usage or something that cannot be read or written; 130 interrupted.
"""

import argparse
import importlib
import sys

COMMANDS = {
    "inspect": (".inspect", "inspect pictures; write a table, overlays and a report"),
    "chat": (".chat", "talk about one picture in the terminal"),
    "convert": ("..conversion.convert", "turn the published AnomalyGPT weights into one folder"),
    "export": (".export", "write the map path as ONNX or torch.export, for other runtimes"),
    "push": (".push", "put a model or an adapter on the Hugging Face Hub"),
    "train": (".train", "train on good photographs or data sets; a small adapter folder comes out"),
    "evaluate": (".evaluate", "measure a model, and methods to compare it with, on labelled pictures"),
    "mmad": (".mmad", "answer the questions of the MMAD benchmark; accuracies of its subtasks"),
    "push-space": (".push_space", "put a page for a model on the Hugging Face Hub, as a Space"),
    "merge": (".merge", "make one checkpoint of an adapter and the checkpoint it was trained from"),
    "compose": (".compose", "make one checkpoint of a vision model and a language model"),
    "synthesize": (".synthesize", "make defects on good pictures; write a data set or a contact sheet"),
    "demo": (".demo", "open the page in a browser: inspect, ask, many pictures"),
}
"""Subcommand: its module, which holds `add_<name>_arguments(parser)` and `run_<name>(args) -> int` (a dash in the name
becomes an underscore), and its help."""

_EPILOG = """examples:
  anomalygpt inspect photo.png --references good_1.png good_2.png --category bolt
  anomalygpt inspect line_3/ --references good/ --output monday --save-maps
  anomalygpt chat photo.png --references good/

`anomalygpt COMMAND --help` explains a command. Set ANOMALYGPT_DEBUG=1 to see the traceback of a failure."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with where to read on."""

    def error(self, message: str) -> None:
        """Ends the process with code 2."""
        self.exit(2, f"{self.prog}: error: {message.rstrip('.')}. See `{self.prog} --help`.\n")


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv (`list[str]`, *optional*): Arguments; defaults to those of the process.

    Returns:
        `int`: The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that the terminal cannot show must not end the run
            stream.reconfigure(errors="backslashreplace")
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(argv)
    except SystemExit as stop:  # argparse: --help, --version, errors
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("\nanomalygpt: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe (head, less) has had enough
        _silence_stdout()
        return 0
    except Exception as error:
        return _fail(argv, error)


def _run(argv: list[str]) -> int:
    parser = OneLineParser(
        prog="anomalygpt",
        usage="anomalygpt [--help] [--version] COMMAND ...",
        description="Inspects photographs of parts with a vision-language model, from one good photograph on.",
        epilog="commands:\n"
        + "".join(f"  {name:<10} {line}\n" for name, (_, line) in COMMANDS.items())
        + f"\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    if not argv or argv[0].startswith("-"):
        args = parser.parse_args(argv)
        if args.version:
            print(f"anomalygpt {_version()}")
            return 0
        parser.print_help(sys.stderr)
        return 2
    name = argv[0]
    if name not in COMMANDS:
        parser.error(f"there is no command {name!r}{_suggestion(name)}; commands are {', '.join(COMMANDS)}")
    module = importlib.import_module(COMMANDS[name][0], __package__)
    command = OneLineParser(
        prog=f"anomalygpt {name}",
        description=f"{COMMANDS[name][1][:1].upper()}{COMMANDS[name][1][1:]}.",
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    identifier = name.replace("-", "_")
    getattr(module, f"add_{identifier}_arguments")(command)
    return getattr(module, f"run_{identifier}")(command.parse_args(argv[1:]))


def _fail(argv: list[str], error: Exception) -> int:
    import os

    from ..errors import describe_error

    if os.environ.get("ANOMALYGPT_DEBUG"):
        raise error
    command = f"anomalygpt {argv[0]}" if argv and argv[0] in COMMANDS else "anomalygpt"
    print(f"{command}: error: {describe_error(error)}", file=sys.stderr)
    return 2


def _suggestion(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _version() -> str:
    from modeling_anomalygpt import __version__

    return __version__


def _silence_stdout() -> None:
    """What is still buffered goes nowhere, so that Python's own flush at exit does not complain."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


__all__ = ["COMMANDS", "OneLineParser", "main"]
