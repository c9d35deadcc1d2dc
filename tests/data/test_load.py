"""Which files a config means: COCO's under a root, Roboflow's, or any by path."""

import json
import shutil

import pytest
from tiny_coco import write_coco

from jaxdet.config import Config, DataConfig
from jaxdet.data.load import find_files, has_split, load_dataset
from jaxdet.errors import InputError


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "coco")


def load(split="train", **data):
    return load_dataset(Config(data=DataConfig(**data)), split)


def test_files_by_path_for_either_split(coco, tmp_path):
    """Training by paths alone, validation in the root; images beside their file by default."""
    shutil.copytree(coco / "train2017", tmp_path / "mine")
    mine = tmp_path / "mine" / "labels.json"
    shutil.copy(coco / "annotations" / "instances_train2017.json", mine)
    dataset = load(train_annotations=str(mine))
    assert dataset.source == str(mine)
    assert dataset.path_of(3) == tmp_path / "mine" / "3.png"
    apart = load(train_annotations=str(mine), train_images=str(coco / "val2017"))
    assert apart.path_of(3) == coco / "val2017" / "3.png"
    # A name that is only in the root is found there; images are then COCO's.
    (coco / "annotations" / "few.json").write_bytes(mine.read_bytes())
    few = load(root=str(coco), train_annotations="annotations/few.json")
    assert few.source == str(coco / "annotations" / "few.json")
    assert few.path_of(0) == coco / "train2017" / "0.png"
    assert load("val", root=str(coco), train_annotations="gone.json").summary == dataset.summary


def test_roboflows_layout_is_found(coco, tmp_path):
    for split, folder in (("train", "train"), ("val", "valid")):
        shutil.copytree(coco / f"{split}2017", tmp_path / "export" / folder)
        target = tmp_path / "export" / folder / "_annotations.coco.json"
        shutil.copy(coco / "annotations" / f"instances_{split}2017.json", target)
        dataset = load(split, root=str(tmp_path / "export"))
        assert dataset.source == str(target)
        assert dataset.path_of(0) == target.parent / "0.png"


def test_a_validation_set_may_be_missing_but_not_misspelt(coco, tmp_path):
    root = {"root": str(coco)}
    assert has_split(DataConfig(**root), "val")
    assert not has_split(DataConfig(train_annotations="a.json"), "val")
    with pytest.raises(InputError, match=r"root: not set; .* or config.data.val_annotations"):
        find_files(DataConfig(train_annotations="a.json"), "val")
    named = DataConfig(**root, val_annotations="none.json")
    assert has_split(named, "val")
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        load_dataset(Config(data=named), "val")
    (coco / "annotations" / "instances_val2017.json").unlink()
    assert has_split(DataConfig(**root), "val")  # its images are there
    shutil.rmtree(coco / "val2017")
    assert not has_split(DataConfig(**root), "val")


def test_a_file_of_images_alone(coco):
    path = coco / "annotations" / "image_info_test2017.json"
    content = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    dataset = load("val", root=str(coco), val_annotations=str(path))
    assert (len(dataset), len(dataset.xywh)) == (6, 0)
