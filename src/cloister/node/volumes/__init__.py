"""Encrypted volumes: one per project, open while a compute of it runs, closed and locked otherwise.

`Volumes` is what others use. A driver keeps volumes (`encrypted.py`, `plain.py`); under `luks` an opener makes a block
device of an image (`dmcrypt.py` in the kernel, `qemu.py` in user space). `headroom.py` keeps room back for a full disk.
`Reencryptions` gives a volume another key, block by block (`reencryption.py`, `copying.py`, `pair.py`). Why these and no
others: docs/adr/0001, and for the last docs/adr/0034.
"""

from cloister.node.volumes.model import KeySource
from cloister.node.volumes.reencryption import Reencryptions
from cloister.node.volumes.volumes import Volumes, choose_driver

__all__ = ["KeySource", "Reencryptions", "Volumes", "choose_driver"]
