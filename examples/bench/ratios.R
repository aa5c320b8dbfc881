#!/usr/bin/env Rscript
# Reads a folder of vmm bench with R, without packages: Rscript ratios.R DIR FACTOR LEVEL
#
# Prints, for each configuration, the mean downtime and its ratio to the configuration that has LEVEL
# of FACTOR, over pairs: trials of one block, with the same data and moment of request.
arguments <- commandArgs(trailingOnly = TRUE)
if (length(arguments) != 3) {
  stop("usage: Rscript ratios.R DIR FACTOR LEVEL")
}
folder <- arguments[1]
factor <- arguments[2]
level <- arguments[3]

file <- file.path(folder, "trials.csv")
columns <- names(read.csv(file, nrows = 1))
factors <- columns[3:(match("block_seed", columns) - 1)]
if (!factor %in% factors) {
  stop(factor, " is no factor: use one of ", paste(factors, collapse = ", "))
}
# Levels are text, also 10 and NA. An empty cell of a factor is a level: some trials have none.
text <- c("error", factors)
trials <- read.csv(file, colClasses = setNames(rep("character", length(text)), text),
                   na.strings = "")
trials[text][is.na(trials[text])] <- ""
trials <- trials[trials$error == "", ]
same <- c(setdiff(factors, factor), "block_seed", "offset")

if (!level %in% trials[[factor]]) {
  stop(level, " is no level: use one of ", paste(unique(trials[[factor]]), collapse = ", "))
}
base <- trials[trials[[factor]] == level, c(same, "downtime_ms")]
pairs <- merge(trials, base, by = same, suffixes = c("", "_base"))
means <- aggregate(pairs[c("downtime_ms", "downtime_ms_base")], pairs[factors], mean)
means$ratio <- means$downtime_ms / means$downtime_ms_base
print(means, digits = 4)
