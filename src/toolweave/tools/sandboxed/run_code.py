"""Run a script under resource limits and keep its figures.

Usage: python -I run_code.py SCRIPT UID CPU_SECONDS MEMORY_BYTES FILE_BYTES PROCESSES
"""

from __future__ import annotations

import os
import resource
import runpy
import sys
import traceback
from pathlib import Path


def main(script: str, uid: int, cpu: int, memory: int, file_size: int, processes: int) -> None:
    """Become the user `uid` unless it is 0, set the limits, run the script, and show what figures it left open."""
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.chdir(Path(script).parent)
    for kind, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    # The backend `figures` of this folder saves each figure that is shown.
    sys.path[:0] = [str(Path(script).parent), str(Path(__file__).parent)]
    sys.argv = [script]
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception as error:
        # Only the script's own lines are of interest.
        lines = error.__traceback__
        while lines is not None and lines.tb_frame.f_code.co_filename != script:
            lines = lines.tb_next
        traceback.print_exception(error.with_traceback(lines))
        sys.exit(1)
    finally:
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.show()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
