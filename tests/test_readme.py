"""The READMEs say what is true: their Python runs and prints what is printed there, their commands are understood."""

import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).parent.parent
READMES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_zh.md")]
README, CHINESE = READMES
both = pytest.mark.parametrize("readme", READMES, ids=["english", "chinese"])


def blocks(readme: str, language: str = "[a-z]*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", readme, flags=re.DOTALL | re.MULTILINE)


def test_the_first_python_block_prints_what_stands_below_it(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    first = next(block for block in blocks(README, "python") if "AnomalyInspector" in block)
    expected = README.split(first)[1].split("```text\n")[1].split("```")[0]
    exec(compile(first, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == expected.strip()


@both
def test_commands_of_the_readme_are_understood(readme):
    from modeling_anomalygpt import cli

    lines = " ".join(blocks(readme, "bash")).replace("\\\n", " ").splitlines()
    commands = [line.split("#")[0] for line in lines if line.strip().startswith("anomalygpt ")]
    assert commands
    for line in commands:
        words = shlex.split(line)[1:]
        assert words[0] in cli.COMMANDS, line


@both
def test_files_that_the_readme_links_exist(readme):
    targets = re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', readme)
    assert targets
    for target in (link or picture for link, picture in targets):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


@both
def test_make_targets_of_the_readme_exist(readme):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", readme, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_both_readmes_have_the_same_blocks_pictures_tables_and_links():
    """Comments in blocks and the layout's descriptions are in the language of the document."""

    def said(readme: str) -> list[str]:
        kept = [block for block in blocks(readme) if not block.startswith("modeling_anomalygpt/")]
        return [re.sub(r"(^|  )#.*$", "", block, flags=re.MULTILINE) for block in kept]

    for mine, theirs in zip(said(README), said(CHINESE), strict=True):
        assert [line.rstrip() for line in mine.splitlines()] == [line.rstrip() for line in theirs.splitlines()]
    for pattern in (r"<!-- [\w ]+ -->", r'\]\(([^)]+)\)|src="([^"]+)"', r"^(#+) "):
        found = [re.findall(pattern, readme, flags=re.MULTILINE) for readme in READMES]
        assert len(found[0]) == len(found[1]), pattern
        if "src" in pattern:  # each links the other
            found = [sorted(set(links) - {("README.md", ""), ("README_zh.md", "")}) for links in found]
            assert found[0] == found[1]


def test_the_tables_say_what_was_measured():
    from benchmarks import documents

    assert documents.main(["--check"]) == 0
