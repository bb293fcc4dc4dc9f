"""Which files are meant, and what they are called."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_anomalygpt.images import NoPictureError, distinct_names, find_pictures


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("a/10.png", "a/9.JPG", "a/notes.txt", "a/.hidden.png", "a/b/1.tif", "a/.cache/2.png", "top.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_are_searched_with_all_below_and_numbers_sort_as_numbers(tree):
    assert find_pictures(["a"]) == [os.path.join("a", "9.JPG"), os.path.join("a", "10.png"), "a/b/1.tif"]


def test_quoted_patterns_expand_themselves(tree):
    assert find_pictures(["a/*.png"]) == ["a/10.png"]
    assert find_pictures(["a/*"]) == ["a/9.JPG", "a/10.png"]
    assert find_pictures(["**/*.tif"]) == ["a/b/1.tif"]
    assert find_pictures(["[x-z]*", "top.png"][1:]) == ["top.png"]
    assert find_pictures(["?"]) == ["a/9.JPG", "a/10.png", "a/b/1.tif"], "a pattern of folders means their pictures"


def test_brackets_in_a_real_name_are_no_pattern(tree):
    (tree / "part[1].png").write_bytes(b"")
    assert find_pictures(["part[1].png"]) == ["part[1].png"]


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tree):
    assert find_pictures(["a/notes.txt"]) == ["a/notes.txt"]


def test_a_file_meant_twice_comes_once_in_the_first_place(tree):
    assert find_pictures(["top.png", "a/10.png", "a", "./top.png"]) == ["top.png", "a/10.png", "a/9.JPG", "a/b/1.tif"]


def test_the_folder_of_results_is_passed_over(tree):
    assert find_pictures(["a"], without="a/b") == ["a/9.JPG", "a/10.png"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nothing.png", "There is no file or folder 'nothing.png'"),
        ("empty", "No picture in the folder 'empty'"),
        ("*.bmp", r"No picture matches '\*\.bmp'"),
    ],
)
def test_a_place_without_pictures_is_named(tree, place, message):
    with pytest.raises(NoPictureError, match=message):
        find_pictures(["top.png", place])


def test_names_take_folders_only_where_stems_repeat():
    assert distinct_names(["x/good/000.png", "x/hole/000.png", "x/hole/001.png"]) == ["good-000", "hole-000", "001"]
    assert distinct_names(["p.png", "P.png"]) == ["p_png", "P_png_2"], "some file systems know no case"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.from_regex(r"\A([ab]/){0,2}[abA]\.(png|jpg)\Z"), unique=True, max_size=12))
def test_names_are_never_given_twice(files):
    names = distinct_names(files)
    assert len({name.casefold() for name in names}) == len(files) == len(names)
    assert not any("/" in name for name in names)
