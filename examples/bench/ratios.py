#!/usr/bin/env python3
"""Reads a folder of vmm bench with pandas: python3 ratios.py DIR FACTOR LEVEL

Prints, for each configuration, the mean downtime and its ratio to the configuration that has LEVEL
of FACTOR, over pairs: trials of one block, with the same data and moment of request.
"""
import sys

import pandas

if len(sys.argv) != 4:
    sys.exit(__doc__)
folder, factor, level = sys.argv[1:]


def read(name):
    """Reads a file in which only an empty cell of a number is missing, not a level named "none"."""
    head = pandas.read_csv(f"{folder}/{name}", nrows=0).columns
    names = {column: str for column in head if column in factors}
    table = pandas.read_csv(
        f"{folder}/{name}", dtype=names, keep_default_na=False, na_values=[""]
    )
    return table.fillna(dict.fromkeys(names, ""))  # a trial may have no level of a factor


columns = list(pandas.read_csv(f"{folder}/trials.csv", nrows=0).columns)
factors = columns[2 : columns.index("block_seed")]
if factor not in factors:
    sys.exit(f"{factor} is no factor: use one of {', '.join(factors)}")
trials = read("trials.csv")
trials = trials[trials.error.isna()]
same = [f for f in factors if f != factor] + ["block_seed", "offset"]

base = trials[trials[factor] == level]
if base.empty:
    sys.exit(f"{level} is no level: use one of {', '.join(trials[factor].unique())}")
pairs = trials.merge(base, on=same, suffixes=("", "_base"))
means = pairs.groupby(factors)[["downtime_ms", "downtime_ms_base"]].mean()
means["ratio"] = means.downtime_ms / means.downtime_ms_base
means["pairs"] = pairs.groupby(factors).size()
print(means.round(3).to_string())

# Where a migration's time goes: the rounds of each configuration, by their number.
rounds = read("rounds.csv")
print(rounds.groupby(factors + ["n"])[["dirty_pages", "ms"]].mean().round(1).to_string())
