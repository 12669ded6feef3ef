"""The noise of torch on a CUDA device, made on a CPU: Philox 4x32-10 and Box and Muller's transform.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; Box and Muller 1958.
"""

from collections.abc import Sequence

import numpy as np

Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]

_ROUNDS = 10
_FACTORS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_TO_UNIT = 2.0**-32
_TO_CIRCLE = 2.0**-32 * 2 * np.pi


def philox(counter: Sequence[Words], key: tuple[int, int]) -> list[Words]:
    """Four words of 32 bits for each counter of four words. key: two words."""
    a, b, c, d = counter
    k, m = key
    for _ in range(_ROUNDS):
        first, second = a * np.uint64(_FACTORS[0]), c * np.uint64(_FACTORS[1])
        a, b = (second >> _HALF) ^ b ^ np.uint64(k), second & _LOW
        c, d = (first >> _HALF) ^ d ^ np.uint64(m), first & _LOW
        k, m = (k + _WEYL[0]) & 0xFFFFFFFF, (m + _WEYL[1]) & 0xFFFFFFFF
    return [a, b, c, d]


def normal(seed: int, calls: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """`count` numbers as `torch.randn` draws them on a CUDA device, in float32: to its rounding, for it has other
    functions for logarithm and sine.

    Each number has a thread of its own on the device: its counter is (calls, number of the thread), its key is the
    seed, and the first normal number of four is taken. So it is for as many numbers as the device has threads at once,
    from 60,000 to 400,000; a larger tensor has other numbers, which depend on the device.

    Args:
        seed: that of the generator, of 64 bits.
        calls: the draws that the generator has made before.
        count: how many.
    """
    threads = np.arange(count, dtype=np.uint64)
    low, high = (np.full(count, word, np.uint64) for word in (calls & 0xFFFFFFFF, calls >> 32))
    x, y, _, _ = philox([low, high, threads & _LOW, threads >> _HALF], (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    u = x.astype(np.float64) * _TO_UNIT + _TO_UNIT / 2
    v = y.astype(np.float64) * _TO_CIRCLE + _TO_CIRCLE / 2
    return (np.sqrt(-2 * np.log(u)) * np.sin(v)).astype(np.float32)
