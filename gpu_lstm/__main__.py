"""``python -m gpu_lstm``: the command line, from a bare checkout too."""

import sys

from gpu_lstm.cli import main

sys.exit(main())
