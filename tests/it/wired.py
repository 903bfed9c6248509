"""Which of the wired limits that mlx_lm sets reach MLX: at the server's start, and for each batch generator.

The CPU build recommends no working set, so one is made up here; the calls are mlx_lm's own.
"""

import json
import sys
import threading

import launcher
import mlx.core as mx

RECOMMENDED = 5_000_000_000
asked, reached = [], []
info = mx.device_info()
mx.device_info = lambda *_: {**info, "max_recommended_working_set_size": RECOMMENDED}


def limit(value):
    """Like MLX's own: returns the previous limit."""
    reached.append(value)
    return reached[-2] if len(reached) > 1 else 0


mx.set_wired_limit = limit
launcher.limit_wired(mx, sys.argv[1])
wrapped = mx.set_wired_limit


def noted(value):
    before = wrapped(value)
    asked.append([value, before])
    return before


mx.set_wired_limit = noted

from mlx_lm import server  # noqa: E402
from mlx_lm.generate import BatchGenerator  # noqa: E402
from mlx_lm.utils import load  # noqa: E402

server.run = lambda *_: None
sys.argv = ["mlx_lm.server", "--model", sys.argv[2]]
server.main()
at_start = len(asked)
model, _ = load(sys.argv[-1])
mx.eval(model.parameters())
weights = mx.get_active_memory()


def generate():
    # MLX's streams belong to a thread.
    for _ in range(2):
        BatchGenerator(model, stream=mx.new_stream(mx.cpu)).close()


thread = threading.Thread(target=generate)
thread.start()
thread.join()
print(json.dumps({"at_start": at_start, "asked": asked, "reached": reached, "weights": weights}))
