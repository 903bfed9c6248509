#!/bin/bash
# Loads and unloads the on-demand 70B model with mlxctl. The name is that of the script in the original plan.
# Usage: mlx_load_70b.sh start|stop|status
#
# Options after the verb go to mlxctl, whose exit code is this script's: 0 done, 3 no supervisor,
# 75 refused for now (memory).
set -u

case ${1-} in
  start | stop) command=("$1" 70b) ;;
  status) command=(status) ;;
  *)
    echo "usage: ${0##*/} start|stop|status" >&2
    exit 2
    ;;
esac
shift

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# launchd and cron do not have a shell's PATH, so places next to this script are tried after it: installed together,
# `cargo install --root`, and a checkout that was built.
for mlxctl in "$(command -v mlxctl)" "$here/mlxctl" "$here/../bin/mlxctl" "$here/../target/release/mlxctl"; do
  [ -x "$mlxctl" ] && break
done
if [ ! -x "$mlxctl" ]; then
  echo "error: mlxctl is neither on the PATH nor next to $here" >&2
  echo "try: cargo install --path $(dirname "$here")" >&2
  exit 1
fi

exec "$mlxctl" "${command[@]}" "$@"
