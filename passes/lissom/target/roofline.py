"""Whether a layer waits for memory: two numbers of the processor and two of the layer.

A layer moves B bytes (its weight once, its input and its output) and does W multiply-accumulates. On a processor that
streams s bytes and does p multiply-accumulates a second it takes about B/s + W/p. It is *memory-bound* when the moving
takes at least half of its time,

    B/s >= T/2,

with T measured, or estimated by that sum: then B/s >= W/p. Zeros in a weight save a memory-bound layer bytes, which any
kernel turns into time; they save another layer arithmetic, which dense kernels do so fast that only some processors
gain. Activations that stay in a cache move faster than s, so that a layer of little arithmetic may come out above all
that memory could give: it is memory-bound too.

Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52 (2009).
"""

from __future__ import annotations

LEAST_SHARE = 0.5
"""Of a layer's time that goes into moving its bytes, from which on it is memory-bound."""


def is_memory_bound(moved_bytes: float, latency_us: float, stream_gbps: float) -> bool:
    """Whether moving its bytes takes at least `LEAST_SHARE` of a layer's latency.

    Args:
        moved_bytes: bytes of its weight, its input and its output.
        latency_us: how long it takes, microseconds.
        stream_gbps: what the processor streams, 10⁹ bytes a second.
    """
    return moving_us(moved_bytes, stream_gbps) >= LEAST_SHARE * latency_us


def estimated_us(macs: float, moved_bytes: float, stream_gbps: float, gmacs: float) -> float:
    """Latency of a layer that was not measured, microseconds.

    Args:
        macs: its multiply-accumulates.
        moved_bytes: bytes of its weight, its input and its output.
        stream_gbps: what the processor streams, 10⁹ bytes a second.
        gmacs: what it computes, 10⁹ multiply-accumulates a second.
    """
    return moving_us(moved_bytes, stream_gbps) + macs / (1e3 * gmacs)


def moving_us(moved_bytes: float, stream_gbps: float) -> float:
    """How long memory takes for some bytes, microseconds."""
    return moved_bytes / (1e3 * stream_gbps)
