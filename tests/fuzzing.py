"""How inputs are drawn and what bounds hold for each: number, time, memory.

`ANOMALYGPT_FUZZ=5000` raises the number of inputs of each test (`make fuzz`). No input may take longer than
`SECONDS`; one that never ends is stopped by `make fuzz`, which lets no test run longer than half an hour and then
shows where it stood (`faulthandler_timeout`).
"""

import contextlib
import datetime
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from benchmarks.measuring import forget_peak, peak_memory

SECONDS = 20
MEGABYTES = 400
PIXELS = 4_000_000

NUMBER = int(os.environ.get("ANOMALYGPT_FUZZ", "30"))


def fuzz(share: float = 1.0) -> settings:
    """Settings of a test that takes a share of the number of inputs."""
    return settings(
        max_examples=max(10, round(share * NUMBER)),
        deadline=datetime.timedelta(seconds=SECONDS),
        derandomize="ANOMALYGPT_FUZZ" not in os.environ,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextlib.contextmanager
def bounded_memory():
    """All that happens inside takes at most `MEGABYTES` beyond what the process held (Linux)."""
    try:
        forget_peak()
    except OSError:  # no Linux, or not allowed
        yield
        return
    before = peak_memory()
    yield
    taken = (peak_memory() - before) / 2**20
    assert taken <= MEGABYTES, f"{taken:.0f} MiB were taken"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """Intact bytes with some changed, some cut out, some put in, or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(("change", "cut", "insert", "end")))
        if what == "change" and data:
            data[place] = draw(st.integers(0, 255))
        elif what == "cut":
            del data[place : place + draw(st.integers(1, 9))]
        elif what == "insert":
            data[place:place] = draw(st.binary(max_size=9))
        else:
            del data[place:]
    return bytes(data)
