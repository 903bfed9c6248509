#!/bin/sh
# <xbar.title>mlxctl</xbar.title>
# <xbar.desc>The models of mlxctl and the memory budget in the menu bar</xbar.desc>
# <xbar.dependencies>mlxctl, python3</xbar.dependencies>
#
# For SwiftBar and xbar: copy it into the plugin folder and make it executable. The `30s` in its name is how often it
# runs. MLXCTL and MLXCTL_CONFIG name another binary or registry.

PATH="$PATH:/opt/homebrew/bin:/usr/local/bin:$HOME/.local/bin:$HOME/.cargo/bin"
export PATH
export PYTHONIOENCODING=utf-8
MLXCTL=$(command -v "${MLXCTL:-mlxctl}")
if [ -z "$MLXCTL" ]; then
    printf 'mlxctl ?\n---\nmlxctl is not installed, or MLXCTL is not a program\n'
    exit 0
fi
export MLXCTL
# Without a supervisor it exits with 3 and prints the plan; if it prints nothing, its stderr is shown.
"$MLXCTL" status --json 2>&1 | python3 -c '
import json, os, sys

text = sys.stdin.read()
start, end = text.find("{"), text.rfind("}")
try:
    status = json.loads(text[start : end + 1])
    models, budget = status["models"], status["budget"]
except (ValueError, KeyError):
    lines = text.strip().replace("|", "/").splitlines() or ["mlxctl status prints nothing"]
    print("mlxctl !", "---", *lines[:10], sep="\n")
    sys.exit()


def plain(text):
    """One line, without the character that separates a text from its parameters."""
    return " ".join(str(text).replace("|", "/").split())


def click(text, *words):
    """A line that runs mlxctl in a terminal."""
    parameters = [f"param{number}={word}" for number, word in enumerate(words, 1)]
    program = "bash=\"" + os.environ["MLXCTL"] + "\""
    print(text, "|", program, *parameters, "terminal=true")


def human(size):
    return f"{size / 1e9:.1f} GB" if abs(size) >= 1e9 else f"{size / 1e6:.0f} MB"


supervisor = status["supervisor"]
ready = sum(model["state"] == "ready" for model in models)
down = [model for model in models if model["state"] in ("failed", "backoff")]
sign = "?" if supervisor is None else "!" if down else ""
print(f"mlx {ready}/{len(models)}{sign}")
print("---")
if supervisor is None:
    print("no supervisor is running | color=red")
elif supervisor["waiting_for"]:
    for condition in supervisor["waiting_for"]:
        print(plain(f"waiting for {condition}") + " | color=orange")
for model in models:
    size = model["memory"]["footprint_bytes"]
    speed = model["traffic"]["tokens_per_second"]
    parts = [model["state"], human(size) if size else "", f"{speed:.0f} tok/s" if speed else ""]
    color = "green" if model["state"] == "ready" else "red" if model in down else "gray"
    print(plain(model["name"] + ": " + ", ".join(part for part in parts if part)) + f" | color={color}")
    for line in (model["reason"], "try: " + model["hint"] if model["hint"] else None):
        if line:
            print("--" + plain(line))
    if supervisor is not None:
        verb = "start" if model["state"] in ("stopped", "failed") else "stop"
        click(f"--{verb.capitalize()}", verb, model["name"])
        click("--Log", "logs", "-f", model["name"])
print("---")
free, total = human(budget["free_bytes"]), human(budget["total_bytes"])
print(f"{free} free of {total}")
click("Events", "events", "-f")
print("Refresh | refresh=true")
'
