"""A corpus of mistakes: each spoils a working folder and says what is called and what the first line must say."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from robustflow import tasks
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


class Bad(NamedTuple):
    """One mistake: how to make it in the working folder, the command, and a part of the message's first lines."""

    name: str
    message: str
    command: Sequence[str]
    spoil: Spoil


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
    network = tasks.build(options).build_network(options.network_G)
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


def _options() -> list[Bad]:
    def bad(name: str, message: str, spoil: Spoil, *more: str) -> Bad:
        return Bad(f"options: {name}", message, (*TRAIN, *more), spoil)

    def override(text: str, message: str) -> Bad:
        return Bad(f"override: {text[:40]}", message, (*TRAIN, "--override", text), nothing)

    return [
        Bad("options: no file", "no such file: none.yml", ("train.py", "-opt", "none.yml"), nothing),
        Bad("options: folder", "cannot read hr: Is a directory", ("train.py", "-opt", "hr"), nothing),
        bad("empty", "got an empty file", option_file("")),
        bad("not UTF-8", "not UTF-8", option_file(b"name: \xff\xfe\n")),
        bad("NUL", "not valid YAML", option_file(b"name: a\0b\n")),
        bad("text alone", "expected keys such as", option_file("hello")),
        bad("syntax", "not valid YAML", option_file("name: [")),
        bad("tab", "not valid YAML", option_file("name:\n\tx: 1\n")),
        bad("key twice", "given twice", added("name: other\n")),
        bad("unknown key", "did you mean 'name'", added("nam: x\n")),
        bad("no base", "no such file", added("base: none.yml\n")),
        bad("base of itself", "inherit from each other", added("base: run.yml\n")),
        bad("base with NUL", "expected a file name", added('base: "a\\0b"\n')),
        bad("aliases of aliases", "expected at most 10000 values", added(LAUGHS)),
        bad("alias inside itself", "alias", added("x: &x [*x]\n")),
        bad("merge key inside itself", "alias", added("x: &x {<<: *x}\n")),
        bad("deep", "nested too deeply", added("x: " + "[" * 9999 + "]" * 9999)),
        bad("many values", "values", added("x: [" + "1," * 60000 + "]")),
        bad("large", "at most 262144 characters", added("#" * 300_000)),
        Bad("options: endless", "at most 262144 characters", ("train.py", "-opt", "/dev/zero"), nothing),
        bad("Python object", "python/object", added("x: !!python/object/apply:os.mkdir [code_was_run]\n")),
        bad("Python name", "python/name", added("x: !!python/name:os.mkdir\n")),
        bad("published keys", "val: expected a mapping", option_file(PUBLISHED)),
        override("train.niter", "expected key.path=value"),
        override(".".join("a" * 3000) + "=1", "nested too deeply"),
        override("model=SRFlo", "did you mean 'SRFlow'"),
        override("scale=3", "scale: expected 2, 4 or 8"),
        override("val.n_sample=0", "val.n_sample: expected at least 1, got 0"),
        override("val.heats=[-1]", "val.heats[0]: expected at least 0.0, got -1"),
        override("val.heats=[.nan]", "val.heats[0]: expected a finite number, got nan"),
        override("val.heats=[.inf]", "val.heats[0]: expected a finite number, got inf"),
        override("val.heats=[]", "val.heats: expected at least 1 value"),
        override("train.niter=1e300", "train.niter: expected less than 2^31"),
        override("train.niter=" + "9" * 5000, "cannot read '999"),
        override("train.manual_seed=10000000000000000000", "expected less than 2^63"),
        override("train.lr_G=.nan", "train.lr_G: expected a finite number"),
        override("datasets.train.GT_size=18", "expected a multiple of 4"),
        override("datasets.train.n_workers=100000", "expected at most 1024"),
        override("network_G.flow.coupling=rq_splin", "did you mean 'rq_spline'"),
        override("network_G.flow.K=1000000000", "expected at most 1000"),
        override("network_G.flow.L=1000000000", "expected at most 16"),
        override("network_G.nf=1000000", "expected at most 4096"),
        override("device=gpu", "device: expected"),
        override("device=cuda:7", "device: expected"),
        override("device=cuda:99999999999999999999", "device: expected"),
        override("plugins=[no_such_module]", "cannot import 'no_such_module'"),
        override("plugins=[../x]", "expected a module name"),
        override("name=../x", "name: expected letters"),
        override("name=/x", "name: expected letters"),
        override("name=.", "name: expected letters"),
        override("name=a/./b", "name: expected letters"),
        override('name="a\\0b"', "name: expected letters"),
        override("name=" + "a" * 300, "name: expected a name of at most 200 bytes"),
        override("datasets.test_few.name=a/b", "expected a name fit for a folder"),
        override("datasets.test_few.name=..", "expected a name fit for a folder"),
        override("datasets.test_few.name=" + "a" * 300, "at most 200 bytes"),
        override("datasets={test/../../x: {mode: bundled}}", "expected a name fit for a folder"),
        override('path.results="a\\0b"', "path.results: expected a file or folder"),
        override('datasets.train.dataroot_GT=""', "expected a file or folder"),
    ]


