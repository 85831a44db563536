"""What the Run page shows of one job, built on the main thread from what the buffer hands over."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence

from app.jobs.buffer import Batch
from app.jobs.curves import CurveStore, CurveView
from app.jobs.queue import Failure, State
from app.jobs.rows import fitted_row, kept_row
from app.jobs.runlog import LogEntry, done_text, fit_text, kept_text, layer_text, stage_text, tune_text
from app.jobs.stages import STAGES, Expected, Stage, TuneCurve, replace_stage
from app.models.layers import LayerRow, as_state
from app.words import count
from core.events import AnyEvent, Finished, LayerFitted, LayerStarted, Progress, StageStarted, TunePoint, Warned

__all__ = ["STAGES", "Expected", "RunState", "Stage", "TuneCurve", "replace_stage"]

LOG = 5_000
"""Lines of the log that are kept."""
_STRETCH = 60.0
"""Seconds over which a rate is taken."""


class RunState:
    """One job as its page shows it. Read on the main thread; `layers` holds frozen rows, which are replaced."""

    def __init__(self, id: str, name: str = "", base_name: str = "", fine_tuned_name: str = "") -> None:
        self.id, self.name, self.base_name, self.fine_tuned_name = id, name, base_name, fine_tuned_name
        self.state = State.WAITING
        self.stages: dict[str, Stage] = {n: Stage(n) for n in STAGES}
        self.stage = ""
        """The stage that is under way, or was last."""
        self.layers: list[LayerRow] = []
        self.current: str | None = None
        """The tensor that is being fitted."""
        self.changed_layers: set[int] = set()
        """Positions in `layers` that the last pump touched."""
        self.changed_curves: set[str] = set()
        """Tensors with new points since the pump before; an empty text stands for tuning."""
        self.fraction = 0.0
        self.layers_total = 0
        self.layers_done = 0
        self.bytes_fitted = 0
        """Bytes of the layers fitted so far."""
        self.bytes_written = 0
        self.bytes_total = 0
        """Of the delta's weights; known once it is being written."""
        self.blocks_done = 0
        self.blocks = 0
        self.log: deque[LogEntry] = deque(maxlen=LOG)
        self.log_count = 0
        """Lines that were ever added: the log holds the last of them."""
        self.warnings = 0
        self.curves = CurveStore()
        self.failure: Failure | None = None
        self.folder = ""
        self.seconds_before = 0.0
        """Spent in runs that have ended."""
        self._index: dict[str, int] = {}
        self._left: tuple[float, float] | None = None
        """Seconds left, and when that was said."""
        self._began: float | None = None
        self._wall = 0.0
        self._stage_began = 0.0
        self._block: tuple[int, float] | None = None
        """The block in work and the time of its first layer."""
        self._pace: deque[tuple[float, float]] = deque()
        self.tune_before: float | None = None
        """Held-out loss before tuning."""
        self._restored = 0

    # --------------------------------------------------------------------------------------------- figures
    @property
    def elapsed(self) -> float:
        """Seconds spent on the job, over all its runs, up to now."""
        return self.seconds_before + self.run_time()

    @property
    def seconds_left(self) -> float | None:
        """The job's own estimate, counted down since it was made; None while there is none."""
        if self._left is None or self._began is None:
            return None
        return max(0.0, self._left[0] - (time.monotonic() - self._left[1]))

    @property
    def is_running(self) -> bool:
        """Whether the worker is at it."""
        return self._began is not None

    @property
    def rate(self) -> float | None:
        """Layers (while fitting) or steps (while tuning) per minute over the last stretch."""
        if len(self._pace) < 2 or not self.rate_unit:
            return None
        (t0, n0), (t1, n1) = self._pace[0], self._pace[-1]
        return 60 * (n1 - n0) / (t1 - t0) if t1 > t0 and n1 > n0 else None

    @property
    def rate_unit(self) -> str:
        """`layers/min`, `steps/min` or nothing."""
        return {"fit": "layers/min", "tune": "steps/min"}.get(self.stage, "")

    @property
    def objective(self) -> str:
        """What tuning lowers: kl or mse."""
        return self.stages["tune"].message

    def row(self, tensor: str) -> LayerRow | None:
        """A layer by name."""
        at = self._index.get(tensor)
        return None if at is None else self.layers[at]

    def winners(self) -> Counter[str]:
        """How many finished layers each axis won; `todo` counts the others."""
        return Counter(row.winner if row.state == "done" else "todo" for row in self.layers)

    def curves_of(self, tensor: str) -> list[CurveView]:
        """Copies of a layer's curves, by slice and axis."""
        return self.curves.of(tensor)

    def tune_curve(self) -> TuneCurve:
        """A copy of the tuning curve."""
        return TuneCurve(self.id, self.name, self.objective, self.stages["tune"].total, *self.curves.tune_columns())

    # ------------------------------------------------------------------------------------------- life of a job
    def expect(self, layers: Iterable[Expected | tuple[str, int | None, str, tuple[int, ...]]]) -> None:
        """Show layers as to do before they are fitted; known ones stay as they are."""
        for found in layers:
            one = Expected(*found)
            if one.tensor not in self._index:
                self._put(LayerRow(one.tensor, one.block, one.kind, tuple(one.shape), change=one.change, state="todo"))
        self.layers_total = max(self.layers_total, len(self.layers))

    def begin(self, note: str = "") -> None:
        """The worker starts, or goes on; `note` is a line for the log."""
        is_again = self.seconds_before > 0 or self.log_count > 0
        self.state, self.failure = State.RUNNING, None
        self._began, self._wall = time.monotonic(), time.time()
        self._stage_began, self._block, self._restored = 0.0, None, 0
        self._left = None
        self._pace.clear()
        self.stage = ""
        self.stages = {n: Stage(n, seconds=s.seconds, message=s.message) for n, s in self.stages.items()}
        self.take_layers(self.layers)                  # each one that is taken up again is told again
        if is_again:
            self._say(0.0, "info", "Resumed: finished layers are taken up again")
        if note:
            self._say(0.0, "info", note)

    def catch_up(self, blocks: Collection[int]) -> None:
        """The program was killed: these blocks are whole in the job's folder, whether or not that could still be noted."""
        if not blocks:
            return
        self.layers_done += sum(row.block in blocks and row.state != "done" for row in self.layers)
        self.blocks_done = max(self.blocks_done, len(blocks))
        self.blocks = max(self.blocks or len({row.block for row in self.layers} - {None}), self.blocks_done)
        if self.stage in ("", "plan", "prepare"):
            self.stage = "fit"
            for name, state in (("plan", "done"), ("prepare", "done"), ("fit", "now")):
                self._stage(replace_stage(self.stages[name], state=state))

    def end(self, state: State, failure: Failure | None = None, folder: str = "") -> None:
        """The worker has stopped: done, failed, paused, cancelled or interrupted."""
        now = self.run_time()
        self._close_stage(now, is_done=state == State.DONE)
        self.seconds_before += now
        for i, row in enumerate(self.layers):
            if row.state == "now":
                self._set(i, as_state(row, "todo"))
        self.state, self.failure, self.folder, self.current = state, failure, folder or self.folder, None
        if state == State.DONE:
            self.fraction = 1.0
        elif state == State.FAILED and failure is not None:
            self._say(now, "error", failure.what)
        else:
            self._say(now, "info", f"{state.value.capitalize()}: finished layers are kept")
        self._began = self._left = None

    def start_pump(self) -> None:
        """Forget what the last pump changed."""
        self.changed_layers, self.changed_curves = set(), set()

    def apply(self, batch: Batch) -> None:
        """Take over a portion of events."""
        for event in batch.events:
            self._apply(event)
        if batch.lost:
            self._say(self.run_time(), "warning", f"{batch.lost:,} events came too fast and were dropped")
        if batch.current and self.stage not in ("tune", "write") and batch.current in batch.touched:
            self.current = batch.current
        self.changed_curves |= batch.touched
        if batch.tune is not None:
            self._paced(batch.tune.time, batch.tune.step)
        if batch.progress is not None:
            self._progress(batch.progress)
        if batch.written is not None:
            self.bytes_written, self.bytes_total = batch.written.bytes, batch.written.total
            self._stage(replace_stage(self.stages["write"], done=float(batch.written.bytes), total=batch.written.total))

    # ----------------------------------------------------------------------------------------- single events
    def _apply(self, event: AnyEvent) -> None:
        if isinstance(event, LayerFitted):
            self._fitted(event)
        elif isinstance(event, LayerStarted):
            self._started(event)
        elif isinstance(event, StageStarted):
            self._enter(event)
        elif isinstance(event, Warned):
            self._say(event.time, "warning", event.message)
        elif isinstance(event, TunePoint) and event.held_out is not None:
            self._measured(event)
        elif isinstance(event, Finished):
            self.folder = event.folder
            self.bytes_total = self.bytes_written = event.weights_bytes
            self._close_stage(event.time, is_done=True)
            self._say(event.time, "done", done_text(event.weights_bytes, self.seconds_before + event.time))

    def _enter(self, event: StageStarted) -> None:
        if event.stage == STAGES[0]:
            self._anew(event.time)
        self._close_stage(event.time, is_done=True)
        for name in STAGES[:STAGES.index(event.stage)] if event.stage in STAGES else ():
            if self.stages[name].state != "done":      # a job may leave a stage out
                self._stage(replace_stage(self.stages[name], state="done"))
        if event.stage in ("tune", "write") and (todo := [i for i, row in enumerate(self.layers) if row.state == "todo"]):
            self._keep_guesses(event.time, todo)
        self.stage, self._stage_began = event.stage, event.time
        self._pace.clear()
        old = self.stages.get(event.stage, Stage(event.stage))
        self._stage(replace_stage(old, state="now", total=event.total, done=0.0, message=event.message or old.message))
        if event.stage == "fit":
            self.blocks = event.total
        if event.stage == "write":
            self.bytes_total = event.total
        if text := stage_text(event.stage, event.total):
            self._say(event.time, "info", text)

    def _anew(self, now: float) -> None:
        """The job's first stage: on a cluster some time after it was sent, and once more where its node was lost."""
        self._wall = time.time() - now
        if not self.stage:
            return
        for i, row in enumerate(self.layers):
            if row.state == "now":
                self._set(i, as_state(row, "todo"))
        self.stage, self.current, self._block, self._left = "", None, None, None
        self.stages = {n: Stage(n, seconds=s.seconds, message=s.message) for n, s in self.stages.items()}

    def _close_stage(self, now: float, is_done: bool) -> None:
        stage = self.stages.get(self.stage)
        if stage is None or stage.state != "now":
            return
        took = max(0.0, now - self._stage_began)
        if self.stage == "fit":
            self._tell_restored(now)
            self._close_block(now, is_done)
            if is_done:
                self.blocks_done = self.blocks
                self._say(now, "done", fit_text(self.layers), took)
        done = float(stage.total) if is_done else stage.done
        self._stage(replace_stage(stage, state="done" if is_done else "now", done=done, seconds=stage.seconds + took))

    def _keep_guesses(self, now: float, todo: list[int]) -> None:
        """Fitting is over: what nobody told of (all of BitDelta's layers) stays at its mean change."""
        for i in todo:
            self._set(i, kept_row(self.layers[i]))
        self.take_layers(self.layers)
        self._say(now, "done", kept_text(len(todo)))

    def _close_block(self, now: float, is_done: bool) -> None:
        if self._block is not None and is_done:
            self._say(now, "step", f"Block {self._block[0]} done, journalled", now - self._block[1])
        self._block = None

    def _tell_restored(self, now: float) -> None:
        if self._restored:
            self._say(now, "info", f"{count(self._restored, 'layer')} taken over from before")
            self._restored = 0

    def _started(self, event: LayerStarted) -> None:
        self._tell_restored(event.time)
        if event.block is not None and (self._block is None or self._block[0] != event.block):
            self._close_block(event.time, is_done=True)
            self._block = (event.block, event.time)
        if not self._pace:
            self._paced(event.time, self.layers_done)
        self.layers_total = max(self.layers_total, event.total)
        row = self.row(event.tensor) or LayerRow(event.tensor, event.block, event.kind, state="todo")
        if row.state == "done":
            self._uncount(row)
        if self.current is None or (now := self.row(self.current)) is None or now.state != "now":
            self.current = event.tensor
        self._put(as_state(row, "now"))

    def _fitted(self, event: LayerFitted) -> None:
        old = self.row(event.tensor)
        seconds: float | None = event.seconds
        if event.restored:                             # what its fit took is known only to whom it was told then
            seconds = old.seconds if old is not None else None
        row = fitted_row(event, old, seconds)
        if old is not None and old.state == "done":
            self._uncount(old)
        self.layers_total = max(self.layers_total, event.total)
        self.layers_done += 1
        self.bytes_fitted += row.bytes
        self._put(row)
        if self.current is None:
            self.current = event.tensor
        if event.restored:
            self._restored += 1
            return
        self._paced(event.time, self.layers_done)
        self._say(event.time, "done", layer_text(row), event.seconds)

    def _measured(self, event: TunePoint) -> None:
        assert event.held_out is not None
        is_start = self.tune_before is None or event.step == 0
        if is_start:
            self.tune_before = event.held_out
        elif event.held_out == self.tune_before and event.step < event.total:
            return                                     # told again where a job goes on
        if event.total:
            self._say(event.time, "step", tune_text(self.objective, self.tune_before, event.held_out, is_start))

    def _progress(self, event: Progress) -> None:
        stage = self.stages.get(event.stage)
        if stage is not None and stage.state == "now":
            # Preparing counts twice: first the prediction's share (of 1), then tensors.
            counted = event.total if event.stage == "prepare" else stage.total
            self._stage(replace_stage(stage, done=event.done, total=counted or stage.total or event.total))
        if event.stage == "fit" and self.stage == "fit":
            self.blocks_done = int(event.done + 1e-6)
        if event.stage != "plan" and math.isfinite(event.fraction):
            self.fraction = min(1.0, max(0.0, event.fraction))
        left = event.seconds_left
        self._left = (left, time.monotonic()) if left is not None and math.isfinite(left) else None

    # ------------------------------------------------------------------------------------------------ small parts
    def _stage(self, stage: Stage) -> None:
        self.stages[stage.name] = stage

    def _paced(self, at: float, number: float) -> None:
        pace = self._pace
        pace.append((at, number))
        while len(pace) > 2 and (at - pace[1][0] > _STRETCH or len(pace) > 1000):
            pace.popleft()

    def _put(self, row: LayerRow) -> None:
        at = self._index.get(row.tensor)
        if at is None:
            self._index[row.tensor] = at = len(self.layers)
            self.layers.append(row)
            self.changed_layers.add(at)
        else:
            self._set(at, row)

    def _set(self, at: int, row: LayerRow) -> None:
        self.layers[at] = row
        self.changed_layers.add(at)

    def _uncount(self, row: LayerRow) -> None:
        self.layers_done -= 1
        self.bytes_fitted -= row.bytes

    def _say(self, at: float, level: str, text: str, seconds: float | None = None) -> None:
        self.log.append(LogEntry(round(self._wall + at, 3), level, text, None if seconds is None else round(seconds, 3)))
        self.log_count += 1
        self.warnings += level == "warning"

    def run_time(self) -> float:
        """Seconds of the present run, 0 between two."""
        return time.monotonic() - self._began if self._began is not None else 0.0

    def take_layers(self, layers: Sequence[LayerRow]) -> None:
        """Put all layers back, as read from a file."""
        self.layers = list(layers)
        self._index = {row.tensor: i for i, row in enumerate(self.layers)}
        done = [row for row in self.layers if row.state == "done"]
        self.layers_done, self.bytes_fitted = len(done), sum(row.bytes for row in done)
