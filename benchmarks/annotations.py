"""Seconds and memory to load an annotation file of COCO's size: jaxdet beside pycocotools.

    python -m benchmarks.annotations

118,287 images and 860,001 boxes with outlines, generated; each is loaded in a process of its own,
whose largest resident memory is what it had before and what the loading took.
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, BOXES = 118_287, 860_001


def write_annotations(path: Path, images: int, boxes: int) -> None:
    """COCO's layout and digits; outlines of 8 to 40 corners."""
    rng = np.random.default_rng(0)
    outlines = [
        json.dumps([rng.uniform(0, 640, 2 * n).round(2).tolist()])
        for n in rng.integers(8, 41, 1000)
    ]
    owners = rng.integers(1, images + 1, boxes)
    corners, sides = rng.uniform(0, 400, (boxes, 2)).round(2), rng.uniform(4, 80, (boxes, 2))
    with path.open("w") as stream:
        stream.write('{"images": [')
        stream.write(
            ", ".join(
                f'{{"license": 3, "file_name": "{i:012}.jpg", "coco_url": '
                f'"http://images.example/train2017/{i:012}.jpg", "height": 480, "width": 640, '
                f'"date_captured": "2013-11-14 11:18:45", "id": {i}}}'
                for i in range(1, images + 1)
            )
        )
        stream.write('], "annotations": [')
        for i in range(boxes):
            (x, y), (w, h) = corners[i], sides[i].round(2)
            comma = ", " if i else ""
            stream.write(
                f'{comma}{{"segmentation": {outlines[i % 1000]}, "area": {w * h:.4f}, '
                f'"iscrowd": 0, "image_id": {owners[i]}, "bbox": [{x}, {y}, {w}, {h}], '
                f'"category_id": 1, "id": {i + 1}}}'
            )
        stream.write('], "categories": [{"id": 1, "name": "thing"}]}')


def resident_gb() -> float:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def load(side: str, path: Path) -> dict[str, Any]:
    """Loads in this process: seconds, peak memory, and what it was before."""
    from jaxdet.data.coco import load_coco

    if side == "pycocotools":
        from pycocotools.coco import COCO
    before = resident_gb()
    start = time.perf_counter()
    if side == "jaxdet":
        count = len(load_coco(path, path.parent).annotation_ids)
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            count = len(COCO(str(path)).anns)
    seconds = time.perf_counter() - start
    memory = {"memory_gb": resident_gb(), "memory_before_gb": before}
    return {"side": side, "boxes": count, "seconds": seconds, **memory}


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--boxes", type=int, default=BOXES)
    parser.add_argument("--load", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.load[0], Path(args.load[1]))))
        return
    from benchmarks.timing import save

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write_annotations(path, args.images, args.boxes)
        size = path.stat().st_size / 1e6
        for side in ("jaxdet", "pycocotools"):
            command = [sys.executable, "-m", "benchmarks.annotations", "--load", side, str(path)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = {"images": args.images, "file_mb": size, **json.loads(output)}
            rows.append(row)
            print(
                f"{side:12} {size:.0f} MB, {row['boxes']} boxes: {row['seconds']:.1f} s, "
                f"{row['memory_gb']:.2f} GB (before: {row['memory_before_gb']:.2f} GB)"
            )
    save("annotations", rows)


if __name__ == "__main__":
    main()