def _data() -> list[Bad]:
    def training(name: str, message: str, spoil: Spoil) -> Bad:
        return Bad(f"training data: {name}", message, TRAIN, spoil)

    def testing(name: str, message: str, spoil: Spoil, *more: str) -> Bad:
        return Bad(f"test data: {name}", message, (*TEST, *more), spoil)

    arrays = [np.zeros((32, 32, 3), np.uint8)]
    return [
        training("no folder", "none: expected a folder of images", replaced("dataroot_GT: hr,", "dataroot_GT: none,")),
        training("a file", "got a file", replaced("dataroot_GT: hr,", "dataroot_GT: run.yml,")),
        training(
            "empty folder",
            "found none",
            both(replaced("dataroot_GT: hr,", "dataroot_GT: e,"), lambda: Path("e").mkdir()),
        ),
        training("no set", "datasets.train: expected a training set", replaced(TRAINING_SET, "")),
        training("cut off PNG", "hr/1.png: expected a complete", cut("hr/1.png")),
        training(
            "cut off JPEG", "hr/x.jpg: expected a complete", both(image("hr/x.jpg", noise(64, 64)), cut("hr/x.jpg"))
        ),
        training(
            "cut off WebP", "hr/x.webp: expected a complete", both(image("hr/x.webp", noise(64, 64)), cut("hr/x.webp"))
        ),
        training(
            "cut off BMP", "hr/x.bmp: expected a complete", both(image("hr/x.bmp", noise(64, 64)), cut("hr/x.bmp"))
        ),
        training(
            "cut off TIFF", "hr/x.tif: expected a complete", both(image("hr/x.tif", noise(64, 64)), cut("hr/x.tif"))
        ),
        training("empty PNG", "hr/x.png: expected a complete", file("hr/x.png")),
        training("text", "another kind of file", file("hr/x.png", "hello")),
        training("60000 x 60000 pixels", "60000 x 60000 pixels, more than", file("hr/x.png", forged_png())),
        training("one pixel", "image 'x': expected at least 16 x 16", image("hr/x.png", noise(1, 1))),
        training("animated", "2 frames or pages", image("hr/x.png", noise(32, 32), noise(32, 32).rotate(90))),
        training("pages", "2 frames or pages", image("hr/x.tif", noise(32, 32), noise(32, 32))),
        training("pipe", "a pipe or device", lambda: os.mkfifo("hr/x.png")),
        training("broken link", "no such file", lambda: Path("hr/x.png").symlink_to("none")),
        training("two of one name", "distinct names", image("hr/1.bmp", noise(32, 32))),
        training("pickle that runs code", "asks for 'posix.mkdir' (refused", pickles([Code()])),
        training("pickle of floats", "dtype", pickles([np.zeros((32, 32, 3))])),
        training("pickle of text", "a value of type str", pickles("hello")),
        training("cut off pickle", "could not read it", both(pickles(arrays), cut("h.pkl"))),
        training("pickles that do not pair", "expected 1 LR images", pickles(arrays, arrays * 2)),
        training("no pickle", "h.pkl: expected a pickle file", both(pickles(arrays), lambda: Path("h.pkl").unlink())),
        testing("one LR image less", "found none for 1: 1.png", lambda: Path("lr_test/1.png").unlink()),
        testing("other LR names", "expected partners", renamed("lr_test/1.png", "lr_test/other.png")),
        testing("LR of scale 2", "scale: 2 would fit", image("lr_test/1.png", noise(16, 16))),
        testing("LR turned", "expected 8 x 8 pixels", image("lr_test/1.png", noise(8, 9))),
        testing("long name", "at most 200 bytes", both(
            renamed("hr_test/1.png", f"hr_test/{LONG}.png"), renamed("lr_test/1.png", f"lr_test/{LONG}.png"))),
        testing("name not in UTF-8", "in UTF-8", both(
            renamed("hr_test/1.png", b"hr_test/\xff.png"), renamed("lr_test/1.png", b"lr_test/\xff.png"))),
        testing("line break in a name", "control characters", both(
            renamed("hr_test/1.png", "hr_test/a\nb.png"), renamed("lr_test/1.png", "lr_test/a\nb.png"))),
        testing("no input", "none: expected a folder of images", nothing, "--input", "none"),
        testing("input is text", "another kind of file", nothing, "--input", "run.yml"),
        testing("input is a device", "/dev/zero: expected", nothing, "--input", "/dev/zero"),
        testing("no test set", "datasets: expected at least one", replaced("test_few", "val")),
        testing("two sets of one name", "names two data sets", replaced(
            "  test_few: {", "  test_b: {mode: folder, dataroot_GT: hr, name: test_few}\n  test_few: {")),
    ]  # fmt: skip


