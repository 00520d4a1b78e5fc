"""grid(): cells in their places, each equal to what generate makes alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillmotion.errors import ConfigError, StillmotionError, UsageError
from stillmotion.media.document import read_document
from stillmotion.media.mosaic import mosaic
from stillmotion.media.video import read_video
from stillmotion.recipe import AxisRecord, GridRecipe, Recipe, parse_any_recipe
from stillmotion.tasks import grid as tasks_grid
from stillmotion.tasks.generate import generate
from stillmotion.tasks.grid import GridSettings, grid, read_axis
from stillmotion.tasks.inspect import InspectSettings, inspect
from stillmotion.tasks.repeat import RepeatSettings, repeat
from stillmotion.tasks.settings import GenerateSettings

QUICK = ("steps=1", "frames=2", "size=64x64", "dtype=float32")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return path


@pytest.mark.slow
def test_every_cell_is_the_video_that_generate_makes(image: Path, tmp_path: Path) -> None:
    made = grid(
        GridSettings(
            image=str(image),
            across="motion=0,255",
            down="seed=3..4",
            set=QUICK,
            output=tmp_path / "grid.mkv",
            sheet=tmp_path / "grid.png",
        )
    )
    assert (made.columns, made.rows) == (2, 2)
    assert made.cells[1] == {"motion": "255", "seed": "3"}
    whole = read_video(made.path).frames
    settings = GenerateSettings(
        image=str(image),
        steps=1,
        frames=2,
        size=(64, 64),
        dtype="float32",
        motion=255,
        seed=4,
        output=tmp_path / "a.mkv",
    )
    list(generate(settings))
    alone = read_video(tmp_path / "a.mkv").frames
    assert _holds(whole, alone)
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width > 128


@pytest.mark.slow
def test_the_mosaic_says_how_it_was_made(image: Path, tmp_path: Path) -> None:
    asked = GridSettings(image=str(image), across="motion=0,255", set=QUICK, output=tmp_path / "grid.webp")
    made = grid(asked)
    document = read_document(made.path)
    assert document is not None
    recipe = parse_any_recipe(document)
    assert isinstance(recipe, GridRecipe) and parse_any_recipe(recipe.to_json()) == recipe
    assert (recipe.across, recipe.down) == (AxisRecord(name="motion", values=("0", "255")), None)
    assert recipe.base.video.motion_bucket == 0 and recipe.base.frames.sha256 == recipe.cells[0]
    assert len(set(recipe.cells)) == 2
    again = repeat(
        RepeatSettings(file=_saved(recipe.base, tmp_path), output=tmp_path / "cell.mkv", set=("motion=255",))
    )
    assert again.made.recipe is not None and again.made.recipe.frames.sha256 == recipe.cells[1]
    found = inspect(InspectSettings(source=str(made.path))).recipe
    assert found is not None and found.problem is None and found.values["across"]["name"] == "motion"
    with pytest.raises(ConfigError, match="'stillmotion/grid' in version 1; expected 'stillmotion/recipe'"):
        repeat(RepeatSettings(file=made.path, output=tmp_path / "no.mkv"))


def _saved(recipe: Recipe, folder: Path) -> Path:
    (folder / "base.json").write_text(recipe.to_json())
    return folder / "base.json"


def _holds(whole: np.ndarray, part: np.ndarray) -> bool:
    """Whether `part` stands somewhere in the lower right quarter of `whole`."""
    height, width = part.shape[1:3]
    places = [
        (y, x)
        for y in range(whole.shape[1] // 2 - 8, whole.shape[1] - height + 1)
        for x in range(whole.shape[2] // 2 - 8, whole.shape[2] - width + 1)
    ]
    return any(np.array_equal(whole[:, y : y + height, x : x + width], part) for y, x in places)


def test_a_list_with_commas_is_joined_by_semicolons() -> None:
    assert read_axis("sigmas=700,20,1;9,1", "across").values == ("700,20,1", "9,1")
    assert read_axis("noise-aug=0, 0.1", "across").values == ("0", "0.1")
    assert read_axis("seed=7..9", "down").values == ("7", "8", "9")


@pytest.mark.parametrize(
    "given",
    [
        {"across": "speed=1,2"},
        {"across": "motion"},
        {"across": "motion="},
        {"across": "motion=slow"},
        {"across": "motion=1,2", "down": "motion=3"},
        {"across": "seed=9..1"},
        {"across": "seed=1..10000"},
        {"across": "dtype=float32,bfloat16"},
        {"across": "image=a.png,b.png"},
        {"across": "format=gif,webp"},
        {"across": "seed=1", "set": ("frames=0",)},
        {"across": "seed=1", "sheet": Path("sheet.jpg")},
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_any_work(
    given: dict[str, object], image: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        grid(GridSettings(image=str(image), output=tmp_path / "grid.mp4", **given))  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]


def test_a_mosaic_puts_each_clip_where_its_labels_say() -> None:
    clips = [np.full((1 + i % 2, 8, 10, 3), (200, 10 * i, 0), np.uint8) for i in range(6)]
    page = mosaic(clips, across=["a", "b", "c"], down=["x", "y"])
    assert page.shape[0] == 2 and page.shape[1] % 2 == page.shape[2] % 2 == 0
    places = {i: np.argwhere((page[0] == (200, 10 * i, 0)).all(-1)) for i in range(1, 6)}
    rows = {i: places[i][:, 0].min() for i in places}
    columns = {i: places[i][:, 1].min() for i in places}
    assert rows[1] == rows[2] < rows[3] == rows[4] == rows[5]
    assert columns[3] < columns[1] == columns[4] < columns[2] == columns[5]
    assert all(len(places[i]) == 80 for i in places)


@pytest.mark.slow
def test_decoders_are_compared_and_files_replaced_by_force(image: Path, tmp_path: Path) -> None:
    given = {"image": str(image), "across": "decoder=temporal,image", "set": QUICK, "output": tmp_path / "grid.mkv"}
    made = grid(GridSettings(**given))  # type: ignore[arg-type]
    assert any("off the sizes" in note for note in made.notes)
    document = read_document(made.path)
    assert document is not None
    recipe = parse_any_recipe(document)
    assert isinstance(recipe, GridRecipe) and recipe.cells[0] != recipe.cells[1]
    with pytest.raises(UsageError, match="--force"):
        grid(GridSettings(**given))  # type: ignore[arg-type]
    assert grid(GridSettings(**given, force=True)).path == made.path  # type: ignore[arg-type]


def test_a_label_that_is_too_long_shows_its_value() -> None:
    narrow = [np.zeros((1, 8, 64, 3), np.uint8)] * 2
    pages = [
        mosaic(narrow, across=[f"sampler {each}" for each in pair]) for pair in (("euler", "heun"), ("heun", "heun"))
    ]
    assert not np.array_equal(*pages)
    values = mosaic(narrow, across=["noise_aug 0.02", "noise_aug 0.025"])[0, :12]
    assert not np.array_equal(values[:, 4:68], values[:, 72:136])


def test_a_mosaic_of_the_wrong_number_is_refused() -> None:
    clip = np.zeros((1, 8, 8, 3), np.uint8)
    for clips, across in (([], []), ([clip], ["a", "b"]), ([clip[:0]], ["a"])):
        with pytest.raises(UsageError):
            mosaic(clips, across)
    with pytest.raises(UsageError, match="pixels"):
        mosaic([np.zeros((1, 9000, 9000, 3), np.uint8)] * 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "across", "said"),
    [("1024x576", 8, "35.4 megapixels"), ("1024x576", 20, "at most 16384"), ("64x64", 400, "at most 16384")],
)
def test_a_mosaic_that_cannot_be_written_is_refused_before_any_work(
    size: str, across: int, said: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_grid, "Studio", lambda *_: pytest.fail("work began"))
    down = None if across == 400 else "noise_aug=" + ",".join(str(i / 10) for i in range(8))
    settings = {"image": str(image), "across": f"seed=1..{across}", "down": down, "output": tmp_path / "grid.mp4"}
    with pytest.raises(UsageError, match=said):
        grid(GridSettings(**settings, set=(f"size={size}",)))


def test_a_sheet_that_cannot_be_written_is_refused_before_any_work(image: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StillmotionError, match="cannot be written"):
        grid(GridSettings(image=str(image), across="seed=1,2", set=QUICK, sheet=tmp_path / "file" / "sheet.png"))
