"""What lies beside the package in the repository and belongs into its wheel; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Found there by robustflow.utils.packaged. Other weights that lie in the folder stay out.
PACKAGED = ("confs/**/*.yml", "pretrained_weights/box_*")


def _files() -> list[Path]:
    return sorted(file for pattern in PACKAGED for file in Path().glob(pattern) if file.is_file())


class BuildWithFiles(build_py):
    """Copy them into robustflow/packaged; an installation that is edited in place finds the checkout's own."""

    def run(self) -> None:
        """Build."""
        super().run()
        for place, source in self._copies().items():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Everything that was built."""
        return [*super().get_outputs(include_bytecode), *map(str, self._copies())]

    def get_source_files(self) -> list[str]:
        """Everything that is built from: source distributions hold it."""
        return [*super().get_source_files(), *map(str, _files())]

    def _copies(self) -> dict[Path, Path]:
        """Files to be made, and of what."""
        packaged = Path(self.build_lib, "robustflow", "packaged")
        return {} if self.editable_mode else {packaged / file: file for file in _files()}


setup(cmdclass={"build_py": BuildWithFiles})