def _weights() -> list[Bad]:
    def bad(name: str, message: str, given: str, spoil: Spoil = nothing) -> Bad:
        return Bad(f"weights: {name}", message, ("test.py", "-opt", "run.yml", "--weights", given), spoil)

    def other(override: str, message: str) -> list[Bad]:
        spoils = {given: other_weights(override, given) for given in ("w.safetensors", "w.pth")}
        return [bad(f"{override}, {given}", message if given == "w.safetensors" else "of another network", given, spoil)
                for given, spoil in spoils.items()]  # fmt: skip

    ours, theirs = "w.safetensors", "w.pth"
    return [
        bad("none", "none.safetensors: expected a .safetensors", "none.safetensors"),
        bad("not trained yet", "expected a .safetensors", "hr"),
        bad("suffix", "expected a .safetensors or published .pth file, got '.zip'", "state.zip"),
        bad("cut off", "damaged or no safetensors file", "good.safetensors", cut("good.safetensors")),
        bad("empty", "damaged or no safetensors file", ours, file(ours)),
        bad("text", "damaged or no safetensors file", ours, file(ours, "hello " * 100)),
        bad("aliases in metadata", "values", ours, other_weights("", ours, options=LAUGHS)),
        bad("no YAML in metadata", "not valid YAML", ours, other_weights("", ours, options="[")),
        bad("text in metadata", "metadata are damaged", ours, other_weights("", ours, options="hello")),
        bad("width in metadata", "metadata are damaged", ours, both(
            other_weights("", ours, options="network_G: {gc: 1000000}"), replaced("gc: 4, ", ""))),
        bad(".pth of text", "no .pth file", theirs, file(theirs, "hello")),
        bad(".pth that runs code", "refused, nothing in it was run", theirs, torch_file(theirs, {"x": Code()})),
        bad("pickle that runs code", "refused, nothing in it was run", theirs, pickled(theirs, Code())),
        bad(".pth compressed", "got a compressed one", theirs, compressed(theirs)),
        bad(".pth of a list", "expected a state dict", theirs, torch_file(theirs, [1])),
        bad(".pth of numbers", "expected a state dict", theirs, torch_file(theirs, {"x": 1})),
        bad(".pth without data", "not in the file", theirs, torch_file(theirs, {"x": torch.zeros(1).expand(10**12)})),
        bad(".pth of a sparse tensor", "plain tensors", theirs, torch_file(theirs, {"x": torch.eye(3).to_sparse()})),
        bad(".pth with forged names", "expected the checkpoint of a flow", theirs, torch_file(
            theirs, {"RRDB_trunk.999999999.RDB1.conv5.bias": torch.zeros(3), "conv5.bias": torch.zeros(())})),
        *other("network_G.flow.K=2", "network_G.flow.K: the weights were trained with 2, the options say 1"),
        *other("network_G.flow.L=3|network_G.flow.S=1|datasets.train.GT_size=16", "network_G.flow.L: the weights were"),
        *other("network_G.nf=12", "network_G.nf: the weights were trained with 12"),
        *other("network_G.flow.coupling=rq_spline", "network_G.flow.coupling"),
        *other("scale=8", "scale: the weights were trained with 8, the options say 4"),
        bad("of SRFlow", "model", ours, other_weights("model=SRFlow|network_G.flow.S=0", ours)),
        bad("encoder alone", "of another network", ours, other_weights("model=RRDB|network_G.flow.S=0", ours)),
        Bad("start: code", "refused", (*TRAIN, "--override", "path.pretrain_model_G=w.pth"),
            torch_file(theirs, {"x": Code()})),
        Bad("start: other nf", "weights of another network",
            (*TRAIN, "--override", "path.pretrain_model_G=w.safetensors"),
            other_weights("network_G.nf=12", ours)),
        Bad("resume: no file", "no such file", (*TRAIN, "--resume", "none.state"), nothing),
    ]  # fmt: skip


