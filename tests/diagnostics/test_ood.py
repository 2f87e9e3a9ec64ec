import dataclasses
import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch

from robustflow.data.images import write_png
from robustflow.diagnostics.ood import mahalanobis, patches
from robustflow.evaluation.description import describe_ood_fit
from robustflow.models import weights
from robustflow.utils.errors import UserError

TRAIN = {"mode": "bundled", "split": "train", "GT_size": 16}


@pytest.fixture
def model(make_options, make_model):
    """A tiny model that has a training set."""
    options = make_options(datasets={"train": TRAIN})
    model = make_model(options)
    model.options = options
    return model


@pytest.fixture
def score(model):
    options = model.options
    return mahalanobis.fit(model, mahalanobis.training_patches(options, 32, 0), 40)


def lr_of(*shape):
    return torch.rand(*shape, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def test_features_are_the_mean_taps(model):
    encoder = model.encoder
    with torch.no_grad():
        expected = encoder(lr_of(2)).taps.double().mean((-2, -1))
    features = mahalanobis.features_of(model, lr_of(2))
    assert features.dtype == torch.float64 and not features.requires_grad
    torch.testing.assert_close(features, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(mahalanobis.features_of(model, lr_of(2)[1:]), features[1:], rtol=1e-5, atol=1e-7)


class EvenOnly(torch.nn.Module):
    """An encoder whose taps are the image, and which takes multiples of 8 only."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, lr):
        assert lr.shape[-2] % 8 == 0 and lr.shape[-1] % 8 == 0
        self.taps = self.scale * lr
        return self


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (15, 24), (16, 23), (16, 24)], ids=str)
def test_features_of_any_size_leave_out_what_is_padded(model, size):
    lr = lr_of(2)[..., : size[0], : size[1]]
    even = SimpleNamespace(encoder=EvenOnly(), encoder_input=lambda lr: lr)
    torch.testing.assert_close(mahalanobis.features_of(even, lr), lr.double().mean((-2, -1)))
    assert mahalanobis.features_of(model, lr).isfinite().all()


def test_features_leave_the_mode_as_it_was(model):
    encoder = model.encoder
    for training in (True, False):
        encoder.train(training)
        mahalanobis.features_of(model, lr_of(1))
        assert encoder.training is training


def test_percentiles_are_ranks_among_training_patches(score):
    assert score.quantiles.shape == (1001,)
    assert score.percentile(-1) == 0 and score.percentile(math.inf) == 100
    assert score.percentile(score.quantile(50)) == pytest.approx(50, abs=0.1)
    assert score.quantile(50) <= score.quantile(95) <= score.quantile(99)
    assert score.mean_score == pytest.approx(8, rel=0.9)  # 8 features


def test_precision_is_that_of_the_device(score, model):
    model.options = model.options.model_copy(update={"precision": "tf32"})
    assert patches.describe_protocol(model, score, 8, None, None, None)["precision"] == "fp32"  # on a CPU


def test_patches_cover_an_image(score, model):
    image = torch.rand(3, 11, 17, generator=torch.Generator().manual_seed(2))
    scores = score.of_patches(model, score.cut(image), batch=4)
    assert score.patch == 8
    corners = [(top, left) for top in (0, 3) for left in (0, 8, 9)]
    pieces = [image[None, :, top : top + 8, left : left + 8] for top, left in corners]
    expected = torch.cat([score.score(mahalanobis.features_of(model, piece)) for piece in pieces])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    mirrored = torch.cat([image[:, :5, :4], image[:, :5, :4].flip(2)], dim=2)
    mirrored = torch.cat([mirrored, mirrored[:, 2:].flip(1)], dim=1)
    own = score.score(mahalanobis.features_of(model, mirrored[None]))
    small = score.cut(image[:, :5, :4])
    torch.testing.assert_close(score.of_patches(model, small), own, rtol=1e-4, atol=1e-4)
    assert score.of_patches(model, score.cut(image[:, :8, :16])).shape == (2,)


def test_unlike_inputs_score_higher(score, model):
    crops = mahalanobis.training_patches(model.options, 32, 1)
    lr = torch.stack([crops[k]["lr"] for k in range(20)])
    usual, strange = (score.score(mahalanobis.features_of(model, x)).mean() for x in (lr, 3 * lr))
    assert strange > 3 * usual


def test_training_patches_are_fixed_and_upright(make_options, tmp_path):
    options = make_options(
        datasets={"train": {**TRAIN, "use_flip": True, "use_rot": True, "hr_shift": 4, "lr_noise": 0.1}}
    )
    crops = mahalanobis.training_patches(options, None, 0)
    assert (crops.size, crops.use_flip, crops.use_rot, crops.of_lr[0].std) == (160, False, False, 0.1)
    assert crops.hr_shift == 0
    assert mahalanobis.training_patches(options, 32, 0).size == 32
    assert torch.equal(crops[3]["lr"], mahalanobis.training_patches(options, None, 0)[3]["lr"])
    assert not torch.equal(crops[3]["lr"], mahalanobis.training_patches(options, None, 1)[3]["lr"])
    for name, size in {"large": (170, 170), "small": (40, 200)}.items():
        write_png(tmp_path / "in" / f"{name}.png", torch.rand(3, *size))
    small = make_options(datasets={"train": {"mode": "folder", "dataroot_GT": str(tmp_path / "in"), "GT_size": 16}})
    assert mahalanobis.training_patches(small, None, 0).size == 16
    with pytest.raises(UserError, match="at least 64 x 64 HR pixels"):
        mahalanobis.training_patches(small, 64, 0)
    with pytest.raises(UserError, match="expected the training set"):
        mahalanobis.training_patches(make_options(), None, 0)


def test_too_few_patches(model):
    options = model.options
    with pytest.raises(UserError, match="--n-patches: expected at least 10, got 9"):
        mahalanobis.fit(model, mahalanobis.training_patches(options, 16, 0), 9)


def test_fit_does_not_depend_on_the_batch(model, score):
    options = model.options
    other = mahalanobis.fit(model, mahalanobis.training_patches(options, 32, 0), 40, batch=7)
    torch.testing.assert_close(other.mean, score.mean, rtol=1e-5, atol=1e-6)
    assert other.shrinkage == pytest.approx(score.shrinkage, rel=1e-3)
    assert mahalanobis.fit(model, mahalanobis.training_patches(options, 32, 0), 40, shrinkage=0.5).shrinkage == 0.5


@pytest.fixture
def saved(model, score, tmp_path):
    """Weights file with the score beside it."""
    options = model.options
    file = tmp_path / "experiments" / "tiny" / "models" / "00000005_G.safetensors"
    weights.save(file, model, options, 5)
    mahalanobis.save(mahalanobis.file_beside(file), score)
    return file


def test_score_comes_back_from_beside_the_weights(saved, model, score):
    assert mahalanobis.file_beside(saved).name == "00000005_G.ood.safetensors"
    assert mahalanobis.file_beside(saved.with_suffix(".pth")) == mahalanobis.file_beside(saved)
    again = mahalanobis.load_beside(saved, model.encoder)
    for name, value in vars(score).items():
        assert (
            torch.equal(getattr(again, name), value) if name in mahalanobis._TENSORS else getattr(again, name) == value
        )
    assert again.describe() == score.describe()
    json.dumps(again.describe())


def test_a_file_says_what_its_mean_is_of(saved, score):
    found = mahalanobis.load(mahalanobis.file_beside(saved)).describe()
    assert (found["covariance"], found["n_features"], found["n_patches"]) == ("shrunk", 8, 40)
    assert (found["mean_score_of"], found["in_sample_mean"]) == ("out of sample, ten-fold", score.in_sample_mean)
    _, metadata = weights.read(mahalanobis.file_beside(saved))
    assert json.loads(metadata["values"]) == {key: str(value) for key, value in found.items()}
    text = describe_ood_fit(found)
    assert text.startswith("Gaussian of 40 patches of 32 x 32, 8 features, covariance shrunk by ")
    own, crossed = f"{score.in_sample_mean:.4g}", f"{score.mean_score:.4g}"
    assert text.endswith(f"; their mean score {crossed} (out of sample, ten-fold), {own} (in sample)")


def test_an_earlier_file_does_not(saved, model, score):
    path = mahalanobis.file_beside(saved)
    tensors, metadata = weights.read(path)
    later = ("covariance", "n_features", "mean_score_of", "in_sample_mean", "least_colour")
    values = {key: value for key, value in json.loads(metadata["values"]).items() if key not in later}
    path.write_bytes(safetensors.torch.save(tensors, {**metadata, "values": json.dumps(values)}))
    found = mahalanobis.load_beside(saved, model.encoder)
    assert found.mean_score == score.mean_score and found.in_sample_mean is found.least_colour is None
    text = describe_ood_fit(found.describe())
    assert "8 features, covariance shrunk by" in text  # which follow from what it holds
    assert text.endswith(f"their mean score {score.mean_score:.4g} (in or out of sample: not recorded)")
    mahalanobis.save(path, found)
    assert mahalanobis.load(path).describe() == found.describe()


def test_an_empirical_fit(model):
    crops = mahalanobis.training_patches(model.options, 32, 0)
    found = mahalanobis.fit(model, crops, 40, shrinkage=0.0)
    assert found.describe()["covariance"] == "empirical"
    assert found.in_sample_mean == pytest.approx(8 * 39 / 40, rel=1e-9)
    assert found.mean_score > found.in_sample_mean
    assert "covariance empirical; " in describe_ood_fit(found.describe())


def test_scores_are_not_taken_for_weights(saved):
    assert weights.newest(saved.parents[1]) == saved
    assert weights.locate(str(saved.parents[1])) == saved


def test_no_score(saved, model, caplog):
    assert mahalanobis.load_beside(saved.with_name("00000009_G.safetensors"), model.encoder) is None
    assert caplog.text == ""


def test_score_of_other_weights_is_refused(saved, model, caplog):
    with torch.no_grad():
        model.encoder.conv_first.bias[0] += 1e-6
    assert mahalanobis.load_beside(saved, model.encoder) is None
    assert "fitted with another encoder than that of 00000005_G.safetensors; fit it again" in caplog.text


@pytest.mark.parametrize("damage", ["half", "weights"])
def test_damaged_score_is_refused(saved, model, caplog, damage):
    path = mahalanobis.file_beside(saved)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "half" else saved.read_bytes())
    assert mahalanobis.load_beside(saved, model.encoder) is None
    assert "OOD score not used" in caplog.text and str(path) in caplog.text


def test_digest_tells_encoders_apart(model, make_model):
    options = model.options
    same = make_model(options)
    encoder, other = model.encoder, same.encoder
    assert mahalanobis.digest(encoder) == mahalanobis.digest(other)
    other.taps = ()
    assert mahalanobis.digest(encoder) != mahalanobis.digest(other)


def test_one_line_warns_of_all_inputs_of_a_set_in_the_upper_percent():
    flat = torch.zeros(1)
    score = mahalanobis.OODScore(flat, flat, torch.linspace(0, 1000, 1001), 500.0, 0.0, 20, 40, 4, "")
    assert mahalanobis.unlike(score, {"a": 989.0}) == {}
    found = mahalanobis.unlike(score, {"a": 989.0, "b": 991.0, "c": 1e6, "d": math.nan})
    assert list(found) == ["d", "c", "b"]
    assert not [*mahalanobis.warnings("set", {}, {}, 3)]
    assert [*mahalanobis.warnings("set", {"c": 1e6, "b": 991.0}, {}, 3, "affine")] == [
        "set: 2 of 3 inputs have an OOD score above 99 % of the training patches, the highest 1e+06 (c): the model may "
        "fail there (coupling affine can explode); the report lists them"
    ]
    for coupling in ("exp_affine", "rq_spline", "soft_affine"):
        (line,) = mahalanobis.warnings("set", found, {}, 4, coupling)
        assert ("(coupling exp_affine can explode)" in line) == (coupling == "exp_affine")


def test_one_line_warns_of_all_inputs_of_a_set_with_less_colour_than_the_training_patches(score):
    assert mahalanobis.pale(dataclasses.replace(score, least_colour=None), {"a": 0.0}) == {}  # not recorded
    found = mahalanobis.pale(dataclasses.replace(score, least_colour=0.05), {"a": 0.049, "b": 0.0, "c": 0.05})
    assert found == {"b": 0.0, "a": 0.049} and [*found] == ["b", "a"]
    assert [*mahalanobis.warnings("set", {}, found, 3, "affine")] == [
        "set: 2 of 3 inputs have less colour than 99 % of the training patches, the least 0 (b; grey has 0): the model "
        "may tint them; the report lists them"
    ]


def test_colourfulness_by_its_formula(score, model):
    image = torch.rand(3, 6, 12, generator=torch.Generator().manual_seed(0))
    red, green, blue = image.double().numpy()
    expected = []
    for columns in (slice(0, 8), slice(4, 12)):  # patches of 8 x 8, mirrored below
        opponents = (red - green, (red + green) / 2 - blue)
        parts = [np.pad(x[:, columns], ((0, 2), (0, 0)), mode="symmetric") for x in opponents]
        expected.append(np.hypot(*map(np.std, parts)) + 0.3 * np.hypot(*map(np.mean, parts)))
    value, colour = score.bind(model)(image)
    assert colour == pytest.approx(np.mean(expected), rel=1e-12)
    assert value == score.of_patches(model, score.cut(image)).mean().item()
    assert score.bind(model)(image[:1].expand(3, -1, -1))[1] == 0  # grey


def test_fit_and_save_says_what_it_did(model, saved, caplog):
    caplog.set_level(logging.INFO)
    options = model.options
    mahalanobis.file_beside(saved).unlink()
    found = mahalanobis.fit_and_save(options, saved, model, n_patches=20)
    assert "20 patches of 160 x 160, 8 features" in caplog.text
    assert mahalanobis.load_beside(saved, model.encoder).describe() == found.describe()
