"""Shared fixtures: offline Hub, fixed seeds, the path of the golden outputs and of the real photographs."""

import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Tiny models are quicker on one thread, and a forked child (test_faults_kills.py) has none of a pool's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        default=str(pathlib.Path(__file__).parent / "fixtures" / "golden"),
        help="folder with the original's outputs (checkpoint_spec.json, expected.safetensors, ...)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("ANOMALYGPT_REAL_DATA"):
        return
    skip = pytest.mark.skip(reason="set ANOMALYGPT_REAL_DATA to the folder of real photographs")
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def fixed_seed_and_dtype():
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def golden_dir(pytestconfig: pytest.Config) -> pathlib.Path:
    return pathlib.Path(pytestconfig.getoption("--golden"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A saved random checkpoint; what changes it, changes a copy."""
    from tests.tiny import tiny_pair

    folder = tmp_path_factory.mktemp("tiny") / "model"
    for part in tiny_pair():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embedded_pair():
    """Model and processor of the embedded checkpoint; nobody changes them."""
    from modeling_anomalygpt.checkpoints import load_checkpoint

    return load_checkpoint(device="cpu")


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models never end an answer by themselves."""
    monkeypatch.setattr("modeling_anomalygpt.inspector.MAX_NEW_TOKENS", 8)


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    return pathlib.Path(os.environ["ANOMALYGPT_REAL_DATA"])
