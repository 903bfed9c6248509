"""Reads the FastAPI app without running it: `app.py MODULE APP`. It must use only names that the module has."""

import ast
import importlib.util
import sys

spec = importlib.util.spec_from_file_location("mlx_backends", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)

with open(sys.argv[2]) as file:
    app = ast.parse(file.read())
used = {
    node.attr
    for node in ast.walk(app)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mlx_backends"
}
assert {"route", "send", "health", "Unavailable"} <= used, used
missing = sorted(name for name in used if not hasattr(module, name))
assert not missing, missing
