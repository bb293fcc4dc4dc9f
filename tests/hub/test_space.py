"""The folder of a Space is complete, and the command that shows the same page here."""

import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

from modeling_anomalygpt import cli
from modeling_anomalygpt.cli import demo as cli_demo
from modeling_anomalygpt.hub.space import write_space
from spaces_app import app as app_module
from tests.tiny import tiny_pair


def test_the_folder_of_a_space_is_complete(tmp_path):
    folder = write_space(tmp_path / "space")
    front = (folder / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    for line in ("sdk: gradio", "sdk_version: 6.", "license: apache-2.0", "app_file: app.py"):
        assert line in front
    assert (folder / "modeling_anomalygpt" / "anomalygpt_tiny" / "model.safetensors").exists()
    assert {"style.css", "page.js", "words_zh.json"} <= {path.name for path in (folder / "spaces_app").iterdir()}
    assert len(list((folder / "examples").rglob("*.jpg"))) == 20
    assert not list(folder.rglob("__pycache__"))


@pytest.mark.slow
def test_a_space_runs_from_its_own_files(tmp_path):
    folder = write_space(tmp_path / "space")
    source = "import sys; sys.path.insert(0, '.'); import app, spaces_app; print(spaces_app.__file__)"
    done = subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip().startswith(str(folder))


def test_a_space_of_a_hub_model_names_it_and_carries_no_weights(tmp_path):
    folder = write_space(tmp_path / "space", model="user/bolts-7b", title='Bolts: "M8"')
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "models:\n  - user/bolts-7b\npreload_from_hub:\n  - user/bolts-7b\n" in readme
    assert 'title: "Bolts: \\"M8\\""' in readme
    assert "anomalygpt_tiny" not in readme
    assert not list(folder.rglob("*.safetensors"))
    assert "'user/bolts-7b'" in (folder / "app.py").read_text(encoding="utf-8")
    for part in tiny_pair():
        part.save_pretrained(tmp_path / "model")
    write_space(folder, model=str(tmp_path / "model"))
    assert "user/bolts-7b" not in (folder / "README.md").read_text(encoding="utf-8")
    weights = folder / "modeling_anomalygpt" / "anomalygpt_tiny" / "model.safetensors"
    assert weights.read_bytes() == (tmp_path / "model" / "model.safetensors").read_bytes()


def test_a_space_is_refused_other_models_and_a_folder_in_use(tmp_path):
    with pytest.raises(ValueError, match="`model` must be a Hub id"):
        write_space(tmp_path / "space", model="./checkpoint")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="`model` must be a whole model or a Hub id, got the adapter"):
        write_space(tmp_path / "space", model=str(tmp_path / "adapter"))
    for name in ("spaces_app/page.py", "app.py", ".gitattributes"):  # parts of a Space are none
        with pytest.raises(ValueError, match="`folder` must be empty or an earlier Space"):
            write_space(tmp_path)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()


@pytest.mark.parametrize("place", [".", "modeling_anomalygpt", "spaces_app/new"])
def test_no_space_is_written_over_its_sources_or_into_them(place, monkeypatch):
    def spare(path, **_):
        raise AssertionError(f"{path} would have been removed")

    monkeypatch.setattr("shutil.rmtree", spare)
    root = pathlib.Path(app_module.__file__).parents[1]
    with pytest.raises(ValueError, match="`folder` must be apart from what is copied, got "):
        write_space(root / place)


def test_no_space_is_written_over_the_model_that_it_shall_show(tmp_path):
    folder = write_space(tmp_path / "space", model="user/bolts-7b")
    inside = folder / "modeling_anomalygpt" / "anomalygpt_tiny"
    for part in tiny_pair():
        part.save_pretrained(inside)
    with pytest.raises(ValueError, match="`folder` must be apart from what is copied, got "):
        write_space(folder, model=str(inside))
    assert (inside / "model.safetensors").exists()


# The command


def test_demo_passes_its_options_on_and_says_where_the_page_is(tmp_path, monkeypatch, capsys):
    class Blocks:
        share_url = "https://share.example"

        def block_thread(self):
            pass

        def close(self, verbose):
            self.closed = True

    asked, blocks = {}, Blocks()

    def launch_app(model, **options):
        asked.update(options, model=model)
        return blocks, "http://127.0.0.1:7999/"

    monkeypatch.setattr(app_module, "launch_app", launch_app)
    assert cli.main(["demo", "--model", str(tmp_path), "--port", "7999", "--share"]) == 0
    expected = {"model": str(tmp_path), "server_port": 7999, "share": True, "mcp_server": None}
    assert {name: asked[name] for name in expected} == expected
    assert blocks.closed
    assert "http://127.0.0.1:7999/  and  https://share.example" in capsys.readouterr().out


def test_demo_without_gradio_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(cli_demo.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    message = r"anomalygpt demo: error: The page needs Gradio, which is not installed\. Run: pip install .*\n"
    assert re.fullmatch(message, capsys.readouterr().err)
