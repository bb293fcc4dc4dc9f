"""Renders the set, and goes on after a kill.

    python -m recipes.cad_parts.render --output DIR [--workers 2] [--good 24] [--defective 24] [--parts NAME ...]

Each picture is a PNG with its mask and its facts beside it (the facts are written last: with them it is done). The
pictures are made round by round, a few of every part at a time, so that an unfinished set is usable.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pathlib
import time
import traceback
from collections.abc import Iterator, Sequence

from PIL import Image

ROUND = 2
"""Good and defective pictures of a part made before the next part's turn."""


def jobs(parts: Sequence[str], good: int, defective: int) -> Iterator[tuple[str, int, bool]]:
    """Pictures to make, in order: part, number, defective or not."""
    for start in range(0, max(good, defective), ROUND):
        for name in parts:
            for index in range(start, start + ROUND):
                if index < good:
                    yield name, index, False
                if index < defective:
                    yield name, index, True


def stem(output: pathlib.Path, name: str, index: int, defective: bool) -> pathlib.Path:
    """Path of a picture without its suffix."""
    return output / name / f"{'defect' if defective else 'good'}_{index:03d}"


def save(path: pathlib.Path, made) -> None:
    """Write a picture whole or not at all; `None` is noted as failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"failed": True} if made is None else made.facts
    if made is not None:
        files = [(path.with_suffix(".png"), made.image)]
        if made.facts["label"]:
            files.append((path.with_name(path.name + "_mask.png"), made.mask))
        for file, array in files:
            partial = file.with_suffix(".partial")
            Image.fromarray(array).save(partial, "PNG", compress_level=2)
            os.replace(partial, file)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(facts), encoding="utf-8")
    os.replace(partial, path.with_suffix(".json"))


def work(output: pathlib.Path, parts: Sequence[str], good: int, defective: int, quiet: bool) -> None:
    """Make what is missing of some parts."""
    from .pictures import picture
    from .rendering import Renderer

    renderer, started, count, failed = Renderer(), time.time(), 0, 0
    for name, index, with_defect in jobs(parts, good, defective):
        path = stem(output, name, index, with_defect)
        if path.with_suffix(".json").exists():
            continue
        try:
            save(path, picture(renderer, name, index, with_defect))
        except Exception:  # one part's fault must not stop the others; the next run tries again
            traceback.print_exc()
            print(f"{path} could not be made", flush=True)
            failed += 1
        count += 1
        if not quiet and count % 50 == 0:
            print(f"{name} {index}: {count} pictures, {(time.time() - started) / count:.2f} s each", flush=True)
    if failed:
        raise SystemExit(f"{failed} pictures could not be made (see above).")


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.cad_parts.render", description=__doc__, formatter_class=plain)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the pictures")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--good", type=int, default=24, help="good pictures a part")
    parser.add_argument("--defective", type=int, default=24, help="pictures with a defect a part")
    parser.add_argument("--parts", nargs="+", help="names of parts (default: all)")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    from .catalogue import PART_NAMES  # needs the extra `cad`, which the tests of this file do without

    parts = options.parts or list(PART_NAMES)
    unknown = sorted(set(parts) - set(PART_NAMES))
    if unknown:
        parser.error(
            f"`--parts` must be among the catalogue's, got {', '.join(unknown)}. See recipes/cad_parts/catalogue.py."
        )
    if min(options.workers, options.good + options.defective) < 1:
        parser.error("`--workers` and the number of pictures must be at least 1.")
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    shared = (options.good, options.defective, options.quiet)
    processes = [
        context.Process(target=work, args=(options.output, parts[k :: options.workers], *shared))
        for k in range(options.workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("A worker ended early. Run the same command again: it goes on where it stopped.")


if __name__ == "__main__":
    main()
