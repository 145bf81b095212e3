"""Figures are drawn without a display and closed after each test; Ctrl-C reaches the programs that tests start.

Hugging Face never asks the network: models are made from configurations. Nothing that a slow machine makes appear, a
line of progress after ten seconds, is among what a test reads.
"""

import math
import os
import signal
import sys

import pytest

os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell starts programs in the background so, and it is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_lines_of_progress(monkeypatch):
    monkeypatch.setattr("llc_dynamics.progress._FIRST", math.inf)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
