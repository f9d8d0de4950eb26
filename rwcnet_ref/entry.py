"""Where rwcnet-train starts."""

from rwcnet_runtime.entry import run_command


def train() -> None:
    """Run rwcnet-train."""
    run_command("rwcnet-train", "rwcnet_ref.training.cli:app", extra="train")
