"""Proves that a virtual environment can serve by importing everything and computing. The last line is JSON."""

import importlib.metadata as metadata
import json
import platform
import subprocess
import sys

import mlx.core as mx
import mlx_lm
import mlx_lm.server
import transformers

# An import does not prove that the device's libraries work; a sum does.
mx.eval(mx.array([1, 2]) + 1)


def gpu_limit():
    """Bytes that macOS lets the GPU hold by default, which only Metal knows. None elsewhere, or if a limit is set."""
    if sys.platform != "darwin":
        return None
    set_by_owner = subprocess.run(
        ["/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb"], capture_output=True, text=True, check=False
    )
    # A limit set by hand lasts until the next boot; it is read when it is needed.
    if set_by_owner.stdout.strip() not in ("", "0"):
        return None
    # Older versions of MLX have it in mx.metal.
    info = (mx.device_info if hasattr(mx, "device_info") else mx.metal.device_info)()
    limit = info.get("max_recommended_working_set_size")
    return int(limit) if limit else None


evidence = [mx.__file__, mlx_lm.server.__file__]
resolved = []
for distribution in metadata.distributions():
    name = distribution.metadata["Name"]
    if not name:
        continue
    resolved.append(f"{name}=={distribution.version}")
    if name.lower().replace("_", "-") in ("mlx", "mlx-lm", "transformers"):
        # Its name contains the version, so it is gone after an upgrade.
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
            "gpu_limit": gpu_limit(),
        }
    )
)
