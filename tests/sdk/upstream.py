"""mlx-lm's own server tests that use HTTP, run against a gate: only the address is different.

They come from the source archive that scripts/test-sdk unpacks. Cases that inspect the server's objects, or stop it, are
left out.
"""

import ast
import json
import unittest
from pathlib import Path

import requests

MODELS = ("chat_model",)  # what they call the model, beside default_model


def cases(archive):
    """Name and source of each case that needs nothing but a port."""
    text = next(Path(archive).glob("mlx_lm-*/tests/test_server.py")).read_text()
    found = {}
    for kind in ast.parse(text).body:
        methods = kind.body if isinstance(kind, ast.ClassDef) else []
        for method in methods:
            if not isinstance(method, ast.FunctionDef) or not method.name.startswith("test_"):
                continue
            used = (node for node in ast.walk(method) if isinstance(node, ast.Attribute))
            own = {node.attr for node in used if isinstance(node.value, ast.Name) and node.value.id == "self"}
            own = {name for name in own if not name.startswith("assert")}
            if own == {"port"}:
                found[method.name] = method
    return found


def run(archive, port):
    """How many passed; raises with the report if some did not."""
    found = cases(archive)
    names = {"json": json, "requests": requests}
    exec(compile(ast.Module(list(found.values()), []), "test_server.py", "exec"), names)
    suite = type("Upstream", (unittest.TestCase,), {"port": port, **{name: names[name] for name in found}})
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(suite).run(result)
    broken = [f"{case}\n{report}" for case, report in result.errors + result.failures]
    assert not broken, "\n".join(broken)
    return result.testsRun
