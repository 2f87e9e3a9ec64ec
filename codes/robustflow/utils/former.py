"""Commands under the names they had: ``python -m robustflow.data.prepare`` is ``robustflow prepare``."""

from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

COMMANDS = {
    "robustflow.apply": "apply",
    "robustflow.applications.example": "example",
    "robustflow.data.enhance": "enhance",
    "robustflow.data.prepare": "prepare",
    "robustflow.evaluation.compare": "compare",
    "robustflow.evaluation.ood": "ood",
    "robustflow.evaluation.report_html": "report",
    "robustflow.evaluation.study": "study",
    "robustflow.fetch": "fetch",
    "robustflow.interop.convert": "convert",
    "robustflow.options.__main__": "options",
    "robustflow.training.replay": "replay",
}


class Finder:
    """Finds `robustflow.__main__`, which reads its name, where such a module is looked for and is not there."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a former module or package; None for others."""
        if name == "robustflow.applications":
            return ModuleSpec(name, None, is_package=True)
        return spec_from_file_location(name, Path(__file__).parents[1] / "__main__.py") if name in COMMANDS else None
