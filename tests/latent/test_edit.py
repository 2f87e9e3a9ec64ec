import math
from typing import Literal

import pytest
import torch
from photographs import piece
from pydantic import Field

from robustflow.data.bicubic import downsample, upsample
from robustflow.data.degradations import Degradation, Noise
from robustflow.data.images import to_float, to_uint8, write_png
from robustflow.evaluation.metrics.fidelity import lr_psnr
from robustflow.evaluation.metrics.images import psnr
from robustflow.latent import edit
from robustflow.latent.inputs import find_offset, read_mask
from robustflow.latent.measure import measure, to_table
from robustflow.latent.restore_study import describe_degradations, parse_degradation
from robustflow.latent.space import LatentSpace, lr_of, normalise
from robustflow.options.schema import DegradationOptions
from robustflow.registry import DEGRADATIONS
from robustflow.utils.errors import UserError


class FogOptions(DegradationOptions):
    type: Literal["fog"] = "fog"
    density: float = Field(0.5, description="Share of white.")
    white: float = Field(1.0, description="What white is.")


@pytest.fixture
def model(make_model):
    return make_model()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def close(image, expected, tolerance=1e-4):
    torch.testing.assert_close(image, to_float(expected), atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", [(48, 40), (33, 27)])
def test_an_image_in_its_own_style_is_itself(model, size):
    close(edit.transfer_style(LatentSpace.of(model, piece(0, *size)), piece(0, *size)), piece(0, *size))


@pytest.mark.parametrize("size", [(48, 40), (33, 27)])
def test_restored_images_have_latents_normalised_spatially_then_locally(model, size):
    image = piece(0, *size)
    space = LatentSpace.of(model, image)
    wanted = normalise(space.encode(image), ["spatial", "local"], 0.49, generator())
    close(edit.restore(space, image, 0.7, generator()), space.decode(wanted)[0], 1e-6)
    assert abs(torch.cat([z.flatten() for z in wanted]).var().item() - 0.49) < 0.05


def test_transferred_content_has_latents_normalised_locally(model):
    mask = torch.zeros(48, 40, dtype=torch.bool)
    mask[8:24, 8:24] = True
    pasted, result = edit.transfer_content(LatentSpace.of(model, piece(0)), piece(0), piece(1), mask, 0.7, generator())
    space = LatentSpace.of(model, piece(0))
    wanted = normalise(space.encode(pasted[None]), ["local"], 0.49, generator(), space.masks(mask))
    close(result, space.decode(wanted)[0], 1e-6)


def test_style_is_that_of_the_source_and_lr_that_of_the_target(model):
    result = edit.transfer_style(LatentSpace.of(model, piece(0)), piece(1))
    lr = LatentSpace.of(model, piece(0))
    for z, expected in zip(lr.encode(result[None]), LatentSpace.of(model, piece(1)).encode(piece(1)), strict=True):
        torch.testing.assert_close(z, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(48, 40), (45, 38)])
def test_a_region_that_is_all_of_the_source_is_a_transfer_of_style(make_model, size):
    model = make_model(L=3)
    space, everything = LatentSpace.of(model, piece(0, *size)), torch.ones(size, dtype=torch.bool)
    result = edit.transfer_region(space, piece(0, *size), piece(1, *size), everything)
    assert torch.equal(result, edit.transfer_style(space, piece(1, *size)))


