"""`torchrun --nproc_per_node=8 -m toolweave.sft …`: the same as `toolweave sft …`, on many processes."""

from __future__ import annotations

import sys

from toolweave.cli import main

if __name__ == "__main__":
    main(["sft", *sys.argv[1:]])
