"""A COCO folder of generated images, for benchmarks that read files."""

import json
from pathlib import Path

import cv2
import numpy as np

# COCO's most frequent image sizes, as (height, width).
COMMON_SIZES = (
    (480, 640),
    (427, 640),
    (426, 640),
    (425, 640),
    (428, 640),
    (424, 640),
    (360, 640),
    (375, 500),
    (333, 500),
    (334, 500),
    (640, 640),
    (612, 612),
    (640, 480),
    (640, 427),
    (640, 426),
    (640, 425),
    (500, 375),
    (500, 333),
)


def write_images(root: Path, count: int, seed: int = 0) -> Path:
    """JPEGs of COCO's sizes and some 100 KB in `train2017`, with ten boxes each.

    Smooth noise: sharp noise would take longer to decode than photographs do.
    """
    rng = np.random.default_rng(seed)
    folder = root / "train2017"
    folder.mkdir(parents=True)
    (root / "annotations").mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for i in range(count):
        height, width = COMMON_SIZES[i % len(COMMON_SIZES)]
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        grain = rng.normal(0, 8, smooth.shape)
        image = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:06}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        images.append({"id": i + 1, "file_name": f"{i:06}.jpg", "height": height, "width": width})
        for _ in range(10):
            w, h = rng.uniform(8, (width / 2, height / 2))
            x, y = rng.uniform(0, (width - w, height - h))
            box = [round(float(v), 2) for v in (x, y, w, h)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return root
