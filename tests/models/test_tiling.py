import pytest
import torch

from robustflow.data.crops import Box
from robustflow.encoders import Encoder
from robustflow.models import tiling
from robustflow.models.tiling import Tile
from robustflow.utils.errors import UserError

GEOMETRIES = [
    # size, side, overlap, multiple
    ((12, 20), 4, 2, 2),
    ((12, 20), 5, 1, 2),
    ((14, 6), 4, 0, 2),
    ((7, 11), 3, 2, 1),
    ((7, 11), 100, 3, 1),
    ((1, 1), 1, 0, 1),
    ((1, 1), 5, 9, 1),
    ((2, 2), 1, 0, 2),
    ((9, 1), 2, 1, 1),
    ((64, 8), 8, 100, 4),
]


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# Geometry


def ends(box):
    """First and end of its rows, and of its columns."""
    return (box.top, box.top + box.height), (box.left, box.left + box.width)


@pytest.mark.parametrize(("size", "side", "overlap", "multiple"), GEOMETRIES)
def test_tiles_cover_the_image_once(size, side, overlap, multiple):
    covered = torch.zeros(size, dtype=torch.int)
    for outer, inner in tiling.tiles(size, side, overlap, multiple):
        inner.of(covered).add_(1)
        for length, (first, end), (inner_first, inner_end) in zip(size, ends(outer), ends(inner), strict=True):
            assert all(number % multiple == 0 for number in (first, end, inner_first, inner_end))
            assert first == 0 or first <= inner_first - overlap
            assert end == length or end >= inner_end + overlap
            assert 0 <= first <= inner_first < inner_end <= end <= length
            # No larger than asked for, but for rounding.
            assert (inner_first, inner_end) == (0, length) or inner_end - inner_first < side + multiple
            assert (first, end) == (0, length) or end - first < side + 2 * overlap + 3 * multiple
    assert (covered == 1).all()


def test_sides_are_rounded_up_and_the_last_tile_is_what_is_left():
    columns = [ends(tile.inner)[1] for tile in tiling.tiles((2, 10), 3, 0, 2)]
    assert columns == [(0, 4), (4, 8), (8, 10)]


def test_overlap_ends_at_the_border():
    columns = [ends(tile.outer)[1] for tile in tiling.tiles((2, 12), 4, 1, 2)]
    assert columns == [(0, 6), (2, 10), (6, 12)]


def test_a_tile_that_reads_everything_is_the_only_one():
    everything = Box(0, 0, 10, 10)
    assert tiling.tiles((10, 10), 2, 8) == [tiling.whole((10, 10))] == [Tile(everything, everything)]
    assert len(tiling.tiles((10, 40), 2, 8)) == 20


@pytest.mark.parametrize(("side", "overlap"), [(0, 0), (-1, 0), (4, -1)])
def test_senseless_tiles(side, overlap):
    with pytest.raises(ValueError, match=f"no negative overlap, got {side} and {overlap}"):
        tiling.tiles((8, 8), side, overlap)


@pytest.mark.parametrize(("size", "side", "overlap", "multiple"), GEOMETRIES)
@pytest.mark.parametrize("scale", [2, 4])
def test_cut_and_put_together(size, side, overlap, multiple, scale):
    x = torch.rand(2, 3, scale * size[0], scale * size[1])
    tiles = tiling.tiles(size, side, overlap, multiple)
    assert torch.equal(tiling.stitch(lambda tile: tiling.crop(x, tile.outer, size), tiles, size, scale), x)


def test_a_box_covers_the_same_part_at_every_resolution():
    box, size = Box(2, 4, 4, 4), (8, 12)
    lr = torch.arange(8 * 12).view(1, 8, 12)
    enlarged = lr.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(tiling.crop(enlarged, box, size)[:, ::4, ::4], tiling.crop(lr, box, size))
    assert torch.equal(tiling.crop(lr[:, ::2, ::2], box, size), tiling.crop(lr, box, size)[:, ::2, ::2])


