"""As much of mlx.core as the launcher needs; nothing here computes."""

_cache = 0
cpu = "cpu"


class Device:
    type = cpu


def default_device():
    return Device()


def set_cache_limit(limit):
    return 0


def get_active_memory():
    return 1_000_000


def get_cache_memory():
    return _cache


def get_peak_memory():
    return 2_000_000


def clear_cache():
    pass


def set_wired_limit(limit):
    return 0
