"""Where things that can be made or fetched again are kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$JAXDET_CACHE`, or else `~/.cache/jaxdet`; it may not exist yet."""
    return Path(os.environ.get("JAXDET_CACHE") or "~/.cache/jaxdet").expanduser()
