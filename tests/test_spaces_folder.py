"""The folder of a Space, and `anomalygpt demo` around it."""

import re
import subprocess
import sys

import pytest

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

from modeling_anomalygpt import cli
from modeling_anomalygpt.cli import demo as cli_demo
from spaces_app import app as app_module
from spaces_app.assemble import assemble_space
from spaces_app.example_pictures import example_pictures


def test_the_folder_of_a_space_is_complete(tmp_path):
    folder = assemble_space(tmp_path / "space")
    front = (folder / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    for line in ("sdk: gradio", "sdk_version: 6.", "license: apache-2.0", "app_file: app.py"):
        assert line in front
    assert (folder / "modeling_anomalygpt" / "anomalygpt_tiny" / "model.safetensors").exists()
    assert len(list((folder / "examples").rglob("*.jpg"))) == 20
    assert not list(folder.rglob("__pycache__"))


@pytest.mark.slow
def test_a_space_runs_from_its_own_files(tmp_path):
    folder = assemble_space(tmp_path / "space")
    source = "import sys; sys.path.insert(0, '.'); import app, spaces_app; print(spaces_app.__file__)"
    done = subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip().startswith(str(folder))


def test_a_space_of_a_hub_model_names_it_and_carries_no_weights(tmp_path):
    folder = assemble_space(tmp_path / "space", model="user/bolts-7b", title='Bolts: "M8"')
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "models:\n  - user/bolts-7b\npreload_from_hub:\n  - user/bolts-7b\n" in readme
    assert 'title: "Bolts: \\"M8\\""' in readme
    assert "anomalygpt_tiny" not in readme
    assert not list(folder.rglob("*.safetensors"))
    assert "'user/bolts-7b'" in (folder / "app.py").read_text(encoding="utf-8")
    assemble_space(folder)
    assert "user/bolts-7b" not in (folder / "README.md").read_text(encoding="utf-8")


def test_a_space_is_refused_a_local_model_and_a_folder_in_use(tmp_path):
    with pytest.raises(ValueError, match="`model` must be a Hub id"):
        assemble_space(tmp_path / "space", model="./checkpoint")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`folder` must be empty or an earlier Space"):
        assemble_space(tmp_path)


def test_the_examples_are_there():
    examples = example_pictures()
    assert len(examples) == 6
    assert all(len(example.references) == 4 for example in examples)


# The command


def test_demo_passes_its_options_on_and_says_where_the_page_is(monkeypatch, capsys):
    class Blocks:
        share_url = "https://share.example"

        def block_thread(self):
            pass

        def close(self, verbose):
            self.closed = True

    asked, blocks = {}, Blocks()
    monkeypatch.setattr(
        app_module,
        "launch_app",
        lambda model, **options: (asked.update(options, model=model), (blocks, "http://127.0.0.1:7999/"))[1],
    )
    assert cli.main(["demo", "--model", ".", "--port", "7999", "--share"]) == 0
    assert asked["model"] == "."
    assert (asked["server_port"], asked["share"], asked["mcp_server"]) == (7999, True, None)
    assert blocks.closed
    shown = capsys.readouterr().out
    assert "http://127.0.0.1:7999/  and  https://share.example" in shown


def test_demo_without_gradio_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(cli_demo.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    assert re.fullmatch(
        r"anomalygpt demo: error: The page needs Gradio, which is not installed\. Run: pip install .*\n",
        capsys.readouterr().err,
    )
