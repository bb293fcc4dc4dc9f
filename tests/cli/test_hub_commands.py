"""The commands that talk to the Hub: what they would send, and one line for everything that can go wrong there."""

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from modeling_anomalygpt import cli
from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT, load_checkpoint
from modeling_anomalygpt.cli.push import merge
from modeling_anomalygpt.errors import HubError, hub_failure, needs_connection
from modeling_anomalygpt.hub.publishing import model_repository
from tests.clean_process import run_python

# One process for all failures: every line is a command, its environment and words that its one line must hold.
FAILURES = """
import contextlib, io, json, os, sys, time
from huggingface_hub import constants
from modeling_anomalygpt.cli import main

model, photo = sys.argv[1:3]
PUSH, LOOK = ["push", "somebody/other", "--model", model], ["inspect", photo, "--output", "out", "--model"]
CASES = [
    (None, PUSH, ["There is no token", "hf auth login"]),
    ("hf_wrong", PUSH, ["does not know the token in HF_TOKEN (401)"]),
    (READER, PUSH, ["may not write to 'somebody/other' (403)", "write access"]),
    (WRITER, ["push", "nobody/other", "--model", model], ["may not write to 'nobody/other' (403)"]),
    (WRITER, ["push", "a/b/c", "--model", model], ["must look like user/name, got 'a/b/c'"]),
    (WRITER, ["push-space", "somebody/page", "--model", model + "/nothing"], ["must be a Hub id"]),
    (WRITER, [*LOOK, "somebody/missing"], ["There is no 'somebody/missing' on the Hub", "Check the name"]),
    (None, [*LOOK, "somebody/hidden"], ["There is no 'somebody/hidden' on the Hub", "private and there is no token"]),
    ("hf_wrong", [*LOOK, "somebody/hidden"], ["does not know the token in HF_TOKEN (401)"]),
]


def check(token, command, words):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(command)
    text = said.getvalue()
    assert code == 2 and text.count("\\n") == 1 and "Traceback" not in text, (command, code, text)
    assert all(part in text for part in words), (command, text)


assert main(["push", "somebody/hidden", "--model", model, "--private"]) == 0
for case in CASES:
    check(*case)
waits = []
time.sleep = waits.append  # the client waits between its attempts
hub.broken = True
check(WRITER, PUSH, ["has a problem of its own (503)"])
hub.stop()
check(WRITER, PUSH, ["No connection to the Hub at http://127.0.0.1"])
waits.clear()
check(WRITER, [*LOOK, "somebody/missing"], ["No connection to the Hub at http://127.0.0.1"])
assert not waits, "a model that is not in the cache is asked for once"
constants.HF_HUB_OFFLINE = True
check(WRITER, PUSH, ["switched off by HF_HUB_OFFLINE"])
"""
# The stand-in lives in that process, so that it can be broken between two commands.
START = """
import os, sys, importlib.util
spec = importlib.util.spec_from_file_location("fake_hub", REPOSITORY + "/tests/fake_hub.py")
sys.modules["fake_hub"] = fake_hub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake_hub)
READER, WRITER = fake_hub.READER, fake_hub.WRITER
hub = fake_hub.FakeHub().__enter__()
os.environ.update(hub.environment(os.getcwd() + "/home"))
"""


@pytest.mark.slow
def test_everything_that_can_go_wrong_with_the_hub_is_one_line(tiny_folder, tmp_path):
    photo = EMBEDDED_CHECKPOINT.parents[1] / "examples/capsules/query/part_1_good.jpg"
    run_python(START + FAILURES, tiny_folder, photo, cwd=tmp_path, environment={"HF_HUB_DISABLE_PROGRESS_BARS": "1",
               "HF_HUB_DISABLE_XET": "1"})  # fmt: skip


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OfflineModeIsEnabled("off"), "The Hub is switched off by HF_HUB_OFFLINE, and 'me/x' is needed from there"),
        (HFValidationError("bad"), "The name of a Hub repository must look like user/name, got 'me/x'"),
        (ConnectionError("refused"), "No connection to the Hub at "),
        (LocalEntryNotFoundError("gone"), "and 'me/x' is not in the cache"),
        (ValueError("shapes"), None),
    ],
)
def test_the_reason_is_found_behind_what_a_library_raised(error, message):
    outer = OSError("somewhere else")
    outer.__cause__ = error
    found = hub_failure(outer, "me/x")
    assert found is None if message is None else message in found


