#!/usr/bin/env Rscript
# Reads a folder of vmm bench with R, without packages: Rscript ratios.R DIR FACTOR LEVEL
#
# Prints, for each configuration, the mean downtime and its ratio to the configuration that has LEVEL
# of FACTOR, over pairs: trials of one block, with the same data and moment of request.
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
factor <- arguments[2]
level <- arguments[3]

trials <- read.csv(file.path(folder, "trials.csv"), colClasses = c(error = "character"))
trials <- trials[trials$error == "", ]
columns <- names(trials)
factors <- columns[3:(match("block_seed", columns) - 1)]
same <- c(setdiff(factors, factor), "block_seed", "offset")

base <- trials[trials[[factor]] == level, c(same, "downtime_ms")]
pairs <- merge(trials, base, by = same, suffixes = c("", "_base"))
means <- aggregate(pairs[c("downtime_ms", "downtime_ms_base")], pairs[factors], mean)
means$ratio <- means$downtime_ms / means$downtime_ms_base
print(means, digits = 4)
