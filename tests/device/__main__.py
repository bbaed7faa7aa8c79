"""Run a command on the machine, which is made first if it isn't there.

python -m tests.device                            # makes it
python -m tests.device -m pytest -m gpu tests     # arguments of the machine's Python
python -m tests.device -m gpu_lstm info
"""

from __future__ import annotations

import os
import sys

from tests.device.build import build, default_folder, environment

folder = default_folder()
python = build(folder)
if sys.argv[1:]:
    os.execve(python, [str(python), *sys.argv[1:]], environment(folder))
