"""Python environments for the benchmarks, on machines that can install nothing."""

import json
import subprocess


def environment(python, folder):
    """An environment that finds the packages `python` finds, wherever they are, for a machine that can install nothing."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    tell = """if True:
        import importlib.metadata, json, platform, sys
        version = importlib.metadata.version
        versions = {"python": platform.python_version(), "mlx": version("mlx"), "mlx_lm": version("mlx-lm")}
        versions["transformers"] = version("transformers")
        print(json.dumps({"path": [entry for entry in sys.path if entry], "base": sys.prefix, "versions": versions}))
    """
    known = json.loads(subprocess.run([python, "-c", tell], check=True, capture_output=True, text=True).stdout)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "outer.pth").write_text("\n".join(known["path"]) + "\n")
    # What `mlxctl setup` writes for an environment that it created and verified. Here the caller vouches for it.
    marker = {"schema": 1, "requirements": "", "requested": [str(python)], "resolved": [], "evidence": []}
    (folder / "mlxctl-venv.json").write_text(json.dumps(marker | {"base": known["base"], "versions": known["versions"]}))
    return folder
