"""When to look at a batch again; pure."""


def next_look_s(
    age_s: float, *, share: float, shortest_s: float, longest_s: float, jitter: float
) -> float:
    """Seconds until the next look at a batch that is ``age_s`` old.

    A fixed share of its age, so that a batch of any length is noticed to have ended within that
    share of the time it took, with few calls. ``jitter`` is random in [0, 1]: batches that were
    created together are not looked at together for ever.
    """
    wait = max(age_s, 0.0) * share * (0.9 + 0.2 * jitter)
    return min(max(wait, shortest_s), longest_s)
