"""Plays an engine for the agent's tests: the model's name in the LaunchSpec says how."""

import json
import os
import signal
import subprocess
import sys
import time


def tell(**event: object) -> None:
    print(json.dumps(event), flush=True)


def ready(host: str) -> None:
    tell(event="ready", endpoint=f"{host}:4711", seconds=0.1)


def forever() -> None:
    while True:
        time.sleep(60)


def main() -> None:  # noqa: C901 - one branch per mode
    spec = json.loads(sys.stdin.readline())
    mode, host = spec["model"], spec["host"]
    if mode == "ready":
        tell(event="loading", what="weights", fraction=0.5)
        ready(host)
    elif mode == "silent after the first":
        if spec["epoch"] == 1:
            ready(host)
    elif os.path.isdir(mode):
        tell(event="loading", what=mode, fraction=1)
        ready(host)
    elif mode == "fails":
        tell(event="failed", error="CannotShard", message="heads is 3,\nwhich 2 does not divide")
        sys.exit(1)
    elif mode == "says its folder":
        tell(event="failed", error="CannotShard", message=spec["kv_dir"] or "none")
        sys.exit(1)
    elif mode == "fails oddly":
        tell(event="failed", error="KeyError", message="'x'")
        sys.exit(1)
    elif mode == "dies early":
        print("Traceback", "ImportError: no mlx", sep="\n", file=sys.stderr, flush=True)
        sys.exit(3)
    elif mode == "killed early":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "dies":
        ready(host)
        print("out of memory", file=sys.stderr, flush=True)
        os._exit(7)
    elif mode == "ignores SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready(host)
        forever()
    elif mode == "stopped":
        ready(host)
        os.kill(os.getpid(), signal.SIGSTOP)
        forever()
    elif mode == "downloads":
        tell(event="loading", what="download", fraction=0)
        time.sleep(0.8)
        ready(host)
    elif mode == "loads slowly":
        for part in range(10):
            time.sleep(0.1)
            tell(event="loading", what="weights", fraction=part / 10)
        ready(host)
    elif mode == "babbles":
        sys.stdout.buffer.write(b"\xff\xfe\x00 no text\n[1]\n{}\nnull\n" + b"x" * 300_000 + b"\n")
        print('{"event": "ready"}\n{"event": "loading", "what": 1, "fraction": "x"}', flush=True)
        sys.stderr.buffer.write(b"y" * 300_000 + b"\n" + b"line\n" * 100)
        sys.stderr.flush()
        ready(host)
    elif mode == "has a child":
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(event="loading", what=str(child.pid), fraction=0)
        ready(host)
        forever()
    elif mode == "environment":
        names = ("LD_PRELOAD", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        tell(event="loading", what=json.dumps({n: os.environ.get(n) for n in names}), fraction=1)
        ready(host)
    # "silent" says nothing at all.
    sys.stdin.read()


if __name__ == "__main__":
    main()
