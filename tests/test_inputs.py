"""What `dynamicseg.inputs` promises: each image once, distinct stems, no earlier results."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamicseg.inputs import FoundInputs, find_images


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def stems(*arguments: str) -> list[str]:
    found = find_images(arguments)
    assert found.problems == ()
    return [image.stem for image in found.images]


def names(found: FoundInputs) -> list[str]:
    return [image.path.as_posix() for image in found.images]


class TestFinding:
    def test_named_files_are_taken_whatever_their_suffix(self) -> None:
        touch("photo.dat", "photo2")
        assert stems("photo.dat", "photo2") == ["photo", "photo2"]

    def test_folder_is_searched_in_order_for_known_suffixes(self) -> None:
        touch("d/b.PNG", "d/a.jpg", "d/a/z.tif", "d/notes.txt", "d/.hidden.png", "d/.git/x.png")
        found = find_images(["d"])
        assert names(found) == ["d/a/z.tif", "d/a.jpg", "d/b.PNG"]
        assert [image.stem for image in found.images] == ["a/z", "a", "b"]

    def test_folder_that_is_itself_hidden_or_the_current_one(self) -> None:
        touch(".d/x.png")
        assert stems(".d") == ["x"]
        touch("y.png")
        assert stems(".") == ["y"]

    def test_linked_folders_are_followed_once(self, inside: Path) -> None:
        touch("far/x.png", "d/y.png")
        (inside / "d" / "link").symlink_to(inside / "far")
        (inside / "far" / "back").symlink_to(inside / "d")
        assert stems("d") == ["link/x", "y"]

    def test_patterns_that_the_shell_left_are_expanded(self) -> None:
        touch("d/a.jpg", "d/b.jpg", "d/e/c.jpg", "d/n.txt", "d/e.dat")
        assert stems("d/*.jpg") == ["a", "b"]
        assert stems("d/**/*.jpg") == ["a", "b", "c"]
        assert stems("d/[b]*") == ["b"]
        assert stems("d/*") == ["a", "b"]
        assert stems("d/*.dat") == ["e"]

    def test_name_that_looks_like_a_pattern_but_exists_is_that_file(self) -> None:
        touch("a[1].png", "a1.png")
        assert names(find_images(["a[1].png"])) == ["a[1].png"]

    def test_same_file_twice_is_taken_once(self, inside: Path) -> None:
        touch("d/x.png")
        found = find_images(["d/x.png", "./d/../d/x.png", str(inside / "d/x.png"), "d", "d/*"])
        assert names(found) == ["d/x.png"]

    def test_what_is_not_there_is_reported_and_the_rest_is_found(self) -> None:
        touch("x.png", "empty/notes.txt")
        found = find_images(["no.png", "x.png", "empty", "*.gif", ""])
        assert names(found) == ["x.png"]
        assert [problem.split(": ")[0] for problem in found.problems] == [
            "no.png",
            "empty",
            "*.gif",
            "''",
        ]
        assert "no such file" in found.problems[0]
        assert not any("\n" in problem for problem in found.problems)

    def test_null_character_is_a_problem_not_a_crash(self) -> None:
        found = find_images(["a\0b.png"])
        assert len(found.problems) == 1


class TestStems:
    def test_equal_names_in_different_folders_keep_what_tells_them_apart(self) -> None:
        touch("a/x.png", "b/x.png", "a/y.png")
        assert stems("a/x.png", "b/x.png", "a/y.png") == ["a/x", "b/x", "y"]
        assert stems("a", "b") == ["a/x", "y", "b/x"]

    def test_as_much_of_the_path_as_needed(self) -> None:
        touch("p/a/x.png", "q/a/x.png")
        assert stems("p/a/x.png", "q/a/x.png") == ["p/a/x", "q/a/x"]

    def test_equal_names_in_one_folder_keep_their_suffix(self) -> None:
        touch("x.jpg", "x.png", "y.png")
        assert stems("x.jpg", "x.png", "y.png") == ["x_jpg", "x_png", "y"]

    def test_name_that_a_suffixed_stem_would_take(self) -> None:
        touch("x.jpg", "x.png", "x_jpg.png")
        found = stems("x.jpg", "x.png", "x_jpg.png")
        assert len(set(found)) == 3

    def test_names_that_differ_only_by_case_do_not_share_files(self) -> None:
        touch("a/x.png", "b/X.png")
        assert len({stem.casefold() for stem in stems("a/x.png", "b/X.png")}) == 2

    def test_stems_stay_inside_the_output_folder(self, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        touch("x.png", "d/x.png", "d/e/f")
        monkeypatch.chdir(inside / "d" / "e")
        for stem in stems("../../x.png", "../x.png", str(inside / "x.png")):
            relative = PurePosixPath(stem)
            assert not relative.is_absolute()
            assert ".." not in relative.parts

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        files=st.lists(
            st.tuples(
                st.sampled_from(["", "a", "b", "a/b", "A"]),
                st.sampled_from(["x", "X", "x_png", "x_jpg", "x_2", ".."]),
                st.sampled_from([".png", ".jpg", ""]),
            ),
            max_size=10,
            unique=True,
        )
    )
    def test_stems_are_unique_and_safe_and_repeatable(
        self, tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str, str]]
    ) -> None:
        root = tmp_path_factory.mktemp("stems")
        paths = []
        for folder, name, suffix in files:
            if name + suffix != "..":
                path = root / folder / (name + suffix)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
                paths.append(str(path))
        found = find_images(paths)
        assert len({image.stem.casefold() for image in found.images}) == len(set(paths))
        assert all(".." not in PurePosixPath(image.stem).parts[:-1] for image in found.images)
        assert find_images(paths) == found


class TestEarlierResults:
    def test_second_run_in_the_same_folder_finds_the_same_images(self) -> None:
        touch("d/x.png", "d/a_labels.png")
        first = find_images(["d"])
        touch("d/x_labels.png", "d/x_overlay.png", "d/x_boundaries.png", "d/x.json")
        touch("d/a_labels_labels.png", "d/a_labels.json")
        second = find_images(["d"])
        assert second.images == first.images
        assert len(second.skipped) == 4

    def test_results_of_an_interrupted_run_are_left_out_beside_their_image(self) -> None:
        touch("d/x.jpg", "d/x_labels.png")
        assert names(find_images(["d"])) == ["d/x.jpg"]

    def test_results_in_a_folder_below_are_left_out(self) -> None:
        touch("d/x.png", "d/out/x_labels.png", "d/out/x_overlay.png", "d/out/x.json")
        assert names(find_images(["d"])) == ["d/x.png"]

    def test_results_of_images_that_kept_their_suffix(self) -> None:
        touch("x.jpg", "x.png", "x_jpg_labels.png")
        assert names(find_images(["."])) == ["x.jpg", "x.png"]

    def test_shell_expansion_in_the_same_folder(self) -> None:
        touch("x.png", "x_labels.png", "x_overlay.png", "x.json")
        found = find_images(["x.png", "x_labels.png", "x_overlay.png"])
        assert names(found) == ["x.png"]
        assert [path.name for path in found.skipped] == ["x_labels.png", "x_overlay.png"]

    def test_result_that_is_named_alone_is_taken(self) -> None:
        touch("x.png", "x_labels.png", "x.json")
        assert names(find_images(["x_labels.png"])) == ["x_labels.png"]

    def test_images_that_only_look_like_results_are_taken(self) -> None:
        touch("d/scan_labels.png", "d/_labels.png")
        assert names(find_images(["d"])) == ["d/_labels.png", "d/scan_labels.png"]
