from __future__ import annotations

from pathlib import Path

import pytest

from app.library import files
from core.errors import BadOption, OutputExists


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a\\b", "a:b", " a", "a ", "a.", "x.job", "x.partial", "CON", "nul.txt",
                                  "a\nb", "x" * 101, "\u00e4" * 101])
def test_impossible_names_are_refused(name: str) -> None:
    assert files.name_problem(name).endswith(".")


@pytest.mark.parametrize("name", ["pirate", "a b", "support-de", "v1.2", "\u00e4rztlich", "x" * 100])
def test_usual_names_are_fine(name: str) -> None:
    assert files.name_problem(name) == ""


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    assert files.free_name(tmp_path, "a") == "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").symlink_to(tmp_path / "nowhere")
    assert files.free_name(tmp_path, "a") == "a-3"


@pytest.mark.parametrize("name", ["../../etc", "", "...", "con", "x.job", "a:b", "x" * 300])
def test_a_free_name_is_always_a_possible_one(tmp_path: Path, name: str) -> None:
    assert files.name_problem(files.free_name(tmp_path, name)) == ""


def test_rename(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert files.rename(tmp_path / "a", "a") == tmp_path / "a"
    with pytest.raises(OutputExists):
        files.rename(tmp_path / "a", "b")
    with pytest.raises(BadOption):
        files.rename(tmp_path / "a", "../c")
    assert files.rename(tmp_path / "a", "c") == tmp_path / "c"
    assert {p.name for p in tmp_path.iterdir()} == {"b", "c"}


def test_put_aside_and_bring_back(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "x").write_text("content")
    aside = files.put_aside(folder)
    assert not folder.exists() and files.leftovers(tmp_path) == [aside]
    assert files.bring_back(aside) == folder
    assert (folder / "x").read_text() == "content"
    assert files.leftovers(tmp_path) == [] and not (tmp_path / files.TRASH).exists()


def test_what_comes_back_replaces_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    aside = files.put_aside(folder)
    folder.mkdir()
    assert files.bring_back(aside) == tmp_path / "a-2"


def test_discarding_hands_the_trash_the_folder_at_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def take(path: str) -> None:
        given.append(path)
        Path(path).rmdir()
    monkeypatch.setattr("send2trash.send2trash", take)
    folder = tmp_path / "a"
    folder.mkdir()
    files.discard(files.put_aside(folder))
    assert given == [str(folder)] and list(tmp_path.iterdir()) == []


def test_a_trash_that_refuses_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "No trash here")
    monkeypatch.setattr("send2trash.send2trash", refuse)
    folder = tmp_path / "a"
    folder.mkdir()
    aside = files.put_aside(folder)
    with pytest.raises(PermissionError):
        files.discard(aside)
    assert aside.exists() and not folder.exists()


def test_discarding_leaves_a_namesake_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("send2trash.send2trash", lambda path: Path(path).rmdir())
    folder = tmp_path / "a"
    folder.mkdir()
    aside = files.put_aside(folder)
    folder.mkdir()
    (folder / "new").write_text("")
    files.discard(aside)
    assert (folder / "new").exists() and not aside.exists()
