"""Packing, completion and evaluation on a Ray cluster.

The driver cuts the inputs into jobs, and each worker does one job at a time: it writes whole files
and, last, a note with their hashes. So results depend neither on the number of workers nor on which
of them die, and the same command on any cluster does what has no note.

Nothing is imported here: workers that pack images need not wait for torch.
"""
