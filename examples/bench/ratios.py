#!/usr/bin/env python3
"""Reads a folder of vmm bench with pandas: python3 ratios.py DIR FACTOR LEVEL

Prints, for each configuration, the mean downtime and its ratio to the configuration that has LEVEL
of FACTOR, over pairs: trials of one block, with the same data and moment of request.
"""
import sys

import pandas

folder, factor, level = sys.argv[1:]
trials = pandas.read_csv(f"{folder}/trials.csv", dtype={factor: str})
trials = trials[trials.error.isna()]
columns = list(trials.columns)
factors = columns[2 : columns.index("block_seed")]
same = [f for f in factors if f != factor] + ["block_seed", "offset"]

base = trials[trials[factor] == level]
pairs = trials.merge(base, on=same, suffixes=("", "_base"))
means = pairs.groupby(factors)[["downtime_ms", "downtime_ms_base"]].mean()
means["ratio"] = means.downtime_ms / means.downtime_ms_base
means["pairs"] = pairs.groupby(factors).size()
print(means.round(3).to_string())

# Where a migration's time goes: the rounds of each configuration, by their number.
rounds = pandas.read_csv(f"{folder}/rounds.csv")
print(rounds.groupby(factors + ["n"])[["dirty_pages", "ms"]].mean().round(1).to_string())
