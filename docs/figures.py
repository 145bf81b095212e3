"""Makes the figures in docs/images that pages draw: runs the Python blocks of each page, in order.

python docs/figures.py [PAGE.md ...]
"""

import os
import re
import sys
import types
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    for page in sys.argv[1:] or sorted(Path().glob("*.md")):
        code = BLOCK.findall(Path(page).read_text())
        if any('savefig("images/' in block for block in code):
            print(page)
            sys.modules["reader"] = reader = types.ModuleType("reader")
            for block in code:
                exec(compile(block, str(page), "exec"), reader.__dict__)
