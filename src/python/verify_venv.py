"""Proves that a virtual environment can serve: imports everything and computes; prints JSON on the last line."""

import importlib.metadata as metadata
import json
import platform
import sys
from pathlib import Path

import mlx.core as mx
import mlx_lm
import mlx_lm.server
import transformers

# An import proves nothing about the device's libraries; a sum does.
mx.eval(mx.array([1, 2]) + 1)

evidence = [mx.__file__, mlx_lm.server.__file__]
resolved = []
for distribution in metadata.distributions():
    name = distribution.metadata["Name"]
    if not name:
        continue
    resolved.append(f"{name}=={distribution.version}")
    if name.lower().replace("_", "-") in ("mlx", "mlx-lm", "transformers"):
        # The folder carries the version in its name: another version has another one.
        folder = next(file.parts[0] for file in distribution.files or [] if file.parts[0].endswith(".dist-info"))
        evidence.append(str(distribution.locate_file(folder)))
print(
    json.dumps(
        {
            "versions": {
                "python": platform.python_version(),
                "mlx": mx.__version__,
                "mlx_lm": mlx_lm.__version__,
                "transformers": transformers.__version__,
            },
            "resolved": resolved,
            "evidence": evidence,
            "base": sys.base_prefix,
        }
    )
)