@pytest.mark.parametrize(("source", "offset"), [((48, 40), (0, 0)), ((30, 64), (8, -24)), ((60, 29), (-24, 8))])
def test_latents_of_a_region_lie_where_it_goes_and_the_others_stay(make_model, source, offset):
    model = make_model(L=3)
    space, other = LatentSpace.of(model, piece(0, 45, 38)), piece(1, *source)
    mask = torch.zeros(source, dtype=torch.bool)
    mask[26:29, 25:28] = True
    own, taken = space.encode(piece(0, 45, 38)), LatentSpace.of(model, other).encode(other)
    found = edit.paste(space, own, taken, mask, offset)
    for level, before, z, after in zip(space.levels, own, taken, found, strict=True):
        cell = 2**level
        rows, columns = (range(first // cell, -(-last // cell)) for first, last in ((26, 29), (25, 28)))
        expected = before.clone()
        for row in rows:
            for column in columns:
                expected[..., row + offset[0] // cell, column + offset[1] // cell] = z[..., row, column]
        assert torch.equal(after, expected) and not torch.equal(after, before)


def test_a_region_that_sticks_out_is_cut(model):
    space, other = LatentSpace.of(model, piece(0)), piece(1, 16, 16)
    own, taken = space.encode(piece(0)), LatentSpace.of(model, other).encode(other)
    found = edit.paste(space, own, taken, torch.ones(16, 16, dtype=torch.bool), (40, -12))
    for level, before, z, after in zip(space.levels, own, taken, found, strict=True):
        rows, columns = 8 // 2**level, 4 // 2**level
        assert torch.equal(after[..., -rows:, :columns], z[..., :rows, -columns:])
        assert torch.equal(after[..., :-rows, :], before[..., :-rows, :])
        assert torch.equal(after[..., columns:], before[..., columns:])
    with pytest.raises(ValueError, match="multiples of 4 as offset, got"):
        edit.paste(space, own, taken, torch.ones(16, 16, dtype=torch.bool), (2, 0))


@pytest.mark.parametrize(
    ("place", "offset"),
    [(None, (0, 0)), ((10, 5), (0, 0)), ((11, 11), (0, 8)), ((24, 23), (8, 16)), ((0, 0), (-8, 0)), ((25, 0), (8, 0))],
)
def test_regions_go_to_the_nearest_multiple_within_the_image(place, offset):
    mask = torch.zeros(60, 30, dtype=torch.bool)
    mask[10:25, 5:20] = True
    assert find_offset(mask, place, (40, 38), 8) == offset
    assert find_offset(torch.zeros_like(mask), place, (40, 38), 8) == (0, 0)
    assert find_offset(mask, (26, 5), (41, 38), 8) == (16, 0)  # to the very edge
    with pytest.raises(UserError, match="LEFT,TOP of at most 0,0"):
        find_offset(torch.ones(8, 8, dtype=torch.bool), (1, 0), (8, 8), 8)


def test_lr_images_are_made_with_the_kernel_of_training(make_model):
    training = {"mode": "bundled", "GT_size": 16, "downsampling": "bilinear"}
    test = {**training, "downsampling": "area"}
    for sets, kernel in (({"test": test, "train": training}, "bilinear"), ({"test": test}, "area"), ({}, "bicubic")):
        model = make_model()
        model.options = model.options.model_validate({**model.options.model_dump(), "datasets": sets})
        lr = lr_of(model, piece(0))
        assert torch.equal(lr, downsample(piece(0), 4, kernel))
        # Bicubically downsampled, the image would not agree.
        assert measure(model, to_float(piece(0)), lr)["lr_psnr"] == math.inf
        projected = edit.back_project(0.5 * to_float(piece(0)), to_float(lr), 4, 30, kernel)
        assert measure(model, projected, lr)["lr_psnr"] > 45


def test_one_pixel_that_is_not_finite_leaves_a_result_without_lr_psnr(model):
    image, lr = to_float(piece(0)), downsample(piece(0), 4)
    image[1, 20, 30] = math.nan
    assert measure(model, image, lr) == {"lr_psnr": None, "pixel_errors": pytest.approx(100 / (48 * 40))}


def test_tables_have_a_column_for_each_figure_of_any_row():
    rows = {"a": {"psnr": 30.0}, "b": {"lr_psnr": 45.0, "psnr": None}}
    assert to_table("x", rows) == [["x", "LR-PSNR", "PSNR"], ["a", "–", "30"], ["b", "45", "–"]]


def test_content_transfer_with_an_empty_mask_is_the_target(model):
    empty = torch.zeros(48, 40, dtype=torch.bool)
    pasted, result = edit.transfer_content(LatentSpace.of(model, piece(0)), piece(0), piece(1), empty, 0.7, generator())
    assert torch.equal(pasted, to_float(piece(0)))
    close(result, piece(0))


def test_content_transfer_changes_the_masked_latents_alone(model):
    mask = torch.zeros(48, 40, dtype=torch.bool)
    mask[8:24, 8:24] = True
    pasted, result = edit.transfer_content(LatentSpace.of(model, piece(0)), piece(0), piece(1), mask, 0.7, generator())
    assert torch.equal(pasted[:, mask], to_float(piece(1))[:, mask])
    assert torch.equal(pasted[:, ~mask], to_float(piece(0))[:, ~mask])
    space = LatentSpace.of(model, piece(0))
    latents = zip(space.encode(result[None]), space.encode(pasted[None]), space.masks(mask), strict=True)
    for z, before, where in latents:
        torch.testing.assert_close(z[~where.expand_as(z)], before[~where.expand_as(z)], atol=1e-3, rtol=0)
        assert not torch.allclose(z[where.expand_as(z)], before[where.expand_as(z)], atol=1e-2)


def test_restoring_with_an_empty_mask_changes_nothing(model):
    empty = torch.zeros(48, 40, dtype=torch.bool)
    close(edit.restore(LatentSpace.of(model, piece()), piece(), 0.7, generator(), mask=empty), piece())
    whole = edit.restore(LatentSpace.of(model, piece()), piece(), 0.7, generator())
    assert not torch.allclose(whole, to_float(piece()), atol=1e-2)
    assert torch.equal(whole, edit.restore(LatentSpace.of(model, piece()), piece(), 0.7, generator()))


def test_interpolation_begins_and_ends_with_samples(model):
    lr = downsample(piece(), 4)
    first, middle, last = edit.interpolate(LatentSpace(model, lr), 3, 0.9, (generator(1), generator(2)))
    with torch.no_grad():
        ends = model.prepare(to_float(lr)[None])(0.9, [generator(1), generator(2)])
    torch.testing.assert_close(torch.stack([first, last]), ends, atol=1e-5, rtol=0)
    assert not torch.allclose(middle, (first + last) / 2, atol=1e-3)


def test_an_encoding_that_failed_is_not_replaced_by_a_sample(model, monkeypatch):
    failed = [z * torch.nan for z in LatentSpace.of(model, piece()).encode(piece())]
    monkeypatch.setattr(LatentSpace, "encode", lambda self, image: failed)
    assert edit.restore(LatentSpace.of(model, piece()), piece(), 0.7, generator()).isnan().all()


@pytest.mark.parametrize("size", [(48, 40), (45, 38)])
def test_back_projection_of_what_explodes_counts_in_the_written_image(size):
    lr = downsample(piece(0, *size), 4)
    image = to_float(piece(0, *size)) + 0.1 * torch.randn(3, *size, generator=generator())
    image[:, 10:20, 10:20] = 1e6
    found = edit.back_project(image, to_float(lr), 4, 30)
    assert found.shape == image.shape and found.min() >= 0 and found.max() <= 1
    assert lr_psnr(to_uint8(found), lr, 4) > 45 > 20 > lr_psnr(to_uint8(image), lr, 4)


def test_back_projection_approaches_the_lr_image():
    image = torch.rand(3, 48, 40, generator=generator())
    lr = to_float(downsample(piece(), 4))
    errors = [(downsample(edit.back_project(image, lr, 4, n), 4) - lr).abs().max().item() for n in (0, 1, 5, 30)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * errors[0]
    assert torch.equal(edit.back_project(image, lr, 4, 0), image)
    once = edit.back_project(image, lr, 4, 1)
    assert torch.equal(once, (image + upsample(lr - downsample(image, 4), 4)).clamp(0, 1))
    assert torch.equal(edit.back_project(image, lr, 4, 2), edit.back_project(once, lr, 4, 1))


@pytest.mark.parametrize("text", ["noise=20", "jpeg=10", "blur=1.5", "enhance={kernel: unit}", "gain=0.75"])
def test_degradations_degrade_reproducibly(text):
    one, same = (parse_degradation(text)[1](piece(), generator(3)) for _ in range(2))
    assert one.dtype == torch.uint8
    assert torch.equal(one, same)
    assert 15 < psnr(one, piece()) < 35


def test_noise_has_the_strength_asked_for():
    grey = torch.full((3, 100, 100), 128, dtype=torch.uint8)
    noisy = Noise(20 / 255)(grey, generator())
    assert abs(noisy.double().std().item() - 20) < 0.5
    assert torch.equal(grey, Noise(0)(grey, generator()))


def test_masks_are_bright(tmp_path):
    grey = torch.tensor([0, 100, 127, 128, 255], dtype=torch.uint8).expand(3, 1, 5)
    write_png(tmp_path / "mask.png", grey)
    assert read_mask(str(tmp_path / "mask.png"), (1, 5)).tolist() == [[False, False, False, True, True]]
    assert read_mask("1,0,2,1", (1, 5)).tolist() == [[False, True, True, False, False]]


@pytest.mark.parametrize(
    "text",
    [
        *("noise", "noise=0", "noise=-1", "noise=x", "jpeg=0", "jpeg=10.5", "rain=3", "blur=x", "blur=0.01", "blur={}"),
        *("invert=1", "gain=[1", "noise={std: 0.1, on: LR}", "noise=", "=3", ""),
    ],
)
def test_unknown_degradations_are_refused(text):
    with pytest.raises(UserError, match="--degrade: expected noise=X"):
        parse_degradation(text)


def test_degradations_are_those_registered():
    @DEGRADATIONS.register("fog", FogOptions)
    class Fog(Degradation):
        def __init__(self, density, white):
            self.density, self.white = density, white

        def degrade(self, image, generator):
            return (1 - self.density) * image + self.density * self.white

    assert "; fog=X: Share of white" in describe_degradations()
    for text, name, white in (
        ("fog=0.25", "fog=0.25", 1.0),
        ("fog={density: 0.25, white: 0.5}", "fog(density=0.25, white=0.5)", 0.5),
    ):
        found, fog = parse_degradation(text)
        assert found == name
        assert torch.equal(fog(piece()), to_uint8(0.75 * to_float(piece()) + 0.25 * white))
    with pytest.raises(UserError, match=r"got fog=\{dense: 1\}: expected density, white, got dense"):
        parse_degradation("fog={dense: 1}")


@pytest.mark.parametrize(("text", "std"), [("noise=20", 20 / 255), ("noise={std: 0.2}", 0.2)])
def test_noise_is_of_255_or_as_the_option_is(text, std):
    assert parse_degradation(text)[1].std == std
