"""Real training data: lists of cases, and pairs made from their files."""

from rwcnet_ref.datasets.files import Files
from rwcnet_ref.datasets.learn2reg import Learn2Reg, read_learn2reg
from rwcnet_ref.datasets.source import CaseSource

__all__ = ["CaseSource", "Files", "Learn2Reg", "read_learn2reg"]
