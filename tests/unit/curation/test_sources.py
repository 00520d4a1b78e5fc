"""What is found in folders, lists and addresses, whatever it is called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fsspec
import pytest

from stillmotion.curation.sources import Source, fetch, find_sources
from stillmotion.curation.stage import Refused
from stillmotion.errors import UsageError

ODD = ("a b.mp4", 'it\'s "quoted".mp4', "line\nbreak.mp4", "ünïcode 视频.mp4", "no suffix", "-dash.mp4", "a:b.mp4")


def names(given: Path | str, output: Path = Path("/nowhere/out")) -> list[str]:
    return [source.name for source in find_sources(str(given), output).sources]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ODD:
        (tmp_path / "in" / name).write_bytes(b"x")
    (tmp_path / "in" / "deep" / "b.mkv").write_bytes(b"xy")
    (tmp_path / "in" / "notes.TXT").write_bytes(b"x")
    (tmp_path / "in" / ".hidden.mp4").write_bytes(b"x")
    return tmp_path / "in"


def test_every_name_is_found_in_order(folder: Path) -> None:
    found = find_sources(str(folder), folder.parent / "out")
    assert [source.name for source in found.sources] == sorted([*ODD, "deep/b.mkv"])
    assert found.beside == 2
    assert next(source.bytes for source in found.sources if source.name == "deep/b.mkv") == 2


def test_bytes_that_are_no_text_become_escapes(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this disk takes names in UTF-8 alone")
    assert names(tmp_path) == ["\\xff.mp4"]


def test_the_output_inside_is_left_out(folder: Path) -> None:
    (folder / "out" / "work").mkdir(parents=True)
    (folder / "out" / "clip.mp4").write_bytes(b"x")
    assert names(folder, folder / "out") == names(folder.parent / "in", folder / "out")
    assert "out/clip.mp4" not in names(folder, folder / "out")


def test_loops_of_links_end(folder: Path) -> None:
    (folder / "deep" / "back").symlink_to(folder)
    (folder / "again").symlink_to(folder / "deep")
    found = names(folder)
    assert sum(name.endswith("b.mkv") for name in found) == 1


def test_a_link_to_nothing_is_a_source_that_will_fail(folder: Path) -> None:
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    assert "gone.mp4" in names(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_a_failure(folder: Path) -> None:
    (folder / "deep").chmod(0)
    found = find_sources(str(folder), Path("/nowhere"))
    (folder / "deep").chmod(0o755)
    assert [(each.source, each.reason) for each in found.failures] == [("deep", "unreadable")]


def test_a_list_names_paths_beside_it_and_addresses(folder: Path) -> None:
    (folder / "list.txt").write_text("# mine\na b.mp4\n\na b.mp4\nmemory://x/c.mp4\n")
    assert names(folder / "list.txt") == ["a b.mp4", "memory://x/c.mp4"]
    (folder / "list.json").write_text(json.dumps(["line\nbreak.mp4", "#1.mp4", " a.mp4"]))
    assert names(folder / "list.json") == [" a.mp4", "#1.mp4", "line\nbreak.mp4"]


def test_one_video_is_enough(folder: Path) -> None:
    assert names(folder / "a b.mp4") == ["a b.mp4"]


def test_a_list_may_begin_with_the_mark_of_windows(folder: Path) -> None:
    (folder / "list.txt").write_text("a.mp4\nb.mp4\n", encoding="utf-8-sig")
    assert [source.name for source in find_sources(str(folder / "list.txt"), folder / "out").sources] == [
        "a.mp4",
        "b.mp4",
    ]


@pytest.mark.parametrize("given", ["/nowhere/at/all", "ftp://x/y", "filecache::memory://x", "javascript://x"])
def test_what_is_not_there_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        find_sources(given, Path("/nowhere"))


def test_a_list_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="no list of texts"):
        find_sources(str(tmp_path / "list.json"), Path("/nowhere"))
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        find_sources(str(tmp_path / "list.txt"), Path("/nowhere"))


def test_a_file_that_was_replaced_under_its_address_is_another_one(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    (tmp_path / "list.txt").write_text("memory://shop/a.mp4\nmemory://shop/none.mp4\n")
    seen = []
    for content in (b"abc", b"xyz"):
        memory.pipe({"/shop/a.mp4": content})
        listed = find_sources(str(tmp_path / "list.txt"), Path("/nowhere")).sources
        (alone,) = find_sources("memory://shop/a.mp4", Path("/nowhere")).sources
        assert alone == listed[0] and (alone.bytes, listed[1].bytes) == (3, None)
        seen.append(alone.stamp)
    assert seen[0] != seen[1] and all(seen)


def test_what_is_no_file_is_not_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert names(tmp_path) == ["pipe.mp4"]


def test_addresses_are_listed_and_fetched_within_a_cap(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/films/a.mp4": b"abc", "/films/deep/b.mp4": b"d" * 100, "/films/notes.txt": b"x"})
    found = find_sources("memory://films", Path("/nowhere"))
    assert [(source.name, source.bytes) for source in found.sources] == [("a.mp4", 3), ("deep/b.mp4", 100)]
    fetch(found.sources[0], tmp_path / "a", 3)
    assert (tmp_path / "a").read_bytes() == b"abc"
    with pytest.raises(Refused) as refused:
        fetch(found.sources[1], tmp_path / "b", 99)
    assert refused.value.reason == "too_large"
    with pytest.raises(Refused) as refused:
        fetch(Source("c", "memory://films/c.mp4"), tmp_path / "c", 99)
    assert refused.value.reason == "missing"
