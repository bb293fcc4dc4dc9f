"""README says what is true: its Python runs and prints what is printed there, its commands are understood."""

import pathlib
import re
import shlex

import pytest

from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_python_block_prints_what_stands_below_it(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    first = next(block for block in blocks("python") if "AnomalyInspector" in block)
    expected = README.split(first)[1].split("```text\n")[1].split("```")[0]
    exec(compile(first, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == expected.strip()


def test_commands_of_the_readme_are_understood():
    from modeling_anomalygpt import cli

    lines = " ".join(blocks("bash")).replace("\\\n", " ").splitlines()
    commands = [line.split("#")[0] for line in lines if line.strip().startswith("anomalygpt ")]
    assert commands
    for line in commands:
        words = shlex.split(line)[1:]
        assert words[0] in cli.COMMANDS, line


def test_files_that_the_readme_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "README.md"])
def test_the_embedded_checkpoint_is_complete(name):
    assert (EMBEDDED_CHECKPOINT / name).is_file()


def test_the_tables_say_what_was_measured():
    from benchmarks import documents

    assert documents.main(["--check"]) == 0
