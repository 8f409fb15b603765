"""What torch takes and keeps of the memory."""

from __future__ import annotations

import os


def forget_shapes() -> None:
    """Let torch keep few of the programs that it makes for products, unless the environment says otherwise.

    Call it before the first product. Every tree has shapes of its own, some 80 of them, and for each both oneDNN and
    ideep keep a program of a quarter of a megabyte, up to 1,024 of them. They come to lie between the tensors of a
    step, so that larger tensors of the next steps find no room there. To make one takes 0.3 ms.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")


def fill_holes() -> None:
    """Let torch begin large tensors at a page of the system, unless the environment says otherwise.

    Call it before transformers is imported, which makes the first tensors. The place of a tensor that goes is then
    taken by the next of its size; elsewhere it often is a few bytes too small, as the system looks for more than it
    needs (glibc's memalign). In float32 that saves a quarter of the memory and costs no time; in bf16 a fifteenth, and
    a twentieth of the speed.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
