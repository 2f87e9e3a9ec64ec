"""robustflow: conditional normalizing flows in imaging, with swappable couplings and measured robustness.

::

    import robustflow as rf

    model = rf.FSNCSR(scale=4, coupling=rf.RationalQuadratic())
    sr = rf.load("experiments/demo").sample(lr, n=10, temperature=0.9)
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from robustflow.utils.former import Finder

if TYPE_CHECKING:
    from robustflow.bijections.elementwise import Affine, ExpAffine, InverseAffine, RationalQuadratic, SoftAffine
    from robustflow.models import FSNCSR, NCSR, RRDB, Bicubic, LLFlow, SRFlow
    from robustflow.models.loading import load

__version__ = "0.1.0"
__all__ = [
    "FSNCSR",
    "NCSR",
    "RRDB",
    "Affine",
    "Bicubic",
    "ExpAffine",
    "InverseAffine",
    "LLFlow",
    "RationalQuadratic",
    "SRFlow",
    "SoftAffine",
    "load",
]
# ``python -m robustflow.apply`` and the like, as commands were spelt.
sys.meta_path.append(Finder)

_HOMES = {
    **dict.fromkeys(
        ("Affine", "ExpAffine", "InverseAffine", "RationalQuadratic", "SoftAffine"), "robustflow.bijections.elementwise"
    ),
    **dict.fromkeys(("FSNCSR", "NCSR", "RRDB", "Bicubic", "LLFlow", "SRFlow"), "robustflow.models"),
    "load": "robustflow.models.loading",
}


def __getattr__(name: str) -> Any:
    """Import at first use: a command answers a mistake in its options before torch is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module 'robustflow' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
