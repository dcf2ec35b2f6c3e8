"""The description for package indexes: README.md without what only a clone has, its pictures and links to its files.

All else stands in setup.cfg.
"""
import re
from pathlib import Path

from setuptools import setup

HERE = r"\((?!https?:|#|mailto:)[^)]*\)"  # the target of a link that is not absolute
text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
text = re.sub(rf"(?ms)^!\[[^]]*\]{HERE}\n(\n\*(?!\*).*?\*\n)?\n?", "", text)  # a picture and its caption
text = re.sub(rf"\[([^]]+)\]{HERE}", r"\1", text)
setup(long_description=text, long_description_content_type="text/markdown")
