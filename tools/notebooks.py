"""Run the notebooks in docs/ and keep what they show: `python -m tools.notebooks` (pip install nbclient ipykernel)."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "docs" / "notebooks"


def main() -> None:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        install = code[0].source
        code[0].source = ""  # this package is installed, or on PYTHONPATH
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, resources={"metadata": {"path": folder}}).execute()
        code[0].source = install
        for cell in code:
            cell.execution_count = None
            cell.metadata.clear()
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("data", {}).pop("image/png", None)  # the JPEG beside it is a tenth as large
                if "execution_count" in output:
                    output.execution_count = None
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
