"""Chaos: promotions and rollbacks killed, raced, locked out and tampered with, and what must hold after each.

`make chaos`, or `python -m tests.chaos [--quick]`. One history is a fresh home (a copy of a prepared one), some change
of the champion in a process of its own that something happens to, a recovery in another process, and the look at what
is left: `world.violations`.
"""
