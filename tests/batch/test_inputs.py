"""Which files a run over many files means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from effvision.batch.inputs import check_targets, expand, printable, target_of
from effvision.errors import InputError, SourceError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "b.mp4",
        "a.mp4",
        "in/c.mp4",
        "in/deep/d.mp4",
        "in/note.txt",
        ".hidden.mp4",
        "clips/1/x.png",
        "clips/2/x.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of(*patterns: str, leave_out: tuple[Path, ...] = (), reads: tuple[str, ...] = (".mp4",)) -> list[str]:
    return expand(patterns, leave_out=leave_out, reads=reads)


def test_patterns_go_into_folders_and_names_stay_relative_or_absolute(tree: Path) -> None:
    assert of("**/*.mp4") == ["a.mp4", "b.mp4", "in/c.mp4", "in/deep/d.mp4"]
    assert of(str(tree / "*.mp4")) == [str(tree / "a.mp4"), str(tree / "b.mp4")]


def test_a_file_named_in_several_ways_is_one_file(tree: Path) -> None:
    assert of("a.mp4", "./a.mp4", "*.mp4", "in/../a.mp4") == ["a.mp4", "b.mp4"]
    assert of("a.mp4", str(tree / "a.mp4")) == ["a.mp4"]


def test_a_folder_stands_for_what_the_model_reads_at_its_top(tree: Path) -> None:
    assert of("in") == of("in/") == ["in/c.mp4"]
    assert of("in", reads=()) == ["in/c.mp4", "in/note.txt"]
    with pytest.raises(
        InputError, match=r"folder clips holds no file this model reads \(\.mp4\)\nhint: 'clips/\*\*/\*\.mp4'"
    ):
        of("clips")


def test_a_pattern_that_ends_in_a_slash_means_folders(tree: Path) -> None:
    assert of("clips/*/") == ["clips/1", "clips/2"]
    assert of("in/*") == ["in/c.mp4", "in/note.txt"]  # a pattern is taken at its word, folders are left out


def test_the_output_and_what_is_saved_are_never_inputs(tree: Path) -> None:
    assert of("**/*.mp4", leave_out=(tree / "in",)) == ["a.mp4", "b.mp4"]


def test_a_name_with_brackets_is_a_name_where_it_is_there(tree: Path) -> None:
    (tree / "take[1].mp4").touch()
    assert of("take[1].mp4") == ["take[1].mp4"]


@pytest.mark.parametrize("pattern", ["*.avi", "in/deep/*.txt", "none/**/*.mp4"])
def test_a_pattern_that_finds_nothing_is_an_error_though_others_find_something(tree: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"finds no file\nhint: patterns are seen from"):
        of("a.mp4", pattern)


def test_names_that_are_not_there_are_an_error_that_knows_similar_ones(tree: Path) -> None:
    assert of("a.mp", "b.mp4") == ["a.mp", "b.mp4"]  # one of many has a row with its error
    with pytest.raises(SourceError, match=r"a\.mp does not exist\nhint: .*a\.mp4"):
        of("a.mp")
    with pytest.raises(InputError, match="there is no input"):
        of()


def test_names_that_are_no_text_can_be_printed() -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    assert printable(name).encode() == b"caf\\xe9.mp4" or os.name != "posix"
    assert printable("café.mp4") == "café.mp4"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a.las", "out/a.las.npz"),
        ("in/a.las", "out/in/a.las.npz"),  # two of one name in two folders
        ("/data/a.las", "out/data/a.las.npz"),
        ("../a.las", "out/__/a.las.npz"),  # never outside the folder
    ],
)
def test_what_is_saved_keeps_the_path_of_its_input(name: str, target: str) -> None:
    assert target_of(name, Path("out"), ".npz") == Path(target)


def test_a_link_that_leads_back_repeats_no_file_and_other_links_are_followed(tree: Path) -> None:
    (tree / "in" / "loop").symlink_to(".")
    (tree / "clips" / "more").symlink_to(tree / "in" / "deep")
    assert of("in/**/*.mp4") == ["in/c.mp4", "in/deep/d.mp4"]
    assert of(str(tree / "in/**/*.mp4")) == [str(tree / "in/c.mp4"), str(tree / "in/deep/d.mp4")]
    assert of("in/**/") == ["in", "in/deep"]
    assert of("clips/**/*.mp4") == ["clips/more/d.mp4"]


def test_two_inputs_whose_answers_would_be_one_file_are_refused(tree: Path) -> None:
    relative = str(tree / "a.mp4").lstrip("/")
    check_targets(["a.mp4", "in/a.mp4", str(tree / "a.mp4")])
    with pytest.raises(InputError, match=r"a\.mp4 and .*a\.mp4 would be saved in one file.*\nhint: .* full paths"):
        check_targets([relative, str(tree / "a.mp4")])
