"""The example of docs/latent-space.md."""

import torch
from PIL import Image

from robustflow.commands import example
from robustflow.data.bicubic import downsample
from robustflow.data.images import read_image, write_png


def test_images(tmp_path, capsys):
    assert example.main(["images", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"
    cat, aside = read_image(tmp_path / "cat.png"), read_image(tmp_path / "aside.png")
    assert cat.shape == aside.shape == read_image(tmp_path / "cup.png").shape == (3, 192, 256)
    assert torch.equal(cat[:, 4:, 4:], aside[:, :-4, :-4])
    assert torch.equal(read_image(tmp_path / "cat_lr.png"), downsample(cat, 4))
    assert 18 < (read_image(tmp_path / "noisy.png").double() - cat).std() < 20
    assert sorted(file.name for file in (tmp_path / "cat_and_print").iterdir()) == ["cat.png", "print.png"]


def test_picture(tmp_path, caplog, capsys):
    assert example.main(["picture", str(tmp_path)]) == 2
    assert "chelsea_noise_20_degraded.png" in caplog.text
    for _, file, _ in example._SHOWN:
        write_png(tmp_path / file, torch.zeros(3, 300, 400))
    assert example.main(["picture", str(tmp_path)]) == 0
    assert "applications.jpg" in capsys.readouterr().out
    with Image.open(tmp_path / "applications.jpg") as picture:
        assert picture.size == (4 * 406 + 6, 5 * 324 + 6)
