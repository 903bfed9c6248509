"""Tests the pace of the launcher in the given folder, on a clock that only moves when something takes time."""

import importlib.util
import sys
import threading

spec = importlib.util.spec_from_file_location("pace", f"{sys.argv[1]}/pace.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


class World:
    """A GPU that computes what Python has made and handed over, and a thread that rests."""

    def __init__(self, percent):
        self.now, self.rests, self.busy_until = 0.0, [], 0.0
        self.pace = module.Pace(self.synchronize, lambda: self.now)
        self.pace.changed = self
        self.pace.percent = percent

    # Stands in for the pace's condition variable.
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def notify_all(self):
        pass

    def wait(self, seconds):
        self.now += seconds
        self.rests.append(seconds)

    def synchronize(self):
        self.now = max(self.now, self.busy_until)

    def work(self, python, gpu):
        """One step: Python makes the graph, and the GPU computes it while Python continues."""
        self.now += python
        self.pace.gives()
        self.busy_until = max(self.busy_until, self.now) + gpu


def close(found, wanted):
    assert abs(found - wanted) < 1e-9 * max(1, wanted), (found, wanted)


# As long as the work at 50 %, three times as long at 25 %, a third of it at 75 %.
for percent, wanted in ((25, 0.3), (50, 0.1), (75, 0.1 / 3), (5, 1.9), (95, 0.1 / 19)):
    close(module.rest(0.1, percent), wanted)
print("proportional")

# Over many steps of any length, the GPU works for its share, however long Python takes in between.
for percent in (25, 50, 75):
    world, worked = World(percent), 0.0
    lengths = [0.002, 0.04, 0.2, 0.003, 2.0] * 20
    for length in lengths:
        world.pace.step(world.work, 0.0005, length)
        worked += length
    world.pace.wait()
    # The first graph is made before there is anything to rest from, and there is no rest after the last one.
    close(worked / world.now, percent / 100)
    assert len(world.rests) == len(lengths), "a rest after each step"
print("the GPU has its share")

# Time that the server spends between two steps counts as rest, and a long pause leaves nothing to make up for.
world = World(50)
world.pace.step(world.work, 0.0, 0.1)
world.now += 0.04
world.pace.wait()
close(sum(world.rests), 0.06)
world.now += 60
world.pace.step(world.work, 0.0, 0.1)
world.pace.wait()
close(sum(world.rests), 0.16)
print("idle time is rest")

# The first token does not wait for a rest.
world = World(25)
world.pace.step(world.work, 0.0, 0.1)
assert world.rests == []
print("no token waits for its rest")

# Each piece of a prompt that is not batched is followed by its rest; the last one's comes before the next token.
world = World(50)


def answer():
    for _ in range(4):
        world.work(0.0, 0.5)
        world.pace.between()
    yield "a"
    world.work(0.0, 0.1)
    yield "b"


tokens = world.pace.alone(answer())
assert next(tokens) == "a"
assert [round(rest, 6) for rest in world.rests] == [0.5] * 4, world.rests
assert list(tokens) == ["b"]
print("pieces of a prompt")

# In a batch they are steps of their own.
world = World(50)
world.pace.step(lambda: (world.work(0.0, 0.5), world.pace.between()))
assert world.rests == []
print("a batch rests between its steps")

# Ending early closes what is in progress, as without a pace.
ended = []


def cut():
    try:
        yield "a"
        yield "b"
    finally:
        ended.append(True)


tokens = World(50).pace.alone(cut())
next(tokens)
tokens.close()
assert ended == [True]
print("cut")

# Without a pace there is no waiting.
world = World(None)
world.pace.step(world.work, 0.001, 5.0)
world.pace.step(world.work, 0.001, 5.0)
close(world.now, 0.002)
assert world.rests == []
print("without a pace")

# A rest of years ends with the pace, at once.
pace = module.Pace(lambda: None)
pace.set(5)
pace.worked, pace.ended = 1e8, pace.clock()
resting = threading.Thread(target=pace.wait, daemon=True)
resting.start()
assert resting.is_alive()
pace.set(None)
resting.join(60)
assert not resting.is_alive()
print("followed at once")
