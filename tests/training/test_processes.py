"""Training in processes of its own: killed without warning, several at once, pushed to the Hub."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from tests.clean_process import run_python
from tests.fake_hub import USER, FakeHub
from tests.training.squares import trainer, weights

REPOSITORY = pathlib.Path(__file__).parents[2]
LOSSES = ("loss", "loss_lm", "loss_focal", "loss_dice", "token_accuracy")
pytestmark = pytest.mark.slow


def run(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Makes a run of one process on a number of pictures."""

    def trained(count):
        one = trainer(tmp_path_factory.mktemp("alone"), "lora", count, ddp_find_unused_parameters=True)
        one.train()
        return one

    return functools.cache(trained)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("moment", "last"), [("step", 4), ("saving", 2), ("renaming", 2)])
def test_a_killed_run_goes_on_to_the_same_bits(alone, tmp_path, moment, last):
    done = run(sys.executable, "-m", "tests.training.squares", str(tmp_path), moment)
    assert done.returncode == -9, done.stderr[-2000:]
    names = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert f"checkpoint-{last}" in names
    assert f"checkpoint-{last + 2}" not in names
    again = trainer(tmp_path, "lora", ddp_find_unused_parameters=True)
    again.train(resume_from_checkpoint=True)
    after = weights(again.model)
    for name, value in weights(alone(12).model).items():
        assert torch.equal(value, after[name]), name
    assert not list(tmp_path.glob(".unfinished/*"))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Runs of two processes: their folder, and what each has noticed."""
    folder = tmp_path_factory.mktemp("two")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = run(sys.executable, *launch, "-m", "tests.training.squares", str(folder), "never")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"noticed_{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("count", [9, 10, 11, 12])
def test_two_processes_give_the_losses_of_one_also_of_a_last_small_batch(alone, together, count):
    log = torch.load(together[0] / str(count) / "end.pt", weights_only=True)["log"]
    for one, both in zip(alone(count).state.log_history[:-1], log[:-1], strict=True):
        names = one.keys() & set(LOSSES)
        assert names == both.keys() & set(LOSSES)
        for name in names:
            assert one[name] == pytest.approx(both[name], rel=1e-3 if count == 12 else 2e-3), (one["step"], name)


def test_two_processes_end_with_the_weights_of_one_and_whole_checkpoints(alone, together):
    folder, noticed = together[0] / "12", together[1]
    assert [one["epochs"] for one in noticed] == [[0, 1], [0, 1]]
    two = torch.load(folder / "end.pt", weights_only=True)["weights"]
    for name, value in weights(alone(12).model).items():
        torch.testing.assert_close(two[name], value, rtol=2e-2, atol=1e-3)
    files = {path.name for path in (folder / "checkpoint-6").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "adapter_model.safetensors"} <= files
    digests = json.loads((folder / "checkpoint-6" / "checkpoint_files.json").read_text())
    assert digests.keys() == files - {"checkpoint_files.json"}


def test_a_stream_is_split_by_process(together):
    first, second = (set(one["rows"]) for one in together[1])
    assert len(first) == len(second) == 4
    assert not first & second


PUSH = """
import pathlib, sys
import numpy as np
from PIL import Image
from modeling_anomalygpt.cli import main
from tests.tiny import tiny_pair

work = pathlib.Path(sys.argv[1])
for part in tiny_pair():
    part.save_pretrained(work / "model")
(work / "good").mkdir()
for number in range(3):
    values = np.random.default_rng(number).integers(90, 130, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(values).save(work / "good" / f"{number}.png")
words = ["train", "--model", work / "model", "--good", work / "good", "--category", "plate", "--max_steps", "2",
    "--per_device_train_batch_size", "2", "--save_steps", "1", "--short_side", "40", "--use_cpu", "True",
    "--output_dir", work / "plate", "--push_to_hub", "True", "--hub_model_id", "somebody/plate",
    "--hub_strategy", "all_checkpoints", "--hub_always_push", "True", "--hub_token", "hf_writer"]
sys.exit(main([str(word) for word in words]))
"""


def test_a_training_run_pushes_its_adapter_its_card_and_every_whole_checkpoint_and_nothing_else(tmp_path):
    with FakeHub() as hub:
        run_python(PUSH, tmp_path, cwd=tmp_path, environment=hub.environment(tmp_path / "home", token=None))
        files, commits = hub.files(f"{USER}/plate"), hub.repositories["models", f"{USER}/plate"].commits
    steps = [f"Training in progress, step {step}{what}" for step in (1, 2) for what in ("", ", checkpoint")]
    assert [message for _, message, _ in commits] == ["initial commit", *steps, "Model save"]
    first = set(commits[1][2])
    assert {"adapter_model.safetensors", "adapter_config.json", "training_data.json"} <= first
    assert not {"README.md", "optimizer.pt", "trainer_state.json"} & first
    assert {"adapter_model.safetensors", "adapter_config.json", "training_data.json", "README.md"} <= files.keys()
    for step in (1, 2):
        on_disk = {path.name for path in (tmp_path / "plate" / f"checkpoint-{step}").iterdir()}
        pushed = {name.partition("/")[2] for name in files if name.startswith(f"checkpoint-{step}/")}
        assert pushed == on_disk - {"training_args.bin"}
    assert not [name for name in files if name.startswith(".") or "training_args" in name]
    written = [path.read_bytes() for path in (tmp_path / "plate").rglob("*") if path.is_file()]
    assert not [content for content in (*files.values(), *written) if b"hf_writer" in content]
    card = files["README.md"].decode()
    assert "plate (split good, 3 pictures, labels synthetic)" in card
    assert 'category="plate"' in card
    assert str(tmp_path) not in card
    assert json.loads(files["training_data.json"])["datasets"][0]["name"] == "plate"
