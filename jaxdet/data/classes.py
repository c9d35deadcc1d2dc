"""From the categories of a data set to the labels of a config, which are 0, 1, 2, ..."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Findings
from jaxdet.errors import InputError

MAX_HINT = 300  # characters of class names that a message proposes


class Category(msgspec.Struct, gc=False):
    """A category of an annotation file."""

    id: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
    name: str


def with_classes(
    dataset: Dataset, names: Sequence[str], categories: Any, findings: Findings
) -> Dataset:
    """Returns a data set with labels: of an annotation, the position of its category in `names`.

    Without names it is returned as it is.  A name that the data set lacks gets an id that no
    category has.  Annotations of categories that are not named are left out; unless all names are
    of categories, that is a fault.  `categories` are what `json` gives.  Raises `InputError` where
    a name or an id occurs twice, or these are no categories.
    """
    if not names:
        return dataset
    if (twice := _repeated(names)) is not None:
        raise InputError(f"config.model.class_names: {twice!a} occurs more than once")
    known = _checked(categories, dataset.source)
    id_of = {category.name: category.id for category in known}
    name_of = {category.id: category.name for category in known}
    unused = max(name_of, default=0) + 1
    ids = np.array([id_of.get(name, unused + i) for i, name in enumerate(names)], np.int64)
    label_of = {number: label for label, number in enumerate(ids.tolist())}
    labels = np.array([label_of.get(i, -1) for i in dataset.category_ids.tolist()], np.int32)

    def line(i: int) -> str:
        number = int(dataset.category_ids[i])
        said = f"annotation {dataset.annotation_ids[i]} is of category {number}"
        if number not in name_of:
            return f"{said}, which is not in 'categories'"
        lacks = f"{said}, {name_of[number][:60]!a}, which config.model.class_names lacks"
        return f"{lacks}; {_advice(set(dataset.category_ids.tolist()), name_of)}"

    # Where all that the config names is there, the rest is left out on purpose.
    others = (labels < 0) & np.isin(dataset.category_ids, [*name_of])
    others &= all(name in id_of for name in names)
    findings.add("annotations of classes that the config lacks", (labels < 0) & ~others, line)
    counts = Counter(dataset.category_ids[others].tolist()).most_common()
    said = [f"{name_of[number][:60]!a}: {count}" for number, count in counts]
    what = f"classes, of {others.sum()} annotations, that config.model.class_names leaves out"
    findings.add(what, said, harmless=True)
    labelled = dataclasses.replace(
        dataset, class_names=tuple(names), class_ids=ids, labels=np.maximum(labels, 0)
    )
    return labelled.keeping(labels >= 0)


def _checked(categories: Any, source: str) -> list[Category]:
    if categories is None:
        raise InputError(f"{source}: has no 'categories', which give config.model.class_names ids")
    try:
        known = msgspec.convert(categories, list[Category], strict=False)  # ids may be text
    except (msgspec.MsgspecError, UnicodeError, OverflowError) as error:
        raise InputError(f"{source}: 'categories' cannot be used: {error}") from None
    for what in ("id", "name"):
        if (twice := _repeated([getattr(category, what) for category in known])) is not None:
            raise InputError(f"{source}: two 'categories' have the {what} {str(twice)[:60]!a}")
    return known


def _repeated(values: Sequence[Any]) -> Any:
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _advice(present: set[int], name_of: dict[int, str]) -> str:
    """Returns what to put on the command line to detect all that is annotated."""
    found = [ascii(name) for number, name in name_of.items() if number in present]
    named = ",".join([*found, ""] if len(found) == 1 else found)
    named = named if len(named) <= MAX_HINT else "'cat','dog'"
    return f'name what to detect, as --config.model.class_names="({named})"'
