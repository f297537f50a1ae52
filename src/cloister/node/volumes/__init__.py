"""Encrypted volumes: one per project, open while a compute of it runs, closed and locked otherwise.

`Volumes` is what others use. A driver keeps volumes (`encrypted.py`, `plain.py`); under `luks` an opener makes a block
device of an image (`dmcrypt.py` in the kernel, `qemu.py` in user space). `headroom.py` keeps room back for a full disk.
Why these and no others: docs/adr/0001.
"""

from cloister.node.volumes.model import KeySource
from cloister.node.volumes.volumes import Volumes, choose_driver

__all__ = ["KeySource", "Volumes", "choose_driver"]
