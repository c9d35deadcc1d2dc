"""The geometry in plain NumPy, operation by operation as the reference does it, in float32."""

import numpy as np

ONE = np.float32(1)


def area(boxes):
    return (boxes[:, 2] - boxes[:, 0] + ONE) * (boxes[:, 3] - boxes[:, 1] + ONE)


def iou(a, b):
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low + ONE, np.float32(0))
    shared = sides[..., 0] * sides[..., 1]
    return shared / (area(a)[:, None] + area(b)[None] - shared)


def nms(boxes, valid, threshold):
    """Sequential greedy suppression; boxes in descending order of score."""
    keep = valid.copy()
    for i in range(len(boxes)):
        if keep[i]:
            later = slice(i + 1, None)
            keep[later] &= ~(iou(boxes[i : i + 1], boxes[later])[0] > np.float32(threshold))
    return keep


def match(anchors, allowed, boxes, box_mask, pos_iou, neg_iou, min_pos_iou):
    """Assignment in the reference's four steps."""
    assigned = np.full(len(anchors), -1)
    if not box_mask.any():
        return np.where(allowed, 0, -1)
    ious = iou(boxes, anchors)
    ious[~box_mask] = -1
    ious[:, ~allowed] = -1
    best = ious.max(axis=0)
    assigned[best < np.float32(neg_iou)] = 0
    positive = best >= np.float32(pos_iou)
    assigned[positive] = ious.argmax(axis=0)[positive] + 1
    for i in np.flatnonzero(box_mask):
        top = ious[i].max()
        if top >= np.float32(min_pos_iou):
            assigned[ious[i] == top] = i + 1
    return np.where(allowed, assigned, -1)


def random_boxes(seed, count, extent=1000.0):
    """Float boxes of 4 to 400 pixels, log-uniform."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, extent, (count, 2))
    sides = np.exp(rng.uniform(1, 6, (count, 2)))
    return np.concatenate([start, start + sides], axis=1).astype(np.float32)


def roi_align(cells, box, stride, size, roi, offset):
    """The bins of one RoI, point after point; `cells` is one image's own map."""
    height, width = cells.shape[:2]
    bins = np.zeros((size, size, cells.shape[2]), np.float32)
    shift = np.float32(0.5 if roi.aligned else 0)
    start = box[:2] / np.float32(stride) - shift
    side = (box[2:] + np.float32(offset)) / np.float32(stride) - shift - start
    side = side if roi.aligned else np.maximum(side, np.float32(roi.min_side))
    bin = side / np.float32(size)
    counts = [roi.points or max(int(np.ceil(b)), 0) for b in bin]
    for q, p, i, j in np.ndindex(size, size, *counts):
        at = [
            s + np.float32(k) * b + np.float32(n + 0.5) * b / np.float32(c)
            for s, k, b, n, c in zip(start, (q, p), bin, (i, j), counts, strict=True)
        ]
        if min(at) < -1 or at[0] > width or at[1] > height:
            continue
        x, y = (np.clip(v, 0, last) for v, last in zip(at, (width - 1, height - 1), strict=True))
        for row, column in np.ndindex(2, 2):
            r, c = int(y) + row, int(x) + column
            if r < height and c < width:
                bins[p, q] += (1 - abs(y - r)) * (1 - abs(x - c)) * cells[r, c]
    return bins / max(counts[0] * counts[1], 1)
