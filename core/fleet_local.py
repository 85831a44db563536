"""A batch on this machine: one job after the other in this process, or several at once, each device with its own process.

A process of its own sees one GPU only, so every job says `cuda` and can go on on another one; it survives neither a
crash nor the system's hunger for memory, but the batch does: its job is begun once more and goes on from its journal.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec

from core.devices import choose_device, cuda_devices
from core.errors import BadOption, DeltadeckError
from core.events import Event
from core.fleet import Engine, Member, Outcome, Surroundings, Tell, carry_out, failed
from core.fleet_sources import Shared

ATTEMPTS = 2
"""How often a job is begun whose process was lost."""

AGAIN = "Use fewer workers, then run the same command again: it goes on from there."
"""What to do about a job whose process was lost so often, for who gave a command."""

_LOOK = 0.2
"""Seconds after which a quiet queue looks whether it should stop."""

_ENDING = 10.0
"""Seconds that a process is given to end by itself."""


@dataclass(frozen=True)
class Slot:
    """A place where one job runs at a time: the request's device, the process's environment, threads of its sums."""

    device: str
    threads: int
    environment: Mapping[str, str] = field(default_factory=dict)


def plan_slots(device: str, workers: int | None, threads: int, gpus: Sequence[str] | None = None) -> list[Slot]:
    """Places for jobs on this machine: one for each GPU, taken in turn by more `workers`; on the CPU one, or `workers`, which
    share its threads. `gpus`: names as CUDA_VISIBLE_DEVICES takes them (None: those that are there).

    Raises `BadOption` for a device that is not there.
    """
    if workers is not None and workers < 1:
        raise BadOption(f"{workers} workers do no work.", "", "Ask for 1 or more.")
    chosen = str(choose_device(device)) if gpus is None else device
    found = cuda_devices() if gpus is None else list(gpus)
    if chosen == "cuda" and (len(found) > 1 or (workers or 1) > 1):
        count = workers or len(found)
        each = max(1, threads // count)
        return [Slot("cuda", each, {"CUDA_VISIBLE_DEVICES": found[i % len(found)]}) for i in range(count)]
    return [Slot(chosen, max(1, threads // (workers or 1)))] * (workers or 1)


def local_engine(slots: Sequence[Slot], forecasts: Path | None = None) -> Engine:
    """Runs jobs in these slots; `forecasts` as for a `Job`."""
    def run(members: Sequence[Member], tell: Tell, cancelled: Callable[[], bool]) -> Iterator[Outcome]:
        if len(slots) == 1:
            yield from _in_turn(members, slots[0], forecasts, tell, cancelled)
        else:
            yield from _Queue(members, slots, forecasts, tell, cancelled).run()
    return run


def engine_apart(slot: Slot, forecasts: Path | None = None, again: str = AGAIN) -> Engine:
    """Runs jobs one after the other in a process of their own, which sees the slot's environment; `forecasts` as for a `Job`.

    `again` says what to do about a job whose process was lost `ATTEMPTS` times.
    """
    def run(members: Sequence[Member], tell: Tell, cancelled: Callable[[], bool]) -> Iterator[Outcome]:
        yield from _Queue(members, [slot], forecasts, tell, cancelled, again).run()
    return run


def _placed(member: Member, slot: Slot) -> Member:
    return msgspec.structs.replace(member, threads=slot.threads,
                                   request=msgspec.structs.replace(member.request, device=slot.device))


def _in_turn(members: Sequence[Member], slot: Slot, forecasts: Path | None, tell: Tell,
             cancelled: Callable[[], bool]) -> Iterator[Outcome]:
    with Shared() as shared:
        for member in members:
            if cancelled():
                return
            yield carry_out(_placed(member, slot), _named(tell, member.name), cancelled,
                            Surroundings(shared.sources, forecasts))


def _named(tell: Tell, name: str) -> Callable[[Event], None]:
    def pass_on(event: Event) -> None:
        tell(name, event)                              # type: ignore[arg-type]  # every event is one of the union
    return pass_on


# -------------------------------------------------------------------------------------------- several processes
def _serve(line: Connection, environment: Mapping[str, str], forecasts: Path | None) -> None:
    """A slot's process: takes members, gives events and an outcome each. Anything else that comes asks it to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)       # the terminal's Ctrl-C reaches all; the queue says when to stop
    os.environ.update(environment)                     # CUDA reads it when it is first used
    with Shared() as shared, suppress(OSError, EOFError):
        while (member := line.recv()) is not None:
            line.send(carry_out(member, line.send, line.poll, Surroundings(shared.sources, forecasts)))


