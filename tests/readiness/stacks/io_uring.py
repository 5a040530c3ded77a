"""An accept in an io_uring, made by hand since Python has none; see io_uring(7) and linux/io_uring.h."""

from __future__ import annotations

import ctypes
import mmap
import struct

from start import LISTENER, hold, serving

NR_SETUP, NR_ENTER = 425, 426
IORING_OFF_SQ_RING, IORING_OFF_SQES = 0, 0x10000000
IORING_OP_ACCEPT = 13
IORING_ENTER_GETEVENTS = 1

libc = ctypes.CDLL(None, use_errno=True)
parameters = (ctypes.c_uint32 * 30)()  # struct io_uring_params: 10 words, sq_off and cq_off of 10 words each
ring = libc.syscall(NR_SETUP, 4, parameters)
assert ring >= 0, ctypes.get_errno()
sq_tail, sq_array = parameters[11], parameters[16]
queue = mmap.mmap(ring, sq_array + 4 * 4, offset=IORING_OFF_SQ_RING)
entries = mmap.mmap(ring, 4 * 64, offset=IORING_OFF_SQES)
hold()
serving()
entries[:8] = struct.pack("=BBHi", IORING_OP_ACCEPT, 0, 0, LISTENER)
queue[sq_array : sq_array + 4] = struct.pack("=I", 0)
queue[sq_tail : sq_tail + 4] = struct.pack("=I", 1)
libc.syscall(NR_ENTER, ring, 1, 1, IORING_ENTER_GETEVENTS, None, 0)
libc.pause()
