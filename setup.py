"""Puts what ships beside the code into the wheel (see thfuse_sam/shipped.py); everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("models/*.safetensors", "models/README.md", "datasets/sample/**/*.*")


class BuildWithShipped(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the checkout itself is used
            return
        for pattern in SHIPPED:
            for path in Path().glob(pattern):
                target = Path(self.build_lib, "thfuse_sam", "shipped", path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildWithShipped})
