"""JSON that is changed anywhere, with any value."""

from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def change_anywhere(value: Any, data: st.DataObject) -> None:
    """Puts any JSON in one to three places of `value`, a list or an object that is not empty."""
    for _ in range(data.draw(st.integers(1, 3))):
        item = value
        while True:
            key = data.draw(
                st.sampled_from(list(item) if isinstance(item, dict) else range(len(item)))
            )
            inner = item[key]
            if isinstance(inner, (list, dict)) and inner and data.draw(st.booleans()):
                item = inner
                continue
            break
        item[key] = data.draw(JSON)
