"""Plot of the training loss."""

from __future__ import annotations

import io
from collections.abc import Sequence

from ovbench.utils.errors import InputError
from ovbench.utils.extras import install_line


def loss_curve(steps: Sequence[float], epochs: Sequence[float]) -> bytes:
    """Draw the cross-entropy of every step and its mean in every epoch.

    Args:
        steps: Cross-entropy in nats, one value per step.
        epochs: Mean of each epoch.

    Returns:
        A PNG file.

    Raises:
        InputError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("the loss curve needs matplotlib", fix=install_line("plot")) from None
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    length = len(steps) / len(epochs)
    axes.plot(range(1, len(steps) + 1), steps, color="#b8c7d9", linewidth=0.7, label="step")
    middles = [min((number + 0.5) * length, len(steps)) for number in range(len(epochs))]
    axes.plot(middles, epochs, color="#1f4e79", linewidth=1.6, label="mean of an epoch")
    axes.set(xlabel="step", ylabel="cross-entropy, nats", title="psi of Talk2DINO")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
