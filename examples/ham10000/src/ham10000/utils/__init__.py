"""Utilities of all packages: text files, atomic writes, locks and threads."""

from ham10000.utils.files import (
    PARTIAL,
    is_locked,
    lock_folder,
    new_folder,
    read_text,
    replacing,
    sync_folder,
    write_text,
)
from ham10000.utils.parallel import (
    available_cores,
    end_with_parent,
    in_order,
    on_threads,
    with_bar,
)

__all__ = [
    "PARTIAL",
    "available_cores",
    "end_with_parent",
    "in_order",
    "is_locked",
    "lock_folder",
    "new_folder",
    "on_threads",
    "read_text",
    "replacing",
    "sync_folder",
    "with_bar",
    "write_text",
]
