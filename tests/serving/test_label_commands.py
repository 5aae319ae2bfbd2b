"""`vicinal classify`, `vicinal label ...` and `vicinal evaluate-labels` against a real server over real images."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from index.build import BuildConfig, build
from index.embed import embed
from tests.serving.labelled_workspace import running_server
from tests.support.corpora import add_encoder
from vicinal.cli import run
from vicinal.store import Store

COLORS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
Vicinal = Callable[..., Any]


def color_image(name: str, seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-40, 40, (12, 12, 3))
    pixels = np.clip(np.array(COLORS[name]) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("commands")
    for number in range(60):
        name = list(COLORS)[number % 3]
        path = root / "images" / name / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(color_image(name, number))
    store = Store.create(root / "workspace")
    add_encoder(store)
    embed(store, [str(root / "images")])
    store.activate(build(store, config=BuildConfig(kind="flat", query_count=10)).version)
    return root / "workspace"


@pytest.fixture(scope="module")
def address(workspace: Path) -> Iterator[str]:
    with running_server(Store(workspace)) as address:
        yield address


@pytest.fixture
def vicinal(address: str, capsys: pytest.CaptureFixture[str]) -> Vicinal:
    def call(*words: str | Path, code: int = 0) -> Any:
        verb = [str(word) for word in words]
        assert run([*verb, "--address", address]) == code, capsys.readouterr()
        out, err = capsys.readouterr()
        if code:
            return err
        return json.loads(out) if "--json" in verb else out

    return call


def labelled(vicinal: Vicinal, name: str, count: int = 12) -> None:
    pairs = [f"{color}/{n:03d}.png={color}" for n in range(count) for color in [list(COLORS)[n % 3]]]
    vicinal("label", "put", name, *pairs, "--create", "--author", "ann")


def test_put_list_rename_undo_and_history(vicinal: Vicinal) -> None:
    labelled(vicinal, "one")
    assert "made labelSets/other" in vicinal("label", "create", "other", "--multi-label")
    assert "labelSets/one" in vicinal("label", "list").replace("│", "")
    sets = {row["name"]: row for row in vicinal("label", "list", "--json")["label_sets"]}
    assert sets["labelSets/one"]["classes"] == {"blue": 4, "green": 4, "red": 4}
    rows = vicinal("label", "list", "one", "--json")["labels"]
    assert len(rows) == 12
    assert rows[0]["author"] == "ann"
    assert "blue/002.png" in vicinal("label", "list", "one", "--label", "blue")
    assert "1 labels changed" in vicinal("label", "put", "one", "green/001.png", "--negative")
    assert "two classes became one" in vicinal("label", "rename", "one", "blue", "red")
    assert vicinal("label", "undo", "one", "--json")["target"] == 3
    assert vicinal("label", "redo", "one", "--json")["verb"] == "redo"
    assert vicinal("label", "remove", "one", "red/000.png", "--json")["change_count"] == 1
    assert "rename" in vicinal("label", "history", "one")
    assert len(vicinal("label", "history", "one", "--json")["batches"]) == 6
    assert "labelSets/one" in {one["name"] for one in vicinal("label", "list", "--json")["label_sets"]}
    assert "delete" in vicinal("label", "delete", "other")


def test_conflicts_are_shown(vicinal: Vicinal) -> None:
    labelled(vicinal, "two")
    vicinal("label", "put", "two", "red/000.png=blue", "--author", "bob")
    assert "bob: blue; ann: red" in vicinal("label", "conflicts", "two").replace("\n", " ")
    assert vicinal("label", "conflicts", "two", "--json")["conflicts"][0]["item_id"] == "red/000.png"


def test_classify_files_and_items_with_a_sheet(vicinal: Vicinal, workspace: Path, tmp_path: Path) -> None:
    labelled(vicinal, "three")
    images = [str(path) for path in sorted((workspace.parent / "images").rglob("05*.png"))]
    found = vicinal("classify", *images, "blue/050.png", "nowhere.png", "--labels", "three", "--json")
    truth = [Path(image).parent.name for image in images]
    assert [one.get("label") for one in found["results"]] == [*truth, "blue", None]
    assert found["results"][-1]["error"]["reason"] == "ITEM_NOT_FOUND"
    sheet = tmp_path / "sheet.png"
    text = vicinal("classify", *images, "--labels", "three@1", "--sheet", sheet, "-w", workspace)
    assert "leave-one-out accuracy" in text
    with Image.open(sheet) as picture:
        assert picture.height > 70 * len(images)
    assert "version is a number" in vicinal("classify", "x", "--labels", "three@x", code=2)


def test_propose_accept_reject_and_next(vicinal: Vicinal, workspace: Path, tmp_path: Path) -> None:
    labelled(vicinal, "four")
    found = vicinal("label", "propose", "four", "--min-probability", "0.4", "--json")
    assert found["candidate_count"] == 48
    assert found["proposal_count"] > 30
    sheet = tmp_path / "proposals.png"
    rows = vicinal("label", "proposals", "four", "-n", "5", "--sheet", sheet, "-w", workspace, "--json")["proposals"]
    assert len(rows) == 5
    assert sheet.stat().st_size > 1000
    assert rows[0]["item_id"] in vicinal("label", "proposals", "four").replace("\n", "")
    assert "(reject): 1 labels" in vicinal("label", "reject", "four", rows[0]["item_id"])
    assert vicinal("label", "accept", "four", rows[1]["item_id"], "--json")["change_count"] == 1
    batch = vicinal("label", "accept", "four", "--label", "red", "--min-probability", "0.4", "--json")
    assert batch["verb"] == "accept"
    vicinal("label", "undo", "four")
    assert "candidates" in vicinal("label", "propose", "four") or "unlabelled" in vicinal("label", "propose", "four")
    sheet = tmp_path / "next.png"
    wanted = vicinal("label", "next", "four", "-n", "6", "--sheet", sheet, "-w", workspace, "--json")
    assert len(wanted["item_ids"]) == 6
    assert sheet.stat().st_size > 1000
    assert len(vicinal("label", "next", "four", "-n", "4", "--strategy", "random").split()) == 4


@pytest.mark.parametrize("file_format", ["csv", "parquet", "label-studio"])
def test_files_round_trip(vicinal: Vicinal, tmp_path: Path, file_format: str) -> None:
    name = f"five-{file_format}"
    labelled(vicinal, name)
    out = tmp_path / "labels"
    assert "written" in vicinal("label", "export", name, "--format", file_format, "-o", out)
    vicinal("label", "create", f"{name}-copy")
    assert vicinal("label", "import", f"{name}-copy", out, "--format", file_format, "--json")["change_count"] == 12
    assert "cannot write" in vicinal("label", "export", name, "-o", tmp_path, code=2)
    assert "cannot read" in vicinal("label", "import", name, tmp_path / "none", code=2)


def test_folders_round_trip(vicinal: Vicinal, workspace: Path, tmp_path: Path) -> None:
    labelled(vicinal, "six")
    out = tmp_path / "folders"
    found = vicinal("label", "export", "six", "--format", "folders", "-o", out, "-w", workspace, "--json")
    assert found["file_count"] == 12
    assert sorted(path.name for path in out.iterdir()) == sorted(COLORS)
    vicinal("label", "create", "six-copy")
    assert vicinal("label", "import", "six-copy", out, "--format", "folders", "--json")["change_count"] == 12
    assert "not empty" in vicinal("label", "export", "six", "--format", "folders", "-o", out, "-w", workspace, code=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "none of the 0 files" in vicinal("label", "import", "six", empty, "--format", "folders", code=2)
    assert "not a directory" in vicinal("label", "import", "six", tmp_path / "no", "--format", "folders", code=2)


def test_evaluate_and_calibrate(vicinal: Vicinal, tmp_path: Path) -> None:
    labelled(vicinal, "seven")
    plot = tmp_path / "plot.png"
    assert "balanced_accuracy" in vicinal("evaluate-labels", "seven", "--plot", plot)
    assert plot.stat().st_size > 5000
    found = vicinal("evaluate-labels", "seven", "--held-out", "seven", "--classifier", "knn", "--json")
    assert found["classifier"] == "knn"
    assert found["metrics"]["accuracy"] > 0.9
    assert "best-f1" in vicinal("label", "calibrate", "seven", "seven-cal")
    made = vicinal("label", "calibrate", "seven", "c2", "--target", "p=precision:0.9", "--target", "b=f1", "--json")
    assert made["default_target"] == "p"
    for text in ("p", "p=f1:x"):
        assert "--target" in vicinal("label", "calibrate", "seven", "c3", "--target", text, code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("label", "put", "none", "a=b"), "does not exist"),
        (("label", "put", "none", "ab"), "ITEM=LABEL"),
        (("label", "list", "none"), "does not exist"),
        (("classify", "a", "--labels", "none"), "does not exist"),
        (("label", "accept", "Bad Name"), "not a label set name"),
    ],
)
def test_errors_are_one_line(vicinal: Vicinal, words: tuple[str, ...], message: str) -> None:
    code = 1 if "does not exist" in message else 2
    text = vicinal(*words, code=code)
    assert message in text
    assert text.count("\n") == 1
