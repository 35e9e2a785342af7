from pathlib import Path

import pandas as pd
import pytest

from ham10000.data import (
    PUBLISHED_SPLIT,
    CachedHAM10000,
    find_dataset,
    load_table,
    open_folder,
    prepare,
    published_split,
    read_description,
    verify_dataset,
)
from ham10000.errors import ArgumentError, DataError, MissingDataError

TEXT = """\
name: clinic
table: labels.csv
columns: {image: file, label: diagnosis, lesion: patient, split: part, age: years}
labels: {Melanoma: mel, Naevus: nv}
classes: {nv: melanocytic nevus, mel: melanoma, scar: scar}
images: photographs
masks: outlines
licence: Ask the clinic.
"""
ROWS = [
    "file,diagnosis,patient,part,years,sex,dx",
    "a.jpg,Melanoma,P1,train,40,m,x",
    "b.JPG,naevus,P2,Training,,f,x",
    "c,SCAR,P2b,test,70,unknown,x",
    "d.png,nv,,validation,5,f,x",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "clinic.yaml").write_text(TEXT)
    (tmp_path / "labels.csv").write_text("\n".join(ROWS) + "\n")
    return tmp_path / "clinic.yaml"


def test_a_description_says_how_to_read_a_table(path: Path) -> None:
    info = find_dataset(path)
    assert info.classes == ("nv", "mel", "scar")
    assert (info.name, info.title, info.positive) == ("clinic", "clinic", None)
    assert info.licence == "Ask the clinic."
    assert info.has_published_split
    table = load_table(path.parent, info)
    assert table["image_id"].tolist() == ["a", "b", "c", "d"]
    assert table["lesion_id"].tolist() == ["P1", "P2", "P2b", "d"]
    assert table["dx"].tolist() == ["mel", "nv", "scar", "nv"]
    assert table[PUBLISHED_SPLIT].tolist() == ["train", "train", "test", "val"]
    assert table["age"].isna().tolist() == [False, True, False, False]
    assert table["sex"].tolist() == ["male", "female", "unknown", "female"]
    assert set(table["localization"]) == {"unknown"}


def test_own_images_become_a_cache(synthetic: Path, tmp_path: Path) -> None:
    whole, root = open_folder(synthetic), tmp_path / "own"
    for name in ("photographs", "outlines"):
        (root / name).mkdir(parents=True)
    ids, dx = whole.table["image_id"], whole.table["dx"]
    names = [*ids[dx == "mel"][:9], *ids[dx == "nv"][:9]]
    for name in names:
        (root / "photographs" / f"{name}.jpg").symlink_to(whole.images[name])
        (root / "outlines" / f"{name}.png").symlink_to(whole.masks[name])
    table = whole.table.set_index("image_id").loc[names].reset_index()
    parts = ["train", "train", "test"] * 6
    own = pd.DataFrame({"file": names, "diagnosis": table["dx"], "part": parts})
    own.to_csv(root / "labels.csv", index=False)
    text = TEXT.replace(", lesion: patient", "").replace(", age: years", "")
    (root / "own.yaml").write_text(text.replace(", scar: scar", ""))
    info = find_dataset(root / "own.yaml")
    assert info.positive == "mel"
    report = verify_dataset(root, info=info)
    assert report.usable
    assert report.class_counts == {"nv": 9, "mel": 9}
    cache = prepare(root, tmp_path / "cache", 16, masks=True, info=info).cache
    assert cache.info.class_names == info.class_names
    data = CachedHAM10000(tmp_path / "cache")
    assert [data.classes[target] for target in data.targets] == own["diagnosis"].tolist()
    assert published_split(data.table)["split"].tolist() == parts


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: clinic", "name: a/b", r"name must be of letters.*'a/b'"),
        ("table: labels.csv", "", "table must be text, found None"),
        ("table:", "tables:", r"no field 'tables'\. Closest: table"),
        ("label:", "lable:", r"columns has the unknown key 'lable'\. Closest: label"),
        ("Melanoma: mel", "Melanoma: melanoma", r"class 'melanoma' for 'Melanoma'\. Closest: mel"),
        ("scar: scar", "Scar: scar", "classes must be two or more names of lower-case.*Scar"),
        ("scar: scar", "age: scar", "not columns of HAM10000's table; found age"),
        ("scar: scar", "scar: 3", "classes must be a mapping of names to texts"),
        (
            "classes: {nv: melanocytic nevus, mel: melanoma, scar: scar}",
            "classes: {mel: melanoma}",
            "two or more",
        ),
        ("classes: {", "classes: [", "it is not valid YAML"),
        (TEXT, "- a\n- b\n", "expected fields, found list"),
        (TEXT, "\0", "it is not valid YAML"),
        ("name: clinic", "name: HAM10000", "its name HAM10000 is that of a known data set"),
    ],
)
def test_a_wrong_description_is_refused(path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(DataError, match=message) as raised:
        find_dataset(path)
    assert str(raised.value).startswith(f"reading the data set {path}: ")


@pytest.mark.parametrize(
    ("row", "new", "message"),
    [
        (1, "a.jpg,Melanom,P1,train,40,m,x", "row 2 has dx 'Melanom', which is not a class of cli"),
        (2, "b,nv,P2,dev,,f,x", r"row 3 has the split 'dev' \(1 such rows\)\. Expected train, val"),
        (2, "a,nv,P2,train,,f,x", "rows 2, 3 have the same image_id 'a'"),
        (3, ",scar,P2b,test,70,m,x", "row 4 .*no image_id"),
        (3, "c,,P2b,test,70,m,x", "row 4 .*no dx"),
        (4, "d,nv,,train,old,f,x", r"row 5 \(image 'd'\) has an age"),
        (0, "file,diagnosis,patients,part,years,sex,dx", "lacks the column 'patient'"),
        (0, "file,diagnosi,patient,part,years,sex,dx", "lacks the column 'diagnosis'"),
    ],
)
def test_a_wrong_table_is_refused(path: Path, row: int, new: str, message: str) -> None:
    rows = [*ROWS]
    rows[row] = new
    (path.parent / "labels.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=message):
        load_table(path.parent, find_dataset(path))


def test_missing_files_are_named(path: Path) -> None:
    (path.parent / "labels.csv").unlink()
    with pytest.raises(MissingDataError, match=r"there is no table labels\.csv .*Get it from"):
        load_table(path.parent, read_description(path))
    with pytest.raises(ArgumentError, match=r"other\.yaml: there is no such file\."):
        find_dataset(path.with_name("other.yaml"))
