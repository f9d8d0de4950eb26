"""Where rwcnet-export starts."""

from rwcnet_runtime.entry import run_command


def export() -> None:
    """Run rwcnet-export."""
    run_command("rwcnet-export", "rwcnet_export.cli:app", extra="export")