# Receptive field


SHAPES = [
    {"scale": 4, "L": 2, "S": (0, 1), "K": 2},
    {"scale": 4, "L": 3, "S": (0, 2, 2), "K": 2},
    {"scale": 8, "L": 3, "S": (0, 0, 1), "K": 1},
    {"scale": 2, "L": 3, "S": (0, 1, 1), "K": 1},
    # With random weights of affine maps four levels explode.
    {"scale": 16, "L": 4, "S": (0, 0, 1, 1), "K": 1, "coupling": "soft_affine", "split": {"max_log_scale": 2}},
]


@pytest.fixture
def make_deep_model(make_model, perturb):
    """Make a tiny model in float64 whose heads are not zero."""

    def make(model="FS-NCSR", *, S, **options):
        model = make_model(model, S=S if model != "SRFlow" else (0,), nf=4, **options)
        return perturb(model, std=0.07)

    return make


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("where", ["condition", "first latent", "last latent"])
@torch.no_grad()
def test_nothing_beyond_the_receptive_field_matters(make_deep_model, shape, where):
    flow = make_deep_model(**shape).network
    radius, scale = flow.receptive_field, shape["scale"]
    of_flow = radius - flow.encoder.receptive_field
    multiple = flow.size_multiple // scale
    middle = radius + 2 * multiple + 1
    size = (multiple, multiple * -(-(2 * middle + 1) // multiple))
    lr = torch.rand(1, 3, *size, dtype=torch.float64)
    latents = [z.double() for z in flow.draw_latents((size[0] * scale, size[1] * scale), *generators(0))]
    before, _ = flow.decode(latents, lr)
    # The LR pixels changed, or covered by the latents changed.
    first, end = middle, middle + 1
    if where == "condition":
        lr[..., middle] += 10
    else:
        z = latents[0 if where == "first latent" else -1]
        column = middle * z.shape[-1] // size[1]
        z[..., column] += 10
        first, end = column * size[1] // z.shape[-1], -(-(column + 1) * size[1] // z.shape[-1])
    after, _ = flow.decode(latents, lr)

    changed = ((after - before).abs().amax((0, 1, 2)) > 0).unflatten(0, (-1, scale)).any(1).nonzero()[:, 0]
    reach = max(first - changed.min().item(), changed.max().item() - (end - 1))
    limit = radius if where == "condition" else of_flow
    assert reach <= limit
    # Latents split off early pass through fewer levels.
    assert reach > limit / 3 or where == "first latent"


def test_receptive_field_adds_up(make_deep_model):
    # Level 1 (2 pixels): 2 couplings and, as all but the last two levels split, a prior; level 2 (4): 2 + 2; level 3.
    model = make_deep_model(scale=4, L=3, S=(0, 2, 2), K=2)
    convolutions = 2 * (2 * 2 + 1) + 4 * (2 * 4) + 8 * (2 * 4)
    of_encoder = 1 + 3 * 5 + 1 + 1
    assert model.encoder.receptive_field == of_encoder
    assert model.network.receptive_field == -(-(convolutions + 7) // 4) + of_encoder


def test_encoders_that_do_not_tell_their_receptive_field(make_model):
    model = make_model()

    class Reticent(Encoder):
        def forward(self, condition):
            raise NotImplementedError

    model.network.encoder = Reticent()
    with pytest.raises(UserError, match=r"encoder Reticent has no receptive_field.* set val\.tile_overlap"):
        model.prepare(torch.rand(1, 3, 8, 8), tile=4)


# Sampling


TILED = [("FS-NCSR", SHAPES[0]), ("SRFlow", SHAPES[0]), ("FS-NCSR", SHAPES[1]), ("FS-NCSR", SHAPES[3])]


@pytest.mark.parametrize(("model", "shape"), TILED, ids=str)
@pytest.mark.parametrize(("size", "tile"), [((3, 131), 33), ((131, 2), 50), ((5, 7), 2), ((1, 120), 1)], ids=str)
@torch.no_grad()
def test_tiles_change_nothing(make_deep_model, model, shape, size, tile):
    model = make_deep_model(model, **shape)
    lr = torch.rand(1, 3, *size, dtype=torch.float64)
    whole, tiled = (model.prepare(lr, side)(0.9, generators(1, 2)) for side in (None, tile))
    assert whole.shape == (2, 3, shape["scale"] * size[0], shape["scale"] * size[1])
    torch.testing.assert_close(tiled, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", ["SRFlow", "NCSR", "FS-NCSR"])
@torch.no_grad()
def test_tiles_at_sixteen_times_the_size(make_deep_model, model):
    model = make_deep_model(model, **SHAPES[4])
    lr = torch.rand(1, 3, 1, 64, dtype=torch.float64)
    assert len(tiling.tiles((1, 64), 8, model.network.receptive_field)) > 1
    whole, tiled = (model.prepare(lr, side)(0.9, generators(1)) for side in (None, 8))
    torch.testing.assert_close(tiled, whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_tiles_in_both_directions(make_deep_model):
    model = make_deep_model("SRFlow", **SHAPES[0])
    lr = torch.rand(1, 3, 70, 75, dtype=torch.float64)
    whole, tiled = (model.prepare(lr, side)(0.9, generators(1)) for side in (None, 30))
    torch.testing.assert_close(tiled, whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_small_overlaps_leave_seams_there_alone(make_deep_model):
    model = make_deep_model("FS-NCSR", **SHAPES[0])
    radius, seam = model.network.receptive_field, 2 * model.network.receptive_field
    lr = torch.rand(1, 3, 2, 2 * seam, dtype=torch.float64)
    whole, cut = (model.prepare(lr, tile, overlap=0)(0.9, generators(1)) for tile in (None, seam))
    wide = model.prepare(lr, seam, overlap=radius // 2)(0.9, generators(1))
    of_cut, of_wide = ((x - whole).abs().amax((0, 1, 2)).unflatten(0, (-1, 4)).amax(1) for x in (cut, wide))
    assert of_cut[seam - 1 : seam + 1].min() > 1e-3
    assert max(of_cut[: seam - radius].max(), of_cut[seam + radius :].max()) < 1e-9
    assert of_wide.max() < of_cut.max() / 10


@torch.no_grad()
def test_each_tile_is_conditioned_once_for_all_samples_of_a_call(make_deep_model, monkeypatch):
    model = make_deep_model("SRFlow", **SHAPES[0])
    prepared = []
    condition = type(model.network).condition
    kind = type(model.network)
    monkeypatch.setattr(kind, "condition", lambda self, y: prepared.append(y.shape[-1]) or condition(self, y))
    lr = torch.rand(1, 3, 2, 10, dtype=torch.float64)
    draw = model.prepare(lr, tile=4, overlap=1)
    assert prepared == []
    draw(0.9, generators(1, 2, 3))
    assert prepared == [5, 6, 3]
    draw = model.prepare(lr, tile=10)
    draw(0.9, generators(1))
    draw(0.5, generators(1))
    assert prepared == [5, 6, 3, 10]


@pytest.mark.parametrize("scale", [2, 4, 8])
@torch.no_grad()
def test_tiles_of_the_encoder_alone(make_model, scale):
    model = make_model("RRDB", scale=scale)
    lr = torch.rand(1, 3, 3, 80, dtype=torch.float64)
    whole, tiled, cut = (model.double().prepare(lr, *tile)(0.9, generators(0)) for tile in ((None,), (30,), (30, 0)))
    torch.testing.assert_close(tiled, whole, rtol=1e-12, atol=1e-12)
    assert (cut - whole).abs().max() > 1e-6