def _folders() -> list[Bad]:
    return [
        Bad("results: a file", "cannot be used", TEST, file("results")),
        Bad("output: a file", "expected a folder for the results, got a file", (*TEST, "--output", "run.yml"), nothing),
        Bad("output: below a file", "run.yml", (*TEST, "--output", "run.yml/x"), nothing),
        Bad("experiments: a file", "cannot be used", TRAIN, file("experiments")),
        Bad("results: link out", "leads to", TEST, linked("results/tiny/test_few", "elsewhere")),
        Bad("records: link out", "leads to", TEST, linked("results/tiny/records", "elsewhere")),
        Bad("models: link out", "leads to", (*TRAIN, "--resume", "auto"),
            linked("experiments/tiny/models", "elsewhere")),
    ]  # fmt: skip


def _commands() -> list[Bad]:
    metrics = '{"name": "x", "protocol": {}, "datasets": {"a": 3}}'
    return [
        Bad("compare: nothing", "metrics.json, found none", ("compare", "hr"), nothing),
        Bad("compare: no JSON", "expected JSON", ("compare", "x"), file("x/metrics.json", "{")),
        Bad("compare: not UTF-8", "expected JSON", ("compare", "x"), file("x/metrics.json", b"\xff")),
        Bad("compare: deep", "expected JSON", ("compare", "x"), file("x/metrics.json", "[" * 100_000)),
        Bad("compare: no figures", "expected", ("compare", "x"), both(
            file("x/metrics.json", metrics), file("x/metrics.csv", "dataset,image\n"))),
        Bad("report: names that lead out", "expected", ("report", "x"), both(
            file("x/metrics.json", metrics.replace("3", '{"heats": {}}')),
            file("x/metrics.csv", "dataset,image,heat,sample\na,../../secret,0.9,0\n"))),
        Bad("convert: suffix", "expected a .safetensors file",
            ("convert", "-opt", "run.yml", "--weights", "good.safetensors", "--output", "x.pth"), nothing),
        Bad("enhance: onto itself", "apart from", ("enhance", "hr", "hr"), nothing),
        Bad("enhance: link out", "leads to", ("enhance", "in", "out"), both(
            lambda: Path("in/a").mkdir(parents=True), image("in/a/0.png", noise(8, 8)), linked("out/a", "elsewhere"))),
        Bad("study: no samples", "val.n_sample", ("study", "best-of-n", "-opt", "run.yml", "--n", "0"), nothing),
        Bad("score: few patches", "--n-patches: expected at least", (
            "ood", "fit", "-opt", "run.yml", "--weights", "good.safetensors", "--n-patches", "1"), nothing),
        Bad("score: none", "expected the OOD score",
            ("ood", "rank", "-opt", "run.yml", "--weights", "good.safetensors"), nothing),
        Bad("options: none", "no such file", ("options", "none.yml"), nothing),
    ]  # fmt: skip


CORPUS = [*_options(), *_data(), *_weights(), *_folders(), *_commands()]
