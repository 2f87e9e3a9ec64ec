"""Tables of recipes: intervals, differences and claims, over training seeds and inputs."""

import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import results_folder
from pydantic import ValidationError
from scipy import stats

from robustflow.evaluation import description
from robustflow.evaluation.metrics import choose
from robustflow.models import protocol
from robustflow.options.recipe import Claim, RecipeOptions, RunOfRecipe
from robustflow.options.schema import ValOptions
from robustflow.report import reproduction, seeds
from robustflow.report.results import read
from robustflow.utils.errors import UserError


def recipe_of(**changes):
    runs = [{"options": "x.yml", "label": "x", **changes}]
    return RecipeOptions.model_validate(
        {"title": "t", "source": "s", "runs": tuple(runs), "columns": ("pixel_error_pct", "psnr", "lr_psnr_min")}
    )


def measure(runs, key):
    return reproduction.measure(runs, "inside", "0.9", runs[0].columns[key])


def test_intervals_of_one_seed_and_of_several(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.normal(25, 1, (3, 3)) + generator.normal(0, 2, (3, 1))  # seeds, inputs
    runs = []
    for seed, of_inputs in enumerate(values):
        exploding = {("inside", "b")} if seed == 1 else ()
        run = read(results_folder.make(tmp_path / str(seed), exploding=exploding))
        psnr = dict(zip(results_folder.IMAGES["inside"], of_inputs, strict=True))
        run.frame["psnr"] = run.frame.image.map(psnr)
        run.metrics["datasets"]["inside"]["heats"]["0.9"]["psnr"] = of_inputs.mean()
        runs.append(run)
    rate = measure(runs[1:2], "pixel_error_pct")
    assert rate == pytest.approx((100 / 3, *results_folder.wilson(1, 3)), rel=1e-4)
    one = measure(runs[:1], "psnr")
    assert one[1:] == pytest.approx(stats.t.interval(0.95, 2, values[0].mean(), stats.sem(values[0])))
    parts = np.array([stats.sem(values.mean(0)) ** 2, stats.sem(values.mean(1)) ** 2])
    half = stats.t.ppf(0.975, parts.sum() ** 2 / (parts**2 / 2).sum()) * math.sqrt(parts.sum())
    expected = (values.mean(), values.mean() - half, values.mean() + half)
    assert measure(runs, "psnr") == pytest.approx(expected)
    # Of each seed, and of each input, 0, 100 / 3 and 0: Student's t alone would begin below 0.
    mean, low, high = measure(runs, "pixel_error_pct")
    assert low == 0 and mean == pytest.approx(100 / 9)
    assert high == pytest.approx(mean * (1 + math.sqrt(2) * stats.t.ppf(0.975, 4)))


def study_of(tmp_path, claims=(), reference="affine"):
    """A recipe of two models with two training seeds each, and what they found: b is better by 3 dB and never fails."""
    runs = tuple({"options": "x.yml", "label": label} for label in ("affine", "b"))
    recipe = RecipeOptions.model_validate(
        {
            "title": "t",
            "source": "s",
            "runs": runs,
            "seeds": (0, 1),
            "temperature": 0.9,
            "reference": reference,
            "columns": ("pixel_error_pct", "inf_pct", "max_residual", "psnr", "lr_psnr_min", "lpips", "ood_mean"),
            "claims": tuple(claims),
        }
    )
    found = []
    for run, offset in zip(recipe.runs, (0.0, 3.0), strict=True):
        for seed in (0, 1):
            exploding = {("out <b>side</b>", "sub/b")} if run.label == "affine" and seed == 1 else ()
            folder = tmp_path / run.label / str(seed)
            made = results_folder.make(folder, heats=(0.5, 0.9), offset=offset, exploding=exploding, ood=True)
            found.append((run, read(made)))
    return recipe, found


def test_models_are_compared_input_by_input(tmp_path):
    recipe, found = study_of(tmp_path)
    text = reproduction.write(recipe, found, tmp_path / "out")
    differences = [line for line in text.split("## Differences to affine")[1].splitlines() if line.startswith("| i")]
    assert [line.split("|")[2].strip() for line in differences] == ["0.9"]
    assert "**+3 [+3, +3] (0 / 2)**" in differences[0]
    outside = next(line for line in text.split("## Differences")[1].splitlines() if line.startswith("| out"))
    assert "−25 [−100, +100] (1 / 0)" in outside  # one of two inputs, with one of two seeds
    inputs = pd.read_csv(tmp_path / "out" / "inputs.csv")
    assert len(inputs) == 2 * 2 * 5 and set(inputs["τ"]) == {0.9}
    chosen = inputs[(inputs.model == "affine") & (inputs.seed == 1) & (inputs.input == "sub/b")]
    assert chosen.pixel_error_pct.tolist() == [100] and chosen.inf_pct.tolist() == [100]
    assert chosen.max_residual.tolist() == [math.inf]
    rows = found[1][1].of_set("out <b>side</b>", "0.9")
    assert chosen.psnr.iloc[0] == pytest.approx(rows[rows.image == "sub/b"].psnr.mean(), rel=1e-4)
    assert (tmp_path / "out" / "ood.png").is_file()


def test_claims_are_tried_with_each_seed(tmp_path):
    claims = [
        {"says": "b is no worse", "metric": "pixel_error_pct", "model": "b", "not_above": "affine"},
        {
            "says": "b is better",
            "metric": "pixel_error_pct",
            "model": "b",
            "below": "affine",
            "sets": ("out <b>side</b>",),
        },
        {"says": "no Inf", "metric": "inf_pct", "model": "affine", "at_most": 0},
        {"says": "near", "metric": "psnr", "model": "b", "beside": "affine", "at_most": 3.01, "sets": ("inside",)},
        {"says": "nearer", "metric": "psnr", "model": "b", "beside": "affine", "at_most": 2.99, "sets": ("inside",)},
        {"says": "nearer", "metric": "psnr", "model": "affine", "beside": "b", "at_most": 2.99, "sets": ("inside",)},
    ]
    text = reproduction.write(*study_of(tmp_path, claims), tmp_path / "out")
    rows = [line.strip("|").split("|") for line in text.split("## Claims")[1].splitlines() if line.startswith("|")][2:]
    assert [held.strip() for _, held in rows] == [
        "2 of 2",
        "**1 of 2**",
        "**1 of 2**",
        "2 of 2",
        "**0 of 2**",
        "**0 of 2**",
    ]


def test_one_sample_is_said_to_be_one(tmp_path):
    recipe, found = study_of(tmp_path)
    for _, run in found:
        run.metrics["protocol"]["n_sample"] = 1
    assert "Measured: 1 sample per input, seed" in reproduction.write(recipe, found, tmp_path / "out")


DETERMINISTIC = asdict(protocol.DETERMINISTIC)


def as_deterministic(run, label):
    """The same results as those of a model that makes one image per input, without a likelihood."""
    run.metrics["evaluation"] = {**DETERMINISTIC, "presets": list(DETERMINISTIC["presets"])}
    for dataset in run.metrics["datasets"].values():
        dataset["heats"] = {"0": dataset["heats"]["0.9"]}
        dataset["bits_per_dim"] = None
    rows = run.frame[run.frame.tau == "0.9"].assign(heat=0.0, tau="0")
    return RunOfRecipe(options="x.yml", label=label), replace(run, frame=rows.reset_index(drop=True))


@pytest.mark.parametrize("reference", ["affine", "bicubic"])
def test_models_that_draw_no_samples_are_compared_at_every_temperature(tmp_path, reference):
    claims = [
        {"says": "better", "metric": "psnr", "model": "bicubic", "not_above": "b", "sets": ("inside",)},
        {"says": "likely", "metric": "bits_per_dim", "model": "bicubic", "at_most": 0},
        {"says": "elsewhere", "metric": "psnr", "model": "b", "at_most": 99, "sets": ("nowhere",)},
    ]
    recipe, found = study_of(tmp_path, claims, reference)
    found += [as_deterministic(run, "bicubic") for _, run in found[:2]]
    recipe = recipe.model_copy(update={"runs": (*recipe.runs, found[-1][0])})
    text = reproduction.write(recipe, found, tmp_path / "out")
    rows = [line for line in text.split("## Differences")[1].splitlines() if line.startswith("| inside")]
    models = [line.split("|")[3].strip() for line in rows]
    assert [line.split("|")[2].strip() for line in rows] == ["0.9", "0.9"]
    assert models == [label for label in ("affine", "b", "bicubic") if label != reference]
    assert "+3 [+3, +3] (0 / 2)" in rows[models.index("b")]
    held = [line.strip("|").split("|")[1].strip() for line in text.split("## Claims")[1].splitlines()[4:7]]
    assert held == ["2 of 2", "**not measured**", "**not measured**"]


def test_means_of_samples_are_shown_at_their_temperature(tmp_path):
    recipe, found = study_of(tmp_path)
    for _, run in found:
        for dataset in run.metrics["datasets"].values():
            dataset["means"] = {heat: {"n_averaged": 3, "psnr": 30.0} for heat in dataset["heats"]}
    text = reproduction.write(recipe, found, tmp_path / "out")
    lines = [line.split("|")[2].strip() for line in text.split("##")[0].splitlines() if line.startswith("| inside")]
    assert lines == 2 * ["0.9", "0.9, mean of 3"]
    assert "mean of" not in text.split("## Differences")[1]


def test_figures_that_are_nowhere_finite_have_no_interval(tmp_path):
    recipe, found = study_of(tmp_path)
    for _, run in found:
        run.frame["psnr"] = math.nan
        for dataset in run.metrics["datasets"].values():
            dataset["heats"]["0.9"] |= {"max_residual": math.inf, "psnr": None, "lr_psnr_min": math.inf}
    recipe = recipe.model_copy(update={"columns": ("max_residual", "psnr", "lr_psnr_min", "lpips")})
    text = reproduction.write(recipe, found, tmp_path / "out")
    row = next(line for line in text.splitlines() if line.startswith("| inside"))
    assert [cell.strip() for cell in row.split("|")[4:6]] == ["inf", "inf"]
    assert "Δ PSNR" not in text
    recipe = recipe.model_copy(update={"columns": ("max_residual", "psnr")})
    assert "No figure is known and finite" in reproduction.write(recipe, found, tmp_path / "out")


def test_inputs_are_listed_with_their_training_seeds(tmp_path):
    recipe, found = study_of(tmp_path)
    recipe = recipe.model_copy(
        update={"seeds": (7, 3), "columns": ("pixel_error_pixel_pct", "nan_pct", "infinite_pct")}
    )
    reproduction.write(recipe, found, tmp_path / "out")
    inputs = pd.read_csv(tmp_path / "out" / "inputs.csv")
    assert list(dict.fromkeys(inputs.seed)) == [7, 3]
    failed = inputs[(inputs.model == "affine") & (inputs.seed == 3) & (inputs.input == "sub/b")]
    assert failed[list(recipe.columns)].to_numpy().tolist() == [pytest.approx([100 / 4 / 3, 0, 100], rel=1e-4)]


def test_one_training_has_no_interval_over_seeds(tmp_path):
    recipe, found = study_of(tmp_path)
    recipe = recipe.model_copy(update={"seeds": None})
    text = reproduction.write(recipe, found[::2], tmp_path / "out")
    assert "**+3 [+3, +3] (0 / 1)**" in text
    assert "training seeds" not in text.split("##")[0]


@pytest.mark.parametrize(
    ("claims", "reference", "message"),
    [
        ([{"says": "x", "metric": "psnrr", "model": "b", "at_most": 0}], "b", "got 'psnrr'"),
        ([{"says": "x", "metric": "psnr", "model": "c", "at_most": 0}], "b", "labels of runs, got c"),
        ([], "c", "labels of runs, got c"),
    ],
)
def test_claims_of_what_is_not_measured_are_a_mistake(tmp_path, claims, reference, message):
    recipe, found = study_of(tmp_path, claims, reference)
    with pytest.raises(UserError, match=message):
        reproduction.write(recipe, found, tmp_path)


def test_a_claim_compares_with_one_thing():
    with pytest.raises(ValidationError, match="expected one of below, not_above and at_most"):
        Claim(says="x", metric="psnr", model="b", below="c", at_most=0)


def test_the_largest_figure_of_a_set_has_an_interval_over_seeds_alone(tmp_path):
    found = []
    for seed, largest in enumerate((3.0, 4.0, 6.0)):
        run = read(results_folder.make(tmp_path / str(seed)))
        run.metrics["datasets"]["inside"]["heats"]["0.9"]["max_residual"] = largest
        found.append(run)
    expected = stats.t.interval(0.95, 2, 13 / 3, stats.sem([3.0, 4.0, 6.0]))
    assert measure(found, "max_residual")[1:] == pytest.approx(expected)
    assert math.isnan(measure(found[:1], "max_residual")[1])


@pytest.mark.parametrize(
    ("key", "values", "ends"),
    [
        ("max_residual", (0.1, 0.2, 4.0), (0, None)),
        ("ssim", (0.1, 0.9, 0.99), (None, 1)),
        ("psnr", (0.1, 9.0, 9.0), (0, None)),
        ("bits_per_dim", (-0.1, 0.2, 4.0), (None, None)),
    ],
)
@pytest.mark.parametrize("said", [True, False], ids=["columns say it", "older columns do not"])
def test_an_interval_ends_where_the_figure_does(tmp_path, key, values, ends, said):
    found = []
    for seed, value in enumerate(values):
        run = read(results_folder.make(tmp_path / str(seed)))
        run.metrics["datasets"]["inside"]["heats"]["0.9"][key] = value
        run.metrics["columns"] = description.describe_columns(choose(), ValOptions())
        if not said:
            for column in run.metrics["columns"]:
                del column["limits"]
        found.append(replace(run, frame=run.frame.drop(columns=key, errors="ignore")))
    free = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert free[0] < 0
    cut = [own if end is None else end for own, end in zip(free, ends, strict=True)]
    assert measure(found, key) == pytest.approx((np.mean(values), *cut))


def test_limits_of_differences():
    of = seeds.limit_difference
    assert (of((0, 100)), of((-1, 1)), of((0, None)), of((None, None))) == (
        (-100, 100),
        (-2, 2),
        (None, None),
        (None, None),
    )


def test_columns_of_no_metric_are_a_mistake(tmp_path):
    recipe = recipe_of().model_copy(update={"columns": ("psnr", "psnrr")})
    run = read(results_folder.make(tmp_path / "x"))
    with pytest.raises(UserError, match=r"^columns, claims: .*, got 'psnrr' \(did you mean 'psnr'\?\)$"):
        reproduction.write(recipe, [(recipe.runs[0], run)], tmp_path)


def test_published_figures_of_no_data_set_are_a_mistake(tmp_path):
    run = read(results_folder.make(tmp_path / "x"))
    recipe = recipe_of(published={"elsewhere": {"psnr": 1.0}})
    with pytest.raises(UserError, match="elsewhere; tested: inside"):
        reproduction.to_frame(recipe, [(recipe.runs[0], run)])


def test_figures_of_an_input_are_over_its_samples(tmp_path):
    run = read(results_folder.make(tmp_path, heats=(0.5, 0.9)))
    values = np.random.default_rng(0).normal(45, 1, len(run.frame))
    run.frame["lr_psnr"], run.frame["has_nan"] = values, values == values.max()
    run.frame["pixel_errors"] = run.frame.has_nan.astype(int)
    chosen = (run.frame.dataset == "inside") & (run.frame.tau == "0.5")
    images = {image: values[chosen & (run.frame.image == image)] for image in "abc"}
    for over, compute in {"min": np.min, "mean": np.mean, "std": np.std}.items():
        found = seeds.by_input(run, "inside", "0.5", f"lr_psnr_{over}")
        assert found.to_dict() == pytest.approx({image: compute(of_image) for image, of_image in images.items()})
    worst = run.frame.loc[values.argmax()]
    for key in ("pixel_error_pct", "inf_pct", "nan_pct"):
        found = seeds.by_input(run, worst.dataset, worst.tau, key)
        assert found.to_dict() == {image: 100 * (image == worst.image) for image in found.index}
    run.frame.loc[0, "lr_psnr"] = math.inf
    again = replace(run, frame=run.frame)  # its samples are kept
    first = seeds.by_input(again, "inside", "0.5", "lr_psnr_std")
    assert math.isnan(first["a"]) and first.notna().sum() == 2


def test_inputs_are_ranked_by_their_own_models_score(tmp_path):
    """Of five inputs the scores rise in the order of the data sets; one sample of three of the last explodes."""
    runs = []
    for seed, factor in enumerate((1, -1)):
        run = read(results_folder.make(tmp_path / str(seed), exploding={("out <b>side</b>", "sub/b")}, ood=True))
        runs.append(replace(run, frame=run.frame.assign(ood=factor * run.frame.ood)))
    ranks, failed = np.transpose(seeds.rank_failures({"x": runs}, 0.9)["x"])
    assert ranks == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert failed == pytest.approx(2 * [0, 0, 0, 0, 100 / 3])
    unscored = replace(runs[1], frame=runs[1].frame.assign(ood=math.nan))
    assert len(seeds.rank_failures({"x": [runs[0], unscored]}, 0.9)["x"]) == 5
    assert seeds.rank_failures({"x": [unscored]}, 0.9) == {}


def test_temperatures_are_in_the_order_of_numbers(tmp_path):
    assert read(results_folder.make(tmp_path, heats=(10.0, 0.9, 1e-5))).heats == ["1e-05", "0.9", "10"]


def test_images_may_be_called_as_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(results_folder.IMAGES, "inside", ["NA", "nan", "1e5"])
    assert list(read(results_folder.make(tmp_path)).of_set("inside").image.unique()) == ["NA", "nan", "1e5"]
