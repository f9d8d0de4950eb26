"""One HTML file that shows what a registration found; it needs no network, script or viewer."""

from rwcnet_runtime.report.page import write_report

__all__ = ["write_report"]
