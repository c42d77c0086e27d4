"""Where the time of a step goes: its parts against what the machine can do at best.

``lfp-bench perf roofline`` writes `roofline.json`, `roofline.md` and `roofline.png`. What the
folder has is not measured again.

The roofline (Williams, Waterman and Patterson, 2009): an operation of F floating-point operations
that reads and writes B bytes takes at least max(F / P, B / W) seconds on a machine that does P of
the one and W of the other in a second, which is measured first. Here the least time of a part is
the sum over its operations, each of which reads its operands and writes its results once, from
wherever so many bytes fit: W is that of a copy of as many. F of a product or a convolution is what
:mod:`torch.utils.flop_counter` says; of anything else, an operation an element. What is measured
beyond that is what calls cost, and what the kernels leave.

All on one thread, in time of the process (see :mod:`benchmarks.asv.common`).
"""
