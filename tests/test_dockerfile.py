"""The Dockerfile names what there is: files, options, extras, folders and ports. No image is built here."""

import argparse
import ast
import fnmatch
import http.server
import json
import pathlib
import re
import subprocess
import sys
import threading

import pytest

from modeling_anomalygpt import cli
from modeling_anomalygpt.cli import serve
from modeling_anomalygpt.line.parts import PartStore

ROOT = pathlib.Path(__file__).parents[1]


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each instruction; lines that end in a backslash go on in the next."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines()) if name]


STEPS = instructions((ROOT / "Dockerfile").read_text())


def arguments(name: str) -> list[str]:
    return [rest for one, rest in STEPS if one == name]


def words() -> list[str]:
    """The command of a container that is started without arguments."""
    return [*json.loads(arguments("ENTRYPOINT")[0]), *json.loads(arguments("CMD")[0])]


@pytest.fixture(scope="module")
def setup_options() -> dict:
    """The constants that setup.py hands to `setup`."""
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if getattr(node.func, "id", "") == "setup"]
    options = {}
    for keyword in call.keywords:
        try:
            options[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return options


def reaches_the_build(path: str) -> bool:
    """Whether `.dockerignore` lets a file through: the last pattern that matches it, or a folder above it, decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern, above = line.removeprefix("!"), [path, *map(str, pathlib.PurePath(path).parents)]
            if any(fnmatch.fnmatch(one, pattern) for one in above[:-1]):
                kept = line.startswith("!")
    return kept


def test_every_file_that_is_copied_exists_and_reaches_the_build(setup_options):
    wheel = f"dist/{setup_options['name']}-{setup_options['version']}-py3-none-any.whl"
    sources = [source for rest in arguments("COPY") for source in rest.split()[:-1]]
    assert sources
    for source in sources:
        found = (
            [wheel] if fnmatch.fnmatch(wheel, source) else [str(path.relative_to(ROOT)) for path in ROOT.glob(source)]
        )
        assert found, f"{source} is neither the wheel nor a file of the repository"
        assert all(map(reaches_the_build, found)), source
    for path in (".git/config", "README.md", "dist/other.tar.gz", "modeling_anomalygpt/files.py"):
        assert not reaches_the_build(path), "the rest is not sent to the engine"


def test_it_installs_an_extra_that_there_is_and_the_pinned_torch_for_the_cpu(setup_options):
    (run,) = arguments("RUN")
    (extras,) = re.findall(r"\.whl\)\[(\w+)\]", run)
    needed = {re.split(r"\W", one)[0] for one in setup_options["extras_require"][extras]}
    assert {"fastapi", "uvicorn"} <= needed
    pinned = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==[\d.]+$", pinned, re.MULTILINE)
    assert all(re.search(rf"^{name}==", pinned, re.MULTILINE) for name in needed)
    assert "sed -n 's/^torch==//p' constraints.txt)+cpu" in run
    assert run.count("pip install") == run.count("--constraint constraints.txt") == 2


def test_every_option_is_one_that_serve_takes(capsys, setup_options):
    assert f"{words()[0]}=modeling_anomalygpt.cli:main" in setup_options["entry_points"]["console_scripts"]
    assert cli.main([words()[1], "--help"]) == 0
    help_text = capsys.readouterr().out
    for word in words():
        assert not word.startswith("--") or f"{word} " in help_text
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    args = parser.parse_args(words()[2:])
    assert (args.host, args.part) == ("0.0.0.0", "auto")
    assert arguments("EXPOSE") == [str(args.port)]
    assert f"http://127.0.0.1:{args.port}/health" in arguments("HEALTHCHECK")[0]


def test_it_is_not_root_and_its_parts_lie_in_the_volume(monkeypatch):
    names = [name for name, _ in STEPS]
    assert int(arguments("USER")[0]) > 0
    assert names.index("RUN") < names.index("USER") < names.index("ENTRYPOINT")
    name, _, folder = arguments("ENV")[0].partition("=")
    monkeypatch.setenv(name, folder)
    assert [str(PartStore().folder)] == arguments("VOLUME")
    assert f"chown inspector {folder}" in arguments("RUN")[0]


def test_the_health_check_tells_a_service_that_answers_from_one_that_does_not():
    class Handler(http.server.BaseHTTPRequestHandler):
        code = 200

        def do_GET(self):
            self.send_response(self.code if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = json.loads(arguments("HEALTHCHECK")[0].partition("CMD ")[2])
    assert command[0] == "python"
    check = [sys.executable, *command[1:]]
    check[-1] = check[-1].replace(":8000/", f":{server.server_address[1]}/")
    for Handler.code, healthy in ((200, True), (503, False)):
        assert (subprocess.run(check, capture_output=True, timeout=60).returncode == 0) == healthy
    server.shutdown()
    server.server_close()
    assert subprocess.run(check, capture_output=True, timeout=60).returncode != 0
