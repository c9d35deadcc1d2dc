"""Where jaxdet keeps what it can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$JAXDET_CACHE`, or else `~/.cache/jaxdet`; it may not exist yet."""
    return Path(os.environ.get("JAXDET_CACHE") or "~/.cache/jaxdet").expanduser()
