"""What is kept of a training beside the model: a JSON with every step, and a curve."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynamicseg._files import whole_file
from dynamicseg.io import write_json
from dynamicseg.training.train import Training

NO_PLOT = "no curve was drawn: that needs matplotlib (pip install 'dynamicseg[plot]')"


def log_path(model: Path) -> Path:
    """The JSON that goes with a model file."""
    return model.with_name(f"{model.stem}_training.json")


def curve_path(model: Path) -> Path:
    """The PNG that goes with a model file."""
    return model.with_name(f"{model.stem}_training.png")


def checkpoint_path(model: Path) -> Path:
    """Where the training of a model file is saved on the way."""
    return model.with_name(f"{model.stem}_checkpoint.safetensors")


def write_log(path: Path, training: Training, images: list[str], failures: list[str]) -> None:
    """The model's description, every step, every look at images that were held out, and the inputs."""
    write_json(
        path,
        {
            "description": training.model.description.model_dump(mode="json"),
            "stopped": training.stopped,
            "seconds": round(training.seconds, 2),
            "images": images,
            "failures": failures,
            "looks": [asdict(look) for look in training.looks],
            "history": training.history,
        },
    )


def write_curve(path: Path, training: Training) -> None:
    """Loss and number of labels over the steps, with those of the images that were held out.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, labels = figure.subplots(2, 1, sharex=True)
    _draw(loss, training, "loss")
    _draw(labels, training, "n_labels")
    loss.set_ylabel("loss")
    loss.legend()
    labels.set_ylabel("labels in a crop")
    labels.set_xlabel("step")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw(axes: Any, training: Training, what: str) -> None:
    steps = [record["step"] for record in training.history]
    axes.plot(steps, [record[what] for record in training.history], linewidth=0.8, label="crops trained on")  # type: ignore[literal-required]
    looks = training.looks
    axes.plot([look.steps for look in looks], [getattr(look, what) for look in looks], "o-", label="images held out")
    axes.grid(alpha=0.3)
