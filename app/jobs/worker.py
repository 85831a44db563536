"""The threads on which jobs run, each one after another, with a lower priority than the window's."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from app.forecasting import forecasts_folder
from app.jobs.buffer import EventBuffer
from app.jobs.queue import Failure, explain
from app.orders import OrderThread
from core import errors
from core.errors import Cancelled, OutputExists
from core.events import AnyEvent

NICE = 5
"""Added to the worker's niceness on Linux: whatever it computes gives way to painting."""


@dataclass(frozen=True)
class Outcome:
    """A finished job: the delta's folder, bytes of its weights."""

    folder: str
    weights_bytes: int = 0


AGAIN = "Close other programs, then press Retry: the job goes on from its finished layers."
"""What to do about a job whose process was lost more than once."""

Runner = Callable[[dict[str, Any], Callable[[AnyEvent], None], Callable[[], bool]], Outcome]
"""Called with (request, tell, cancelled); raises `Cancelled` after `cancelled()` was true, or whatever goes wrong."""


@dataclass(frozen=True)
class Order:
    """A job for the worker. Setting `stop` asks it to end."""

    id: str
    request: Mapping[str, Any]
    buffer: EventBuffer
    stop: threading.Event


@dataclass(frozen=True)
class End:
    """How an order ended: with an outcome, with a failure, or, with neither, because it was asked to stop."""

    id: str
    seconds: float
    outcome: Outcome | None = None
    failure: Failure | None = None


class Batch:
    """Runs requests with the engine, in this process, one after another; they share their base and calibration tokens.

    The engine is imported by the first one, off the main thread.
    """

    def __init__(self) -> None:
        self._shared: Any = None
        """A `core.fleet_sources.Shared`."""

    def run(self, request: dict[str, Any], tell: Callable[[AnyEvent], None], cancelled: Callable[[], bool]) -> Outcome:
        """A `Runner`."""
        is_first = "core.job" not in sys.modules
        import torch

        from core.fleet_sources import Shared
        from core.job import Job
        from core.request import Request

        if is_first:
            # What the libraries made at import lives as long as the program. The collector would walk through it again and
            # again, each time for longer than a frame.
            gc.freeze()
        _find_gpus()
        self._shared = self._shared or Shared()
        threads = torch.get_num_threads()
        try:
            result = Job(Request(**request), tell, cancelled, forecasts_folder(), self._shared.sources).run()
        finally:
            torch.set_num_threads(threads)             # a resumed job takes those it began with
        return Outcome(str(result.folder), result.delta.weights_bytes)

    def release(self) -> None:
        """Let go of what was shared: no job runs now. The next one opens its base anew."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()


_gpus: tuple[str, ...] = ()


def _find_gpus() -> None:
    global _gpus
    from core.devices import cuda_devices

    _gpus = tuple(cuda_devices())


def known_gpus() -> tuple[str, ...]:
    """CUDA devices as CUDA_VISIBLE_DEVICES takes them; none before the first job has loaded the engine, which is slow."""
    return _gpus


def run_apart(gpu: str) -> Runner:
    """What runs a request in a process of its own that sees this GPU only, so that it can go on on another one later."""
    def run(request: dict[str, Any], tell: Callable[[AnyEvent], None], cancelled: Callable[[], bool]) -> Outcome:
        from core.fleet import Member
        from core.fleet_local import Slot, engine_apart
        from core.request import Request

        asked = Request(**request)
        if os.path.lexists(asked.output) and not os.path.isdir(f"{asked.output}.job"):
            raise OutputExists(f"'{asked.output}' exists already.", "", "Choose another output, or move it away.")
        member = Member(name=asked_name(request), request=asked, threads=_threads())
        engine = engine_apart(Slot(asked.device, member.threads, {"CUDA_VISIBLE_DEVICES": gpu}), forecasts_folder(), AGAIN)
        for outcome in engine([member], lambda _, event: tell(event), cancelled):
            return settled(msgspec.to_builtins(outcome))
        raise Cancelled("Cancelled.")
    return run


def _threads() -> int:
    import torch

    return max(1, torch.get_num_threads() // max(1, len(_gpus)))


def asked_name(request: Mapping[str, Any]) -> str:
    """A job's name where only its request is known: its delta's."""
    return Path(str(request["output"])).name


def settled(outcome: Mapping[str, Any]) -> Outcome:
    """What became of a job elsewhere, as plain data of `core.fleet.Outcome`. Raises what the job raised, by its class and words,
    or `Cancelled`."""
    if outcome["state"] in ("done", "kept"):
        return Outcome(outcome["folder"], outcome["weights_bytes"])
    problem = outcome.get("problem")
    if problem is None:
        raise Cancelled("Cancelled.")
    raise errors.named(problem)


class Worker(OrderThread[Order, End]):
    """Where jobs of one lane run. Should the program have to end during one, its finished steps are journalled."""

    def __init__(self, run: Runner) -> None:
        # The priority is lowered before torch makes threads: they inherit it.
        super().__init__("deltadeck-jobs", partial(_carry_out, run), begin=lower_priority)


def _carry_out(run: Runner, order: Order) -> End:
    began = time.monotonic()
    try:
        outcome = run(dict(order.request), order.buffer.tell, order.stop.is_set)
        return End(order.id, time.monotonic() - began, outcome)
    except Cancelled:
        return End(order.id, time.monotonic() - began)
    except BaseException as e:                         # even an exit belongs to the job, not to the program
        return End(order.id, time.monotonic() - began, failure=explain(e))


def lower_priority() -> None:
    """Lower the calling thread's priority; on Linux only, elsewhere the whole process would be meant."""
    if sys.platform == "linux":
        with suppress(OSError):
            me = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, me, min(19, os.getpriority(os.PRIO_PROCESS, me) + NICE))
