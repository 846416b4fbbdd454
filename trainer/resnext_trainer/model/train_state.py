"""State of a training: weights, optimizer and moving average of the weights."""

from typing import Any

from resnext_trainer.config.models import Training
from resnext_trainer.model.ema import PREFIX, ExponentialMovingAverage
from resnext_trainer.model.optimizer import SGDMomentum
from resnext_trainer.model.resnext import build_for_device


class TrainState:
    """The variables of one rank. `train_step` changes them."""

    def __init__(self, config: Training, device: str) -> None:
        """device: the pinned device, gpu or cpu."""
        self.config, self.xla = config, config.xla
        self.graphs: dict[Any, Any] = {}
        self.model = build_for_device(config, device)
        self.average = (
            ExponentialMovingAverage(self.model, build_for_device(config, device), config.ema_decay)
            if config.ema_decay
            else None
        )
        scale = config.precision.loss_scale if config.precision.mode == "fp16" else 1.0
        branch = device == "cpu" and not config.xla
        self.optimizer = SGDMomentum(self.model.weights, config.optimizer.momentum, scale, branch=branch)

    def variables(self) -> dict[str, Any]:
        """All variables by their name in a checkpoint."""
        velocity = {f"velocity/{name}": value for name, value in self.optimizer.velocity.items()}
        scale = {"loss-scale": self.optimizer.scale, "good-steps": self.optimizer.good_steps}
        average = self.average.state() if self.average else {}
        return {**self.model.weights, **self.model.statistics, **velocity, **scale, **average}

    def statistics(self) -> dict[str, Any]:
        """Moving statistics of the model and of its average, by their name in `variables`."""
        averaged = self.average.network.statistics if self.average else {}
        return {**self.model.statistics, **{PREFIX + name: value for name, value in averaged.items()}}

    def reset(self) -> None:
        """Resets every variable to its initial value."""
        self.model.reset()
        self.optimizer.reset()
        if self.average:
            self.average.reset()
