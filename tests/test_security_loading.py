"""Files of strangers do nothing: no pickle is run, no code beside weights is run, nothing is fetched unasked."""

import json
import os
import pathlib
import pickle

import pytest

from modeling_anomalygpt.checkpoints import CheckpointError, load_checkpoint
from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.memory_bank import MemoryBank
from tests.clean_process import REPOSITORY, run_python
from tests.tiny import lively_model, tiny_pair


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path) -> pathlib.Path:
    """A path that exists only if a trap was sprung; the trap itself is shown to work."""
    pickle.loads(pickle.dumps(Touch(tmp_path / "shown")))
    assert (tmp_path / "shown").is_dir()
    return tmp_path / "sprung"


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    for part in tiny_pair():
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def plain_pickle(path: pathlib.Path, trap: pathlib.Path) -> None:
    path.write_bytes(pickle.dumps(Touch(trap), protocol=2))


def torch_pickle(path: pathlib.Path, trap: pathlib.Path) -> None:
    import torch

    torch.save({"lm_head.weight": Touch(trap)}, path)


@pytest.mark.parametrize("write", [plain_pickle, torch_pickle])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_weights_are_refused_and_not_run(folder, trap, write, name):
    (folder / "model.safetensors").unlink()
    write(folder / name, trap)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder, device="cpu")
    assert "\n" not in str(error.value)
    assert not trap.exists()


def test_pickles_beside_safetensors_are_not_opened(folder, trap):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.bin", "memory_bank.pt"):
        plain_pickle(folder / name, trap)
    load_checkpoint(folder, device="cpu")
    assert not trap.exists()


@pytest.mark.parametrize("write", [plain_pickle, torch_pickle])
def test_a_pickled_memory_bank_is_refused_and_not_run(tmp_path, trap, write):
    write(tmp_path / "bank.safetensors", trap)
    with pytest.raises(ValueError, match="`path` must be a memory bank, got ") as error:
        MemoryBank.load(tmp_path / "bank.safetensors")
    assert "\n" not in str(error.value)
    assert not trap.exists()


@pytest.mark.parametrize("write", [plain_pickle, torch_pickle])
@pytest.mark.parametrize("kind", ["LORA", "PROMPT_TUNING"])
def test_a_pickled_adapter_is_refused_and_not_run(folder, tmp_path, trap, write, kind):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": kind, "base_model_name_or_path": str(folder), "task_type": "CAUSAL_LM"}
    config |= {"target_modules": "q_proj", "r": 2} if kind == "LORA" else {"num_virtual_tokens": 2}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    write(adapter / "adapter_model.bin", trap)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(adapter, device="cpu")
    assert "\n" not in str(error.value)
    assert not trap.exists()


@pytest.mark.parametrize("write", [plain_pickle, torch_pickle])
def test_peft_itself_does_not_run_a_pickled_adapter(folder, tmp_path, trap, write):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        lively_model(), peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    write(tmp_path / "adapter" / "adapter_model.bin", trap)
    with pytest.raises(pickle.UnpicklingError):
        peft.PeftModel.from_pretrained(lively_model(), tmp_path / "adapter")
    assert not trap.exists()


def test_code_beside_the_weights_is_not_run(folder, trap):
    """The package's own classes read the folder, whatever classes its files name."""
    code = f"import os\nos.mkdir({str(trap)!r})\nclass Evil: pass\n"
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil"}
    for part in ("text_config", "vision_config"):
        config[part]["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    config["custom_pipelines"] = {"anomaly-detection": {"impl": "evil.Evil", "pt": ["AutoModel"]}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(code)
    load_checkpoint(folder, device="cpu")
    assert not trap.exists()


def test_a_chat_template_cannot_reach_python(folder, trap):
    template = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.mkdir('" + str(trap) + "') }}"
    )
    (folder / "chat_template.jinja").write_text(template)
    inspector = AnomalyInspector(*load_checkpoint(folder, device="cpu"))
    from jinja2.exceptions import SecurityError

    with pytest.raises(SecurityError):
        inspector.processor.apply_chat_template([{"role": "user", "content": "Good?"}])
    assert not trap.exists()


NO_NETWORK = """
import sys
asked = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append((event, arguments))
        raise OSError("the network was asked")
sys.addaudithook(hook)
import os
os.environ.pop("HF_HUB_OFFLINE", None)
from modeling_anomalygpt.cli import main
pictures = REPOSITORY + "/examples/capsules/"
assert main(["inspect", pictures + "query/part_2_missing_part.jpg", "--references", pictures + "good", "--category",
             "capsules", "--output", "out", "--device", "cpu"]) == 0
import io
sys.stdin = io.StringIO("Where?\\n")
assert main(["chat", pictures + "query/part_2_missing_part.jpg", "--device", "cpu"]) == 0
import modeling_anomalygpt
for name in modeling_anomalygpt.__all__:
    getattr(modeling_anomalygpt, name)
assert not asked, asked
"""


@pytest.mark.slow
def test_inspecting_and_asking_contact_nobody(tmp_path):
    run_python(NO_NETWORK, cwd=tmp_path, environment={"HF_HOME": str(tmp_path / "home")})
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert not [line for line in page.splitlines() if 'src="http' in line or "url(http" in line]


def test_no_source_file_unpickles_without_a_list_of_what_may_be_in_it():
    """Reading the sources: torch.load only with weights_only=True, pickle.load only in tests."""
    import ast

    for path in sorted(REPOSITORY.glob("*/*.py")):
        if path.parent.name == "tests":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = getattr(node.func.value, "id", "")
            where = f"{path.name}:{node.lineno}"
            if (owner, node.func.attr) == ("torch", "load"):
                given = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
                assert given.get("weights_only") is True, where
            if owner in ("numpy", "np"):
                pickled = [one for one in node.keywords if one.arg == "allow_pickle"]
                assert all(getattr(one.value, "value", None) is False for one in pickled), where
            assert (owner, node.func.attr) not in {("pickle", "load"), ("pickle", "loads"), ("joblib", "load")}, where
