"""Runs Python in a process of its own, with this repository importable or made unimportable."""

import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[1]

# The package may be installed: its name is hidden from every finder, not only left off the path.
_BLOCK = """
import itertools, sys

class Hiding:
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in BLOCKED
        found = (finder.find_spec(name, path, target) for finder in (() if hidden else self.finders))
        return next((spec for spec in found if spec is not None), None)

    def find_distributions(self, *context):
        finders = [finder for finder in self.finders if hasattr(finder, "find_distributions")]
        return itertools.chain.from_iterable(finder.find_distributions(*context) for finder in finders)

sys.meta_path[:] = [Hiding(list(sys.meta_path))]
sys.path[:] = [entry for entry in sys.path if entry not in ("", REPOSITORY)]
"""
OWN_NAMES = ("modeling_anomalygpt", "datasets_scripts", "evaluate_modules", "benchmarks", "recipes", "tests")


def run_python(
    source: str,
    *arguments: object,
    cwd: pathlib.Path,
    environment: dict[str, str],
    without: tuple[str, ...] = (),
    code: int = 0,
) -> str:
    """Runs `source` isolated from user settings; the modules named in `without` cannot be imported there.

    Returns what it printed; fails where the exit code is not `code`.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith(("HF_", "HUGGING"))
    }
    header = f"REPOSITORY, BLOCKED = {str(REPOSITORY)!r}, {without!r}\n"
    header += _BLOCK if without else "import sys\nsys.path.insert(0, REPOSITORY)\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", header + source, *map(str, arguments)],
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
