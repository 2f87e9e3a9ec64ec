"""What can be fetched: addresses, where the content goes, and the pages of sets that ask for a form.

Checksums are those that others verify with, too: of DIV2K, TensorFlow Datasets; of Flickr2K and Urban100, torchsr and
DeepInverse (MD5); of AlexNet, torchvision (the digits in its name); of files on Hugging Face, the object's own name.
"""

from typing import NamedTuple

# Archives are kept here until they are unpacked, and the checksums of what came from them.
FOLDER = "datasets/downloads"
_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K"
_HUB = "https://huggingface.co"
_SELF_EXAMPLES = "https://github.com/jbhuang0604/SelfExSR"
_IMAGES = r"(?:.*/)?[^/.][^/]*\.(?:png|bmp|jpg)"


class Published(NamedTuple):
    """A file that others publish.

    Attributes:
        url: Its address; its last part names the file.
        place: Where its content goes, from the folder of the project: a file, or a folder for members of an archive;
            {hub} is torch's hub cache.
        page: What to read about it.
        members: Regular expression of the members of an archive that are wanted; None for a file that is no archive.
        checksum: "sha256:…" or "md5:…"; None where none is known.
        size: In bytes, where it is known exactly.
        mirror: The address is not its authors'.
    """

    url: str
    place: str
    page: str
    members: str | None = None
    checksum: str | None = None
    size: int | None = None
    mirror: bool = False

    @property
    def name(self) -> str:
        """Of the file."""
        return self.url.rpartition("/")[2]


def _of_hub(name: str, revision: str, checksum: str | None) -> Published:
    """A test set of super-resolution, as a revision of its repository on Hugging Face has it."""
    url = f"{_HUB}/datasets/eugenesiow/{name}/resolve/{revision}/data/{name}_HR.tar.gz"
    return Published(url, f"datasets/{name}/HR", _SELF_EXAMPLES, _IMAGES, checksum, mirror=True)


def _of_esrgan(name: str, digest: str) -> Published:
    url = f"{_HUB}/databuzzword/esrgan/resolve/bc7c483933e234850fe76a1578935cf8603ff51b/{name}"
    page = "https://github.com/xinntao/ESRGAN"
    return Published(url, f"pretrained_weights/{name}", page, None, f"sha256:{digest}", 66929193, mirror=True)


def _of_div2k(split: str, place: str, digest: str, size: int) -> Published:
    url = f"{_DIV2K}/DIV2K_{split}_HR.zip"
    return Published(url, place, f"{_DIV2K}/", _IMAGES, f"sha256:{digest}", size)


def _of_iqa(name: str) -> Published:
    url = f"{_HUB}/chaofengc/IQA-PyTorch-Weights/resolve/main/{name}"
    return Published(url, f"{{hub}}/pyiqa/{name}", f"{_HUB}/chaofengc/IQA-PyTorch-Weights")


_TRAIN = _of_div2k(
    "train", "datasets/DF2K/train_HR", "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335", 3530603713
)
_VALID = _of_div2k(
    "valid", "datasets/DIV2K/valid_HR", "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc", 448993893
)
# By the name that is asked for: what it is, and its files.
FILES: dict[str, tuple[str, tuple[Published, ...]]] = {
    "alexnet": (
        "backbone of LPIPS and of the diversity score",
        (
            Published(
                "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
                "pretrained_weights/alexnet-owt-7be5be79.pth",
                "https://pytorch.org/vision/stable/models.html",
                None,
                "sha256:7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
                244408911,
            ),
        ),
    ),
    "div2k": ("800 images for training, 100 for validation", (_TRAIN, _VALID)),
    "div2k_valid": ("the 100 images for validation alone", (_VALID,)),
    "flickr2k": (
        "2650 images for training, beside DIV2K's",
        (
            Published(
                "https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar",
                "datasets/DF2K/train_HR",
                "https://github.com/limbee/NTIRE2017",
                r"(?:.*/)?Flickr2K_HR/[^/.][^/]*\.png",
                "md5:5d3f39443d5e9489bff8963f8f26cb03",
            ),
        ),
    ),
    "urban100": (
        "100 test images",
        (_of_hub("Urban100", "57309de03db02ac12ee09ad6127e7b815c211328", "md5:65d9d84a34b72c6f7ca1e26a12df1e4c"),),
    ),
    "set5": (
        "5 test images",
        (
            _of_hub(
                "Set5",
                "325646fe7cc8811e312562437885c5c018c74966",
                "sha256:260fc447296333f6c2716bcd65513968c33b666f21a905537ee3330c51a1945b",
            ),
        ),
    ),
    "set14": ("14 test images", (_of_hub("Set14", "5c964717e61b4931236a6dd5561750d11e5a7abb", None),)),
    "bsd100": (
        "100 test images",
        (
            _of_hub(
                "BSD100",
                "600666edcba3b8386c367fcb03e72424a1ff9f86",
                "sha256:333495ccded04a0db52b33361140821ea7e0d8af8dfb54b58df79a00010858d6",
            ),
        ),
    ),
    "esrgan": (
        "RRDB_PSNR_x4.pth and RRDB_ESRGAN_x4.pth",
        (
            _of_esrgan("RRDB_PSNR_x4.pth", "f372b59f22929e1bc83fa58d78215c96f976de3b2eaeee736da1b348913da6cc"),
            _of_esrgan("RRDB_ESRGAN_x4.pth", "65fece06e1ccb48853242aa972bdf00ad07a7dd8938d2dcbdf4221b59f6372ce"),
        ),
    ),
    "srflow": (
        "RRDB_DF2K_4X.pth, RRDB_DF2K_8X.pth and SRFlow's own weights",
        (
            Published(
                "http://data.vision.ee.ethz.ch/alugmayr/SRFlow/pretrained_models.zip",
                "pretrained_weights",
                "pretrained_weights/README.md",
                r"(?:.*/)?[^/.][^/]*\.pth",
            ),
        ),
    ),
    "iqa": (
        "parameters of NIQE and BRISQUE for pyiqa",
        (_of_iqa("niqe_matlab_params.mat"), _of_iqa("brisque_matlab.mat")),
    ),
}
# Sets whose terms ask for a form, or that lie where only a browser gets them: their page, and where they go.
FORMS: dict[str, tuple[str, str]] = {
    "celeba": ("https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html", "datasets/CelebA"),
    "lol": ("https://daooshee.github.io/BMVC2018website/", "datasets/LOL"),
    "lolv2": ("https://github.com/flyywh/CVPR-2020-Semi-Low-Light", "datasets (see datasets/README.md)"),
    "velol": ("https://flyywh.github.io/IJCV2021LowLight_VELOL/", "datasets (see datasets/README.md)"),
}