@pytest.mark.parametrize("cached", [False, True])
def test_without_a_network_the_hub_is_asked_once_for_what_no_cache_holds(cached, monkeypatch):
    asked = []

    def refuse(self, *_, **__):
        asked.append(1)
        raise ConnectionError("refused")

    monkeypatch.setattr("modeling_anomalygpt.errors.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("modeling_anomalygpt.errors.HfApi.model_info", refuse)
    monkeypatch.setattr(
        "modeling_anomalygpt.errors.try_to_load_from_cache",
        lambda _, name: "/cache/config.json" if cached and name == "config.json" else None,
    )
    if cached:
        needs_connection("me/x")
    else:
        with pytest.raises(HubError, match="No connection to the Hub at "):
            needs_connection("me/x")
    assert len(asked) == (not cached)


def test_without_a_token_nothing_is_tried(tiny_folder, capsys, monkeypatch):
    monkeypatch.setattr("modeling_anomalygpt.errors.get_token", lambda: None)
    assert cli.main(["push", "me/x", "--model", str(tiny_folder)]) == 2
    assert capsys.readouterr().err == (
        "anomalygpt push: error: There is no token for the Hub. Make one at https://huggingface.co/settings/tokens "
        "and run `hf auth login`, or set HF_TOKEN.\n"
    )


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "must be a folder with a config.json"),
        (
            lambda folder: (folder / "config.json").write_text("{}"),
            "must be an AnomalyGPT checkpoint, got one of None",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "is not readable JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must hold a JSON object, got list"),
        (
            lambda folder: (
                (folder / "config.json").write_text('{"model_type": "anomalygpt"}'),
                (folder / "processor_config.json").write_text("{}"),
                (folder / "pytorch_model.bin").write_bytes(b"x"),
            ),
            "must hold its weights as safetensors, got none",
        ),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "../gone"}'),
            "`base` must be the Hub id of the model that the adapter was trained on, got '../gone'",
        ),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "me/base"}'),
            "must hold adapter_model.safetensors, got none",
        ),
    ],
)
def test_a_folder_that_cannot_be_sent_is_refused_in_one_line(tmp_path, capsys, prepare, message):
    prepare(tmp_path)
    assert cli.main(["push", "me/x", "--model", str(tmp_path), "--list"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_list_sends_nothing_and_a_base_is_for_adapters(tiny_folder, capsys):
    assert cli.main(["push", "me/x", "--model", str(tiny_folder), "--list"]) == 0
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed
    assert "pipeline_anomalygpt.py" in printed
    assert cli.main(["push", "me/x", "--model", str(tiny_folder), "--base", "me/y"]) == 2
    assert "`base` must be left out for a whole model, got 'me/y'" in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapter_on_a_model_of_this_machine_goes_as_a_whole_model_with_its_card(tiny_folder, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    from modeling_anomalygpt.hub.card import ModelFacts, model_card

    model, processor = load_checkpoint(tiny_folder, device="cpu")
    settings = {"r": 2, "target_modules": r".*language_model.*q_proj", "task_type": "CAUSAL_LM"}
    peft.get_peft_model(model, peft.LoraConfig(**settings)).save_pretrained(tmp_path / "bolt")
    processor.save_pretrained(tmp_path / "bolt")
    card = model_card(ModelFacts("bolt", base_models=["model"], adapter=True, training={"steps": 7}))
    (tmp_path / "bolt" / "README.md").write_text(card)
    with_merging = merge(str(tmp_path / "bolt"), str(tmp_path / "whole"))
    assert "is an adapter on a model of this machine: the whole model goes" in capsys.readouterr().out
    files = model_repository(with_merging, "me/bolts")
    assert "model.safetensors" in files
    assert "adapter_config.json" not in files
    sent = ModelCard(files["README.md"].decode())
    assert (sent.data.library_name, sent.data.base_model) == ("transformers", None)
    assert "| steps | 7 |" in sent.text
