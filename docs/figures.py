"""Makes the figures in docs/images that pages draw: runs the Python blocks of each page, in order.

python docs/figures.py [PAGE.md ...]
"""

import contextlib
import re
import shutil
import sys
import tempfile
import types
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

if __name__ == "__main__":
    docs = Path(__file__).parent.resolve()
    for page in [docs / name for name in sys.argv[1:]] or sorted(docs.glob("*.md")):
        code = BLOCK.findall(page.read_text())
        if not any('"images/' in block for block in code):
            continue
        sys.modules["reader"] = reader = types.ModuleType("reader")
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path("images").mkdir()
            for block in code:
                exec(compile(block, str(page), "exec"), reader.__dict__)
            for image in Path("images").iterdir():
                shutil.copy(image, docs / "images")
                print(page.name, image)
