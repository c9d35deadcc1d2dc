import dataclasses
import json

import numpy as np
import pytest
from tiny_coco import write_coco

from jaxdet import config as config_lib
from jaxdet.data.coco import load_coco
from jaxdet.data.findings import Findings
from jaxdet.data.load import load_dataset
from jaxdet.data.pipeline import eval_batches, train_batches
from jaxdet.errors import InputError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "unused"}]
CONTENT = {
    "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
    "annotations": [
        {"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 7},
        {"id": 2, "image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 7, "iscrowd": 1},
        {"id": 3, "image_id": 1, "bbox": [5, 2, 3, 4], "category_id": 3},
    ],
    "categories": CATEGORIES,
}


@pytest.fixture
def load(tmp_path):
    def write_and_load(class_names, findings=None, **changes):
        path = tmp_path / "instances.json"
        path.write_bytes(json.dumps(CONTENT | changes).encode())
        return load_coco(path, tmp_path, findings, class_names)

    return write_and_load


def test_labels_are_positions_in_the_configs_names(load):
    dataset = load(("cat", "bird", "dog"))
    assert dataset.class_names == ("cat", "bird", "dog")
    assert dataset.class_ids.tolist() == [3, 92, 7]  # no category has the bird's id
    assert dataset.labels.tolist() == [2, 2, 0]
    assert dataset.labels_of(0).tolist() == [2, 0]  # as boxes_of: without the crowd
    assert dataset.labels_of(0).dtype == np.int32


def test_ids_of_categories_may_be_text(load):
    texts = [{**category, "id": str(category["id"])} for category in CATEGORIES]
    wanted, found = (load(("cat", "dog"), categories=x) for x in (CATEGORIES, texts))
    assert found.labels.tolist() == wanted.labels.tolist()


def test_without_class_names_all_boxes_are_alike(load):
    dataset = load((), categories="of no use")
    assert dataset.class_names == ()
    assert dataset.labels is None
    assert dataset.labels_of(0).tolist() == [0, 0]


TWICE = [{"id": 7, "name": "cat"}, {"id": 3, "name": "cat"}]


@pytest.mark.parametrize(
    ("names", "categories", "said"),
    [
        (
            ("cat", "bird"),
            CATEGORIES,
            r"instances.json: annotation 1 is of category 7, 'dog', which config.model.class_names "
            r"lacks; name what to detect, as --config.model.class_names=\"\('dog','cat'\)\" "
            r"\(and 1 more like it\)$",
        ),
        (("cat",), CATEGORIES[1:], "annotation 1 is of category 7, which is not in 'categories'"),
        (("cat",), None, "json: has no 'categories', which give config.model.class_names ids"),
        (("cat",), [{"id": "three"}], r"json: 'categories' cannot be used: .*`\$\[0\].id`"),
        (("cat",), TWICE, "json: two 'categories' have the name 'cat'"),
        (("cat",), [{"id": 0, "name": x} for x in "ab"], "two 'categories' have the id '0'"),
        (("cat", "dog", "cat"), CATEGORIES, "class_names: 'cat' occurs more than once"),
    ],
)
def test_classes_that_cannot_be_used_are_one_line(load, names, categories, said):
    with pytest.raises(InputError, match=said) as error:
        load(names, categories=categories)
    assert "\n" not in str(error.value)


def test_a_subset_of_the_classes_leaves_the_others_out(load, caplog):
    found, findings = load(("cat",)), Findings()
    what = "classes, of 2 annotations, that config.model.class_names leaves out"
    assert caplog.messages == [f"{found.source}: 1 {what}"]
    load(("cat",), findings)
    assert findings.warnings == {what: {"what": what, "count": 1, "examples": ["'dog': 2"]}}
    assert (found.annotation_ids.tolist(), found.labels.tolist()) == ([3], [0])
    assert found.offsets.tolist() == [0, 1]
    assert found.xywh.tolist() == [[5, 2, 3, 4]]


def test_annotations_of_unnamed_classes_are_faults_and_left_out(load):
    """Where a name is of no category: which are meant is not clear."""
    findings = Findings()
    dataset = load(("cat", "bird"), findings)
    assert [kind["count"] for kind in findings.faults.values()] == [2]
    assert dataset.labels_of(0).tolist() == [0]


@pytest.fixture
def config(tmp_path):
    """Of a detector of tiny_coco's one class, which has label 1."""
    config = config_lib.load_file("faster_rcnn_r18_fpn_shapes")
    config.model.class_names = ("other", "thing")
    config.data.update(
        {"name": "coco", "root": str(write_coco(tmp_path / "coco")), "image_scale": (64, 64)}
    )
    return config_lib.parse(config)


def test_batches_have_labels_beside_their_boxes(config):
    """With a filler image in evaluation, and a replaced one in training."""
    dataset = load_dataset(config, "train")
    dataset.path_of(2).unlink()
    with train_batches(dataset, config.data, global_batch=3, seed=0, num_steps=2) as batches:
        batch = [element.batch for element in batches][1]
    np.testing.assert_array_equal(batch.labels, batch.box_mask.astype(np.int32), strict=True)
    with eval_batches(load_dataset(config, "val"), config.data, batch_size=4) as batches:
        for batch, _ in batches:
            np.testing.assert_array_equal(batch.labels, batch.box_mask.astype(np.int32))
    plain = dataclasses.replace(config, model=dataclasses.replace(config.model, class_names=()))
    with eval_batches(load_dataset(plain, "val"), plain.data, batch_size=4) as batches:
        assert next(batches).batch.labels is None