@dataclass
class _Hand:
    slot: Slot
    process: BaseProcess
    line: Connection
    member: Member | None = None


class _Queue:
    """Members waiting, and the processes that work on others."""

    def __init__(self, members: Sequence[Member], slots: Sequence[Slot], forecasts: Path | None, tell: Tell,
                 cancelled: Callable[[], bool], again: str = AGAIN) -> None:
        self.again = again
        self.waiting, self.free = deque(members), deque(slots)
        self.forecasts, self.tell, self.cancelled = forecasts, tell, cancelled
        self.hands: list[_Hand] = []
        self.begun: dict[str, int] = {}
        self.stopping = False

    def run(self) -> Iterator[Outcome]:
        """Every outcome as it comes; ends early, with what is running stopped, once it is cancelled."""
        try:
            while self.waiting or any(h.member for h in self.hands):
                self._hand_out()
                busy = {h.line: h for h in self.hands if h.member is not None}
                for line in connection.wait(list(busy), _LOOK):
                    yield from self._listen(busy[line])    # type: ignore[index]
                if self.cancelled() and not self.stopping:
                    self.stopping = True
                    self.waiting.clear()
                    for hand in busy.values():
                        with suppress(OSError):
                            hand.line.send(None)
        finally:
            self._dismiss()

    def _hand_out(self) -> None:
        while self.waiting and (idle := self._idle()) is not None:
            member = self.waiting.popleft()
            self.begun[member.name] = self.begun.get(member.name, 0) + 1
            idle.member = member
            with suppress(OSError):                    # it is lost: to be heard next
                idle.line.send(_placed(member, idle.slot))

    def _idle(self) -> _Hand | None:
        for hand in self.hands:
            if hand.member is None:
                return hand
        if not self.free:
            return None
        slot = self.free.popleft()
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_serve, args=(theirs, dict(slot.environment), self.forecasts), daemon=True)
        process.start()
        theirs.close()                                 # so that its end is heard
        self.hands.append(_Hand(slot, process, ours))
        return self.hands[-1]

    def _listen(self, hand: _Hand) -> Iterator[Outcome]:
        member = hand.member
        assert member is not None
        try:
            while hand.member is not None and hand.line.poll():
                said = hand.line.recv()
                if isinstance(said, Outcome):
                    hand.member = None
                    yield said
                else:
                    self.tell(member.name, said)
        except (OSError, EOFError):
            yield from self._lost(hand, member)

    def _lost(self, hand: _Hand, member: Member) -> Iterator[Outcome]:
        self.hands.remove(hand)
        self.free.append(hand.slot)
        hand.line.close()
        hand.process.join(_ENDING)
        if self.stopping:
            return
        if self.begun[member.name] < ATTEMPTS:
            self.waiting.append(member)
            return
        code = hand.process.exitcode or 0
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with code {code}"
        yield failed(member, DeltadeckError(
            f"The process that worked on '{member.name}' ended {how}, {self.begun[member.name]} times.",
            "The system may have run out of memory.", self.again))

    def _dismiss(self) -> None:
        for hand in self.hands:
            with suppress(OSError):
                hand.line.send(None)
            hand.line.close()
        for hand in self.hands:
            hand.process.join(_ENDING)
            if hand.process.is_alive():
                hand.process.terminate()
                hand.process.join()
