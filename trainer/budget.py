"""How much of the budget is spent: the one clock that every schedule follows."""

import time

from trainer.config import BudgetConfig


class Budget:
    """Turns steps and seconds into the fraction that is spent.

    With steps or epochs the fraction is a function of the step, so a resumed run repeats an
    uninterrupted one exactly; with minutes it follows the wall clock.

    Args:
        config: what was asked for.
        steps_per_epoch: of the sampler.
    """

    def __init__(self, config: BudgetConfig, *, steps_per_epoch: int) -> None:
        self.seconds = None if config.minutes is None else config.minutes * 60
        self.steps = config.steps
        if config.epochs is not None:
            self.steps = max(1, round(config.epochs * steps_per_epoch))
        self._before = 0.0
        self._started: float | None = None
        self._last = 0.0

    def start(self, *, elapsed_s: float = 0.0) -> None:
        """Starts the clock, with what an earlier process has spent."""
        self._before = elapsed_s
        self._started = self._last = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds spent, of all processes of this run."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def progress(self, step: int) -> float:
        """Returns the fraction that is spent when a step begins, in [0, 1]."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        assert self.seconds is not None
        return min(self.elapsed_s / self.seconds, 1.0)

    def is_spent(self, step: int) -> bool:
        """Returns whether to stop before a step begins; a time budget has room for one step at least."""
        if self.steps is not None:
            return step >= self.steps
        now = time.monotonic()
        took, self._last = now - self._last, now
        assert self.seconds is not None
        return step > 0 and self.elapsed_s + 0.5 * took >= self.seconds

    def eta_s(self, step: int) -> float:
        """Returns the seconds that are left, estimated."""
        if self.seconds is not None:
            return max(0.0, self.seconds - self.elapsed_s)
        assert self.steps is not None
        return self.elapsed_s / max(step, 1) * (self.steps - step)
