"""`toolweave sft` in a job that shards by FSDP2 over gloo, which accelerate itself only does on GPUs."""

from __future__ import annotations

import sys
from typing import Any

from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from toolweave.cli import main


class _OnCpu(Accelerator):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "cpu": False})  # what is told to use the CPU shards nothing
        assert self.distributed_type is DistributedType.FSDP
        assert self.is_fsdp2


def _like_a_gpu_job(*_: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_NPU


if __name__ == "__main__":
    PartialState._prepare_backend = _like_a_gpu_job
    import toolweave.training.distributed as distributed

    distributed.Accelerator = _OnCpu  # the one that `joined` makes
    main(["sft", *sys.argv[1:]])
