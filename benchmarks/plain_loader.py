"""The reference's way of loading, in PyTorch's loader: OpenCV, resize, normalise, flip, pad, stack.

Nothing of jax is imported here, so that loader processes start quickly.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

Example = tuple[torch.Tensor, tuple[int, int], float, torch.Tensor]


@dataclass
class Settings:
    """How images become inputs."""

    scale: tuple[int, int]  # (long, short) side
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: float  # probability


class Images(Dataset):
    """Normalised images [3, H, W], (height, width), scale and boxes."""

    def __init__(self, paths: list[str], boxes: list[np.ndarray], settings: Settings) -> None:
        self.paths, self.boxes, self.settings = paths, boxes, settings
        self.rng = np.random.default_rng()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        settings = self.settings
        image = cv2.imread(self.paths[index], cv2.IMREAD_COLOR)
        assert image is not None
        height, width = image.shape[:2]
        long, short = settings.scale
        f = min(long / max(height, width), short / min(height, width))
        height, width = int(height * f + 0.5), int(width * f + 0.5)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32)
        mean, std = (np.array(x, np.float32) for x in (settings.mean, settings.std))
        image = (image - mean) / std
        boxes = self.boxes[index] * np.float32(f)
        if self.rng.random() < settings.flip:
            image = image[:, ::-1]
            boxes[:, 0::2] = width - 1 - boxes[:, 2::-2]
        padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
        padded[:height, :width] = image
        tensor = torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)))
        return tensor, (height, width), f, torch.from_numpy(boxes)


class Groups(Sampler):
    """Shuffled batches of images of one aspect (wide, or not), for `epochs`."""

    def __init__(self, wide: np.ndarray, batch: int, epochs: int) -> None:
        self.kinds = [np.flatnonzero(wide == kind) for kind in (True, False)]
        self.batch, self.epochs = batch, epochs

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(0)
        for _ in range(self.epochs):
            batches = []
            for kind in self.kinds:
                order = rng.permutation(kind)
                batches += [order[i : i + self.batch] for i in range(0, len(order), self.batch)]
            for i in rng.permutation(len(batches)):
                yield batches[i].tolist()


def collate(examples: list[Example]) -> tuple:
    """[B, 3, H, W], zero beyond each image, and lists of the rest."""
    images, *rest = zip(*examples, strict=True)
    height, width = (max(x.shape[i] for x in images) for i in (1, 2))
    batch = torch.zeros(len(images), 3, height, width)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch, *rest


def start_worker(worker: int) -> None:
    """One thread each: the processes are the parallelism."""
    del worker
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def plain_loader(images: Images, sampler: Sampler | None, workers: int) -> DataLoader:
    """Batches of a sampler's choice, or else single images in order."""
    how = {"batch_size": 1} if sampler is None else {"batch_sampler": sampler}
    # Spawned, because forking a process that has jax's threads may hang.
    return DataLoader(
        images,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        multiprocessing_context="spawn" if workers else None,
        **how,
    )
