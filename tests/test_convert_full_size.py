"""ImageBind-Huge at its real size, with rule weights: converted within the memory bound, loaded, run (slow)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from tests.clip_merges import write_merges
from tests.golden_checkpoints import write_imagebind_huge

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
CONVERT = """
import json, re, sys, time
from modeling_anomalygpt.convert_anomalygpt_to_hf import convert
arguments = json.loads(sys.argv[1])
start = time.perf_counter()
report = convert(**arguments, progress=False)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak, "parameters": report.num_parameters}))
"""


@pytest.mark.slow
def test_imagebind_huge_is_converted_within_the_memory_bound_and_runs(tmp_path):
    files = {part: str(path) for part, path in write_imagebind_huge(GOLDEN, tmp_path).items()}
    arguments = files | {"clip_bpe": str(write_merges(tmp_path / "merges.txt")), "output": str(tmp_path / "out")}
    result = subprocess.run(
        [sys.executable, "-c", CONVERT, json.dumps(arguments)], capture_output=True, text=True, check=True
    )
    measured = json.loads(result.stdout.splitlines()[-1])
    largest_shard = Path(files["imagebind"]).stat().st_size
    assert measured["peak"] <= largest_shard + 2e9
    assert measured["parameters"] > 0.98e9
    Path(files["imagebind"]).unlink()

    model = AnomalyGPTForConditionalGeneration.from_pretrained(tmp_path / "out", dtype="auto").eval()
    processor = AnomalyGPTProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(
        images=GOLDEN / "images" / "spot.png", text="Is there any anomaly in the image?", return_tensors="pt"
    )
    with torch.no_grad():
        outputs = model(**inputs)
    assert outputs.anomaly_map.shape == (1, 224, 224)
    assert outputs.anomaly_map.isfinite().all()
    assert model.config.vision_config.hidden_size == 1280
    assert len(model.model.vision_tower.encoder.layers) == 32
