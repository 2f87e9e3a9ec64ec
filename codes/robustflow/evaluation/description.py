"""What a metrics.json says of how it was made: protocol, columns, versions."""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from robustflow import __version__
from robustflow.data.sources.folders import PAIRING
from robustflow.evaluation.metrics import Column, Metric, fidelity
from robustflow.evaluation.metrics.perceptual import Perceptual
from robustflow.models import Model, data_sets
from robustflow.models.protocol import Protocol
from robustflow.options.schema import TRAINING_ONLY, DatasetOptions, RunOptions, ValOptions
from robustflow.utils import precision

# Without the reason, which may name files of this machine: protocols are compared.
NO_LPIPS = "not computed: its backbone is missing, run 'robustflow fetch alexnet'"
# What becomes of samples that are not finite.
NON_FINITE = "measured, clamped to [0, 1], Inf to 1, -Inf and NaN to 0; *_finite: of finite samples alone"
_TEXTS = {
    "non_finite": NON_FINITE,
    "best_of_n": "mean over images of the best of the first n samples",
    "bits_per_dim": "-log2 p(HR + training noise | LR) / (3HW), HR in [0, 1], largest crop the flow takes",
    "nll_published": "the same per pixel position, 3 times bits_per_dim",
    "latents": "of HR + training noise; standard normal under the model",
    "ood": "squared Mahalanobis distance of the input's mean encoder features to those of training patches; mean over "
    "patches of their size",
}
# What earlier results and files do not say.
NOT_RECORDED = "not recorded"
# Figures that are no metric of samples: of the model, of the input, counts.
BEFORE = (
    Column("bits_per_dim", "bits/dim", "low", places=("robustness", "differences")),
    Column("nll_published", "NLL, published unit", "low"),
)
AFTER = (
    Column("ood_mean", "OOD score", limits=(0, None)),
    Column("ood", "OOD score", limits=(0, None)),
    Column("n_samples", "samples"),
    Column("n_finite", "finite samples"),
)


def describe_protocol(
    options: RunOptions,
    protocol: Protocol,
    metrics: Sequence[Metric],
    perceptual: Perceptual | str,
    device: torch.device,
    *,
    ood_fitted: bool,
    input_path: str | None,
) -> dict[str, Any]:
    """How a run's results are measured, for metrics.json; results of equal protocols can be compared."""
    has_lr_psnr = any(metric.name == "lr_psnr" for metric in metrics)
    if isinstance(perceptual, str):
        backbone = {metric.name: NO_LPIPS for metric in metrics if "backbone" in metric.needs}
    else:
        backbone = {"lpips": perceptual.version}
    val = options.val.model_dump(mode="json")
    val["heats"] = list(protocol.temperatures(options.val.heats))
    if protocol.deterministic:
        val["n_sample"] = 1
    for key in ("save_images", "sample_batch", *([] if has_lr_psnr else ["lr_psnr_reference"])):
        val.pop(key)
    reference = options.val.lr_reference
    if input_path is None:
        sets = {name: _describe_data_set(dataset) for name, dataset in data_sets.select_tested(options).items()}
    else:
        sets = {"input": {"dataroot_LQ": input_path}}
    lr_psnr = fidelity.LR_REFERENCES[reference]
    if any("downsampling" in own for own in sets.values()):
        lr_psnr += "; where a data set names another downsampling, that in place of bicubic"
    return {
        **{key: text for metric in metrics for key, text in metric.describe().items()},
        **_TEXTS,
        **protocol.texts,
        "precision": precision.resolve(options.precision, training=False, device=device),
        **val,
        "quantize": options.val.rounding,
        # Only where it is so: earlier results, which do not say, can be compared with others.
        **({"cut_to": f"multiples of {cut_to} HR pixels"} if (cut_to := options.val.cut_to) > 1 else {}),
        **({"lr_psnr_reference": reference, "lr_psnr": lr_psnr} if has_lr_psnr else {}),
        **backbone,
        "ood_fitted": ood_fitted,
        "datasets": sets,
    }


def _describe_data_set(dataset: DatasetOptions) -> dict[str, Any]:
    """Options of a test set; of those that earlier results lack, what is set, so that both can be compared."""
    later = {key for key in ("downsampling", "degrade") if key not in dataset.model_dump(exclude_defaults=True)}
    return dataset.model_dump(mode="json", exclude={*TRAINING_ONLY, *PAIRING, *later})


def describe_ood_fit(fitted: Mapping[str, Any] | None) -> str:
    """What OOD scores depend on, in words: of the Gaussian's patches number, side and mean score; estimator, features.

    Args:
        fitted: From `mahalanobis.OODScore.describe`; what earlier ones lack is "not recorded". None: nothing is known.
    """
    if fitted is None:
        return f"its Gaussian: {NOT_RECORDED}"
    side, shrinkage, own = fitted["patch"] * fitted["scale"], fitted["shrinkage"], fitted.get("in_sample_mean")
    covariance = "empirical" if shrinkage == 0 else f"shrunk by {shrinkage:.2g}"
    of = fitted.get("mean_score_of", NOT_RECORDED)
    return (
        f"Gaussian of {fitted['n_patches']} patches of {side} x {side}, {fitted.get('n_features', NOT_RECORDED)} "
        f"features, covariance {covariance}; their mean score {fitted['mean_score']:.4g} "
        f"({f'in or out of sample: {of}' if of == NOT_RECORDED else of})"
        f"{'' if own is None else f', {own:.4g} (in sample)'}"
    )


def list_columns(metrics: Sequence[Metric]) -> list[Column]:
    """All figures of an evaluation, in the order of tables."""
    measured: list[Column] = []
    for metric in metrics:
        measured += add_finite(metric.columns) if metric.finite_too else metric.columns
    return [*BEFORE, *measured, *AFTER]


def add_finite(columns: Iterable[Column]) -> Iterator[Column]:
    """Each column, and that of the same figure over finite samples alone: in tables, and never the best there."""
    for column in columns:
        yield column
        places = tuple(place for place in column.places if place in ("robustness", "fidelity"))
        yield column._replace(key=f"{column.key}_finite", label=f"{column.label}, finite", better=None, places=places)


def describe_columns(metrics: Sequence[Metric], options: ValOptions) -> list[dict[str, Any]]:
    """The same for metrics.json, which is read where third parties' metrics are not there."""
    barred = fidelity.BARRED if options.protocol == "ntire" else ()
    return [
        column._replace(bar=fidelity.BAR if column.key.removesuffix("_finite") in barred else None)._asdict()
        for column in list_columns(metrics)
    ]


def read_columns(report: Mapping[str, Any], known: Sequence[Metric]) -> dict[str, Column]:
    """Columns of a metrics.json by key; of older ones those that are known here."""
    listed = {column.key: column for column in list_columns(known)}
    described = report.get("columns")
    if not isinstance(described, list):
        return listed
    found = {}
    for values in described:
        key = values["key"]
        # Older ones do not say what limits a figure has.
        limits = values.get("limits", listed.get(key, Column(key, "")).limits)
        found[key] = Column(**{**values, "places": tuple(values["places"]), "limits": tuple(limits)})
    return found


def versions(model: Model) -> dict[str, str]:
    """What makes results, for their record: versions of the software, and the kind of device."""
    return {
        "robustflow": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        # Without its number, so that the results of several are those of one.
        "device": model.device.type,
    }
