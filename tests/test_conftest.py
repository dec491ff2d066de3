from __future__ import annotations

import socket

import pytest


def test_a_connection_to_the_outside_is_refused() -> None:
    with socket.socket() as outside, pytest.raises(AssertionError, match="was tried"):
        outside.connect(("192.0.2.1", 443))
