"""Fuzzers of the command line: whatever it is given, it does, or says in one line why not.

    make fuzz                                                  all parts, in full
    make fuzz ARGS="--only configs --num 100 --seed 7"         some trials of one part
    make fuzz ARGS="--only configs --seed 7 --trial 37"        one of them, again

A part is a module with ``NUM``, the trials of a full run; ``prepare(folder)``, which makes once what they start from;
and ``trial(rng, folder, prepared)``, which does one in a folder of its own and returns its `trial.Outcome`. What it
does depends on the seed, the part and its number alone, but for the clock. Each command runs in a fork with limits of
its own on time and memory; see `trial.Process`.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: a process with threads should not fork
