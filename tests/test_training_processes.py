"""Training in processes of its own: killed without warning, and several at once."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch

from tests.test_training import trainer, weights

REPOSITORY = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(("moment", "last"), [("step", 4), ("saving", 2), ("renaming", 2)])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, moment, last):
    done = run(sys.executable, "-m", "tests.train_squares", str(tmp_path / "killed"), moment)
    assert done.returncode == -9, done.stderr[-2000:]
    names = {path.name for path in (tmp_path / "killed").glob("checkpoint-*")}
    assert f"checkpoint-{last}" in names
    assert f"checkpoint-{last + 2}" not in names
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = trainer(tmp_path / "whole", "lora", ddp_find_unused_parameters=True)
    whole.train()
    again = trainer(tmp_path / "killed", "lora", ddp_find_unused_parameters=True)
    again.train(resume_from_checkpoint=True)
    torch.set_num_threads(threads)
    after = weights(again.model)
    for name, value in weights(whole.model).items():
        assert torch.equal(value, after[name]), name
    assert not list((tmp_path / "killed").glob(".unfinished/*"))


def two_processes(*words):
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611")
    done = run(sys.executable, *launch, "-m", "tests.train_squares", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("count", [9, 10, 11])
def test_a_last_small_batch_counts_once_in_two_processes(tmp_path, count):
    two_processes(str(tmp_path / "two"), "never", "2", str(count))
    one = trainer(tmp_path / "one", "lora", count)
    one.train()
    log = torch.load(tmp_path / "two" / "end.pt", weights_only=True)["log"]
    for alone, both in zip(one.state.log_history[:-1], log[:-1], strict=True):
        names = alone.keys() & {"loss", "loss_lm", "loss_focal", "loss_dice", "token_accuracy"}
        assert names == both.keys() & {"loss", "loss_lm", "loss_focal", "loss_dice", "token_accuracy"}
        for name in names:
            assert alone[name] == pytest.approx(both[name], rel=2e-3), (alone["step"], name)


def test_a_stream_is_split_by_process(tmp_path):
    lines = sorted(line for line in two_processes(str(tmp_path), "stream") if line.startswith("rows"))
    first, second = (set(line.partition("[")[2].rstrip("]").split(", ")) for line in lines)
    assert len(first) == len(second) == 4
    assert not first & second


def test_two_processes_give_the_losses_and_weights_of_one(tmp_path):
    lines = two_processes(str(tmp_path / "two"), "never", "2")
    assert sorted(line for line in lines if line.startswith("epochs")) == [
        "epochs 0 [0, 1]",
        "epochs 1 [0, 1]",
    ]
    one = trainer(tmp_path / "one", "lora")
    one.train()
    two = torch.load(tmp_path / "two" / "end.pt", weights_only=True)
    for alone, both in zip(one.state.log_history[:-1], two["log"][:-1], strict=True):
        for name in ("loss", "loss_lm", "loss_focal", "loss_dice", "token_accuracy"):
            assert alone[name] == pytest.approx(both[name], rel=1e-3), (alone["step"], name)
    for name, value in weights(one.model).items():
        torch.testing.assert_close(two["weights"][name], value, rtol=2e-2, atol=1e-3)
    files = {path.name for path in (tmp_path / "two" / "checkpoint-6").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "adapter_model.safetensors"} <= files
