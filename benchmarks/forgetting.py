"""What a real language model forgets when it learns to speak of measured facts.

    ANOMALYGPT_SMALL_BASE=DIR python -m benchmarks.forgetting

The language model alone, before (the base) and after (the adapter of `--model small` merged): perplexity of plain text
(the licence and the security page of this project), and 50 plain questions in the base's own chat format, answered
greedily; an answer is right when it holds the expected word. Writes benchmarks/results/forgetting.json.
"""

import argparse
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.measuring import RESULTS, ROOT, write_result
from modeling_anomalygpt.checkpoints import SMALL_BASE, SMALL_BASE_VARIABLE, load_checkpoint

TEXTS = ("LICENSE", "SECURITY.md")
WINDOW = 512
QUESTIONS = {
    "What is the capital of France?": "paris", "What is the capital of Italy?": "rome",
    "What is the capital of Japan?": "tokyo", "What is the capital of Germany?": "berlin",
    "What is the capital of Spain?": "madrid", "What is the capital of Egypt?": "cairo",
    "What is the capital of England?": "london", "What is the capital of Russia?": "moscow",
    "What is the capital of China?": "beijing", "What is the capital of Greece?": "athens",
    "What color is the sky on a clear day?": "blue", "What color is grass?": "green",
    "What color is snow?": "white", "What color is blood?": "red", "What color is coal?": "black",
    "What is two plus two?": "4", "What is three plus four?": "7", "What is ten minus five?": "5",
    "What is two times three?": "6", "What is ten divided by two?": "5",
    "How many days are in a week?": "7", "How many months are in a year?": "12",
    "How many hours are in a day?": "24", "How many minutes are in an hour?": "60",
    "How many legs does a spider have?": "8", "How many legs does a dog have?": "4",
    "Which planet do we live on?": "earth", "Which planet is the largest in our solar system?": "jupiter",
    "Which planet is known as the red planet?": "mars", "What do bees make?": "honey",
    "What do cows give us to drink?": "milk", "Which animal says meow?": "cat", "Which animal barks?": "dog",
    "What is the largest animal in the world?": "whale", "What is frozen water called?": "ice",
    "What gas do humans need to breathe?": "oxygen", "What is the chemical formula of water?": "h2o",
    "Who wrote Romeo and Juliet?": "shakespeare", "Who painted the Mona Lisa?": "leonardo",
    "Who was the first president of the United States?": "washington",
    "Who developed the theory of relativity?": "einstein", "What is the opposite of hot?": "cold",
    "What is the opposite of big?": "small", "What is the opposite of day?": "night",
    "What is the first letter of the English alphabet?": "a", "What is the largest ocean?": "pacific",
    "What is the longest river in Africa?": "nile", "What is the highest mountain in the world?": "everest",
    "What language is spoken in Brazil?": "portuguese", "On which continent is Kenya?": "africa",
}  # fmt: skip


@torch.inference_mode()
def perplexity(model: Any, tokenizer: Any) -> float:
    """Of the plain texts, in windows."""
    total = count = 0
    for name in TEXTS:
        ids = tokenizer((ROOT / name).read_text(encoding="utf-8"), return_tensors="pt")["input_ids"][0]
        for start in tqdm(range(0, len(ids) - 1, WINDOW), desc=name, leave=False):
            window = ids[start : start + WINDOW + 1][None]
            logits = model(input_ids=window[:, :-1]).logits.float()
            total += float(torch.nn.functional.cross_entropy(logits[0], window[0, 1:], reduction="sum"))
            count += window.shape[1] - 1
    return math.exp(total / count)


@torch.inference_mode()
def plain_answers(model: Any, tokenizer: Any) -> float:
    """Share of the plain questions whose answer holds the expected word."""
    right = 0
    for question, expected in tqdm(QUESTIONS.items(), desc="plain questions", leave=False):
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        inputs = tokenizer(prompt, return_tensors="pt")
        ended = tokenizer.convert_tokens_to_ids("<|im_end|>")
        made = model.generate(**inputs, max_new_tokens=40, do_sample=False, eos_token_id=ended, pad_token_id=ended)
        right += expected in tokenizer.decode(made[0, inputs["input_ids"].shape[1] :]).casefold()
    return right / len(QUESTIONS)


def measured(model: Any, tokenizer: Any) -> dict[str, float]:
    """Both figures of one model."""
    return {
        "perplexity": round(perplexity(model, tokenizer), 3),
        "plain_questions": round(plain_answers(model, tokenizer), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.forgetting", description=__doc__, formatter_class=plain)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS / "forgetting.json")
    options = parser.parse_args(arguments)
    source = os.environ.get(SMALL_BASE_VARIABLE) or SMALL_BASE
    tokenizer = AutoTokenizer.from_pretrained(source)
    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    rows = {"before": measured(base, tokenizer)}
    tuned, _ = load_checkpoint("small", device="cpu", dtype="float32")
    words = len(base.get_input_embeddings().weight)
    weights = {f"model.{name}": value for name, value in tuned.model.language_model.state_dict().items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):  # without the placeholder of pictures
        weights[name] = weights["model.embed_tokens.weight"][:words]
    base.load_state_dict(weights)
    rows["after"] = measured(base, tokenizer)
    rows["perplexity_ratio"] = round(rows["after"]["perplexity"] / rows["before"]["perplexity"], 3)
    write_result(options.output, rows)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
