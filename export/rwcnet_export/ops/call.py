"""What every call of an operator in domain `rwcnet` carries."""

from __future__ import annotations

DOMAIN = "rwcnet"
VERSION = 1

# For TensorRT: the plugin to take instead of the function body, if it is registered.
PLUGIN: dict[str, str | int] = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}
