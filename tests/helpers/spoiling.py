"""A working folder in which all is right, and ways to spoil it."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from robustflow import models
from robustflow.data.bicubic import downsample
from robustflow.data.images import write_png
from robustflow.interop import published
from robustflow.options.load import dump, load

OPTIONS = """name: tiny
model: FS-NCSR
device: cpu
datasets:
  train: {mode: folder, dataroot_GT: hr, GT_size: 16, batch_size: 1}
  test_few: {mode: folder, dataroot_GT: hr_test, dataroot_LQ: lr_test}
network_G: {nf: 8, nb: 1, gc: 4, flow: {K: 1, L: 2, S: [0, 1], hidden_channels: 8}}
train: {niter: 1, ood_patches: 0}
val: {heats: [0.9], n_sample: 1}
"""
TRAIN, TEST = ("train.py", "-opt", "run.yml"), ("test.py", "-opt", "run.yml", "--weights", "good.safetensors")
TRAINING_SET = "  train: {mode: folder, dataroot_GT: hr, GT_size: 16, batch_size: 1}\n"
LONG = "a" * 240
PUBLISHED = "name: x\nmodel: NCSR\nnetwork_G: {which_model_G: NCSRNet}\nheat: 1\nval: 3\n"

Spoil = Callable[[], object]


class Code:
    """Unpickling it runs code: makes a file."""

    def __reduce__(self):
        return os.mkdir, ("code_was_run",)


def make_folder(folder: Path) -> None:
    """Fill a folder with options, images and weights that go together."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("hr", 3), ("hr_test", 2)):
        for index in range(count):
            hr = torch.randint(256, (3, 32, 32), generator=generator, dtype=torch.uint8)
            write_png(folder / part / f"{index}.png", hr)
            if part == "hr_test":
                write_png(folder / "lr_test" / f"{index}.png", downsample(hr, 4))
    (folder / "run.yml").write_text(OPTIONS)
    save_weights(folder / "good.safetensors", folder / "run.yml")
    with zipfile.ZipFile(folder / "state.zip", "w") as archive:
        archive.writestr("x", "no weights")


def save_weights(path: Path, options_file: Path, override: str | None = None, **metadata: str) -> None:
    """Write untrained weights of the options, in ours or the published layout."""
    options = load(options_file, override)
    network = models.build(options).network
    if path.suffix == ".pth":
        torch.save(published.write_back(network), path)
        return
    own = {"format": "robustflow", "options": dump(options), "iteration": "1", **metadata}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(tensors, own))


# Spoiling


def option_file(text: str | bytes) -> Spoil:
    return lambda: Path("run.yml").write_bytes(text if isinstance(text, bytes) else text.encode())


def replaced(old: str, new: str) -> Spoil:
    assert old in OPTIONS
    return option_file(OPTIONS.replace(old, new))


def added(text: str) -> Spoil:
    return option_file(OPTIONS + text)


def file(name: str, data: bytes | str = b"") -> Spoil:
    def write() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data.encode() if isinstance(data, str) else data)

    return write


def both(*spoils: Spoil) -> Spoil:
    return lambda: [spoil() for spoil in spoils]


def cut(name: str, share: float = 0.5) -> Spoil:
    return lambda: Path(name).write_bytes(Path(name).read_bytes()[: int(share * Path(name).stat().st_size)])


def image(name: str, *frames: Image.Image, **options: object) -> Spoil:
    more = {"append_images": frames[1:], "save_all": True} if len(frames) > 1 else {}
    return lambda: frames[0].save(name, **more, **options)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pickled(name: str, value: object) -> Spoil:
    return lambda: Path(name).write_bytes(pickle.dumps(value))


def pickles(value: object, lq: object = None) -> Spoil:
    """Training images from a pickle file."""
    more = "" if lq is None else ", dataroot_LQ: l.pkl"
    options = replaced("mode: folder, dataroot_GT: hr,", f"mode: LRHR_PKL, dataroot_GT: h.pkl{more},")
    return both(options, pickled("h.pkl", value), pickled("l.pkl", lq))


def forged_png() -> bytes:
    """A PNG whose header promises 60000 x 60000 pixels."""
    content = io.BytesIO()
    Image.new("1", (8, 8)).save(content, "PNG")
    data = bytearray(content.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zipfile.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def compressed(name: str) -> Spoil:
    """The archive of a .pth file, compressed."""

    def write() -> None:
        save_weights(Path("plain.pth"), Path("run.yml"))
        with zipfile.ZipFile("plain.pth") as plain, zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as packed:
            for member in plain.namelist():
                packed.writestr(member, plain.read(member))
            packed.writestr("zeros", bytes(10**6))
        Path("plain.pth").unlink()

    return write


def other_weights(override: str, name: str = "w.safetensors", **metadata: str) -> Spoil:
    return lambda: save_weights(Path(name), Path("run.yml"), override, **metadata)


def torch_file(name: str, value: object) -> Spoil:
    return lambda: torch.save(value, name)


def renamed(old: str, new: str | bytes) -> Spoil:
    return lambda: os.rename(old, new)


def linked(link: str, target: str) -> Spoil:
    def make() -> None:
        Path(target).mkdir(parents=True, exist_ok=True)
        Path(link).parent.mkdir(parents=True, exist_ok=True)
        Path(link).symlink_to(Path(target).resolve())

    return make


def nothing() -> None:
    """For mistakes of the command line."""


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12)
)
