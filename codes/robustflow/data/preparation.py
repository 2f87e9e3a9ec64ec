"""Folders of images decoded once, for fast training crops; mode `prepared` reads them."""

import io
import logging
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from robustflow.data.images import list_images, read_headers, read_image
from robustflow.data.sources.folders import name_images
from robustflow.data.sources.prepared import INDEX, Index, PreparedImage, file_of, is_current, is_whole, read_index
from robustflow.utils import memory
from robustflow.utils.errors import UserError, raise_all
from robustflow.utils.files import find_existing_part, is_utf8, remove_leftovers, require_inside, write_atomically

log = logging.getLogger(__name__)

# Seconds between two writings of the index: what a killed process loses at most.
_PERIOD = 5.0
_GIB = 2**30


def prepare_images(source: Path, destination: Path, workers: int = 0) -> None:
    """Write every image of a folder as dataset mode `prepared` reads it; what is there already and current stays.

    Args:
        source: Folder of images, sub-folders included.
        destination: Folder that is new, empty or of an earlier call. Images that ``source`` no longer has are removed.
        workers: Processes that decode; 0: this one.

    Raises:
        UserError: if ``source`` has no images, one cannot be read, ``destination`` holds something else or cannot be
            written, or there is too little space; what was written stays, and another call goes on from there.
    """
    memory.require_shared(workers, "--workers")
    files = list_images(source)
    name_images([file.relative_to(source) for file in files])
    images = [_relative(file, source) for file in files]
    earlier = _earlier(destination)
    kept = {entry.image: entry for entry in earlier if is_current(entry, source) and is_whole(destination, entry)}
    missing = [image for image in images if image not in kept]
    _require_space(source, missing, destination)
    try:
        # Before the first index without them is written: a call that is interrupted would forget them.
        _remove_stale(destination, earlier, images)
        _write_all(source, destination, images, kept, missing, workers)
    except OSError as error:
        raise UserError(
            f"{error.filename or destination}: cannot be used: {error.strerror}; make room or choose another "
            "DESTINATION. What was written stays; run the command again to go on"
        ) from error
    log.info("%d images in %s, %d of them new", len(images), destination, len(missing))


def _write_all(
    source: Path, destination: Path, images: list[str], done: dict[str, PreparedImage], missing: list[str], workers: int
) -> None:
    """Write the missing images and add them to those done; the index is complete once all are."""
    _write_index(source, destination, images, done)
    for folder, _, _ in os.walk(destination):
        remove_leftovers(Path(folder), rf".+\.npy|{re.escape(INDEX)}")
    decoded: DataLoader[PreparedImage | Exception] = DataLoader(
        missing,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers if missing else 0,
        collate_fn=partial(_decode, source, destination),
        worker_init_fn=_ignore_interrupts,
    )
    written = time.monotonic()
    damaged: list[UserError] = []
    try:
        for entry in tqdm(decoded, total=len(missing), unit="image", leave=False, disable=None):
            if isinstance(entry, UserError):
                damaged.append(entry)
                continue
            if isinstance(entry, Exception):
                raise entry
            done[entry.image] = entry
            if time.monotonic() - written > _PERIOD:
                _write_index(source, destination, images, done)
                written = time.monotonic()
    finally:
        _write_index(source, destination, images, done)
    raise_all(damaged, len(missing))


def _decode(source: Path, destination: Path, image: str) -> PreparedImage | Exception:
    """Decode an image, write it and describe it; a mistake is returned, for the main process to raise."""
    try:
        found = (source / image).stat()
        pixels = read_image(source / image).permute(1, 2, 0).numpy()
        encoded = io.BytesIO()
        np.save(encoded, np.ascontiguousarray(pixels), allow_pickle=False)
        entry = PreparedImage(
            image=image,
            image_bytes=found.st_size,
            image_modified=found.st_mtime_ns,
            height=pixels.shape[0],
            width=pixels.shape[1],
            dtype=pixels.dtype.name,
            file_bytes=encoded.tell(),
        )
        require_inside(destination, entry.file)
        write_atomically(destination / entry.file, encoded.getvalue())
        return entry
    except (UserError, OSError) as error:
        return error


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _relative(file: Path, source: Path) -> str:
    image = file.relative_to(source).as_posix()
    if not is_utf8(image):
        raise UserError(f"{source}: expected file names in UTF-8, got {image!r}; rename it")
    return image


def _earlier(destination: Path) -> list[PreparedImage]:
    """Images of an earlier call. UserError if the destination is no folder of such a call."""
    if not destination.exists():
        return []
    if not destination.is_dir():
        raise UserError(f"{destination}: expected a folder for the decoded images, got a file; choose another")
    if (destination / INDEX).exists():
        return read_index(destination).images
    if any(destination.iterdir()):
        raise UserError(
            f"{destination}: expected a new or empty folder, or one that this command wrote, got one with other files; "
            "choose another"
        )
    return []


def _remove_stale(destination: Path, earlier: Sequence[PreparedImage], images: Sequence[str]) -> None:
    """Remove the files of an earlier call that none of the images will have. UserError if a link leads elsewhere."""
    for file in {entry.file for entry in earlier} - {file_of(image) for image in images}:
        require_inside(destination, file)
        (destination / file).unlink(missing_ok=True)


def _require_space(source: Path, images: list[str], destination: Path) -> None:
    headers = read_headers([source / image for image in images])
    needed = sum(math.prod(header.size) * 3 * (4 if header.deep else 1) for header in headers.values())
    free = shutil.disk_usage(find_existing_part(destination)).free
    if needed > free:
        raise UserError(
            f"{destination}: expected {needed / _GIB:.3g} GiB of free space for {len(images)} decoded images, got "
            f"{free / _GIB:.3g} GiB; make room or choose another DESTINATION"
        )
    log.info("%d images to decode: %.3g GiB (%.3g GiB are free)", len(images), needed / _GIB, free / _GIB)


def _write_index(source: Path, destination: Path, images: Sequence[str], done: dict[str, PreparedImage]) -> None:
    """Write the index of the images done so far, in the order of all."""
    entries = [done[image] for image in images if image in done]
    # A name that is not in UTF-8, as JSON must be, is there to be read alone.
    origin = str(source.resolve()).encode(errors="replace").decode()
    index = Index(origin=origin, complete=len(entries) == len(images), images=entries)
    write_atomically(destination / INDEX, index.model_dump_json(indent=1))
