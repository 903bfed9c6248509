"""Starts mlx_lm.server inside a backend, with what mlxctl changes in it, and a link to the supervisor.

    python launcher.py <spec.json> <arguments of mlx_lm.server ...>

Written by mlxctl, with the files next to it that it imports; changes are overwritten. It stands on public interfaces:
the standard library, mlx.core and runpy. It changes parts of mlx_lm only if they look as expected.
"""

import contextlib
import faulthandler
import gc
import json
import os
import runpy
import signal
import sys
import threading
import traceback


@contextlib.contextmanager
def own_folder():
    """Has Python find the modules next to this file, where PYTHONSAFEPATH keeps it from looking. The folder stays free
    of compiled files."""
    folder = os.path.dirname(os.path.abspath(__file__))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = before


# All of them now: another version of mlxctl may replace the files while MLX is being imported.
with own_folder():
    import card
    import pace
    import prompt_store
    import serving
    from launcher_answer import Answer, answer_by_name
    from launcher_guard import guard_requests
    from launcher_link import Link
    from launcher_log import Log, describe, warn
    from launcher_memory import limit_wired, shrink_heap_with_cache
    from launcher_prompts import Prompts, keep_prompts_alone, leave_a_token
    from launcher_room import Room
    from launcher_watch import Watch

# What mlx.launch and mpirun tell a rank.
RANK_VARIABLES = ("MLX_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")


def stay_alone():
    """Keeps MLX from loading MPI in a process that is not a rank.

    mlx_lm.server asks MLX whether it is one of several, and MLX then loads any MPI that is installed, which ends the
    process if it finds no way to start its daemon. MLX takes the library's name from this variable; one that does not
    exist counts as no MPI.
    """
    if not any(name in os.environ for name in RANK_VARIABLES):
        os.environ.setdefault("MLX_MPI_LIBNAME", "none")


def follow_pace(link, mx):
    """Has the model work only part of the time when the link asks for it."""
    try:
        paced = pace.Pace(mx.synchronize)
        followed = paced.install(mx)
    except (ImportError, AttributeError, TypeError, ValueError):
        followed = False
    if not followed:
        warn("this mlx-lm generates in another way than is known; memory.pace changes nothing")
        return
    link.pace = paced
    link.set_pace(link.state["pace"])


def change_server(context):
    """Changes mlx_lm/server.py and the batches of mlx_lm/models/cache.py. `context`: tokens; None: not held exactly."""
    try:
        held = context is None or serving.exact_context(context)
    except (ImportError, AttributeError, TypeError, ValueError):
        held = False
    if not held:
        warn("this mlx-lm tokenizes in another way than is known; the context is held by an estimate only")
    try:
        shared = serving.alone_without_copies()
    except (ImportError, AttributeError, TypeError, ValueError):
        shared = False
    if not shared:
        warn("the batches of this mlx-lm are not as known; a conversation is copied before its first token")


def change_standard_library(spec, watch):
    """What needs neither MLX nor mlx_lm. Both import these modules, so it comes first."""
    guard_requests(spec["secret"])
    # Before Answer, whose send_response calls the one that is there.
    if spec.get("model"):
        answer_by_name(spec["model"])
    Answer.install()
    watch.install()
    stay_alone()


def change_mlx(spec, link, watch, mx):
    """What needs MLX, then what needs mlx_lm.

    Several of these wrap the same function of mlx_lm, and a later one encloses the earlier ones. Of a fetch from the
    prompt cache, that is the room, the token that is left over, the store; of a step, the pace, the room. The store
    comes before Prompts, so that the caches it makes for itself are not among those that are given up.
    """
    shrink_heap_with_cache(mx)
    limit_wired(mx, spec.get("wired", "off"))
    if spec.get("cache_limit") is not None:
        mx.set_cache_limit(spec["cache_limit"])
    if card.adds_masks(mx):
        card.convert_masks_once(mx)
    keeper = None
    if (spec.get("prompt_store") or {}).get("bytes"):
        keeper = prompt_store.install(spec["prompt_store"], sys.argv[2:], mx, warn, link.tell_store)
    prompts = Prompts(spec["secret"], keeper)
    prompts.install(spec.get("prompt_cache_bytes"))
    link.mx, link.prompts = mx, prompts
    watch.last = prompts.store_the_last
    leave_a_token()
    room, limit = spec.get("room"), spec.get("prompt_cache_bytes")
    keep_prompts_alone(Room(room, limit) if room and limit is not None else None, keeper)
    follow_pace(link, mx)
    change_server(spec.get("context"))


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        spec = json.load(file)
    Log.install()
    link = Link(spec["link"], spec["generation"], spec.get("log"))
    watch = Watch(link)

    tied = spec.get("tied", False)
    exit_code = 0

    def end(code, error=None):
        nonlocal exit_code
        watch.ending, exit_code = True, code
        link.tell({"event": "exiting", "code": code, "error": error})
        link.close()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, RuntimeError):
                pass
        # Not sys.exit: that waits for the generation thread, which after a failed bind never ends.
        os._exit(code)

    def on_term(_signal, _frame):
        if watch.ending:
            link.close()
            os._exit(exit_code)
        # A rank's peers may be gone, and its generation thread may wait for them forever. Before the server listens
        # there is nothing to tear down, and an import may swallow a KeyboardInterrupt.
        if tied or not watch.listening.is_set():
            end(0)
        watch.ending = True
        # What is under way must end soon.
        link.set_pace(None)
        raise KeyboardInterrupt

    def end_with_the_keeper():
        """Whoever started this rank holds the other end of its standard input."""
        while os.read(0, 4096):
            pass
        os._exit(1)

    faulthandler.enable(2)
    if tied:
        threading.Thread(target=end_with_the_keeper, name="tie", daemon=True).start()
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_term)
    link.open()
    try:
        change_standard_library(spec, watch)
        import mlx.core as mx

        change_mlx(spec, link, watch, mx)
        sys.argv = ["mlx_lm", "server", *sys.argv[2:]]
        runpy.run_module("mlx_lm", run_name="__main__", alter_sys=True)
        # The server and the last references are gone: the weights go back to the system before the process ends.
        gc.collect()
        mx.clear_cache()
        code, error = 0, None
    except KeyboardInterrupt:
        code, error = 0, None
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        error = f"mlx_lm.server refused to start (exit code {code})" if code else None
    except BaseException as failure:
        traceback.print_exc()
        code, error = 1, describe(failure)
    end(code, error)


if __name__ == "__main__":
    main()
