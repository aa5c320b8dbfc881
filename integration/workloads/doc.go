// Command workloads makes the Linux guests of examples/workloads out of Debian's packages: a
// kernel, an initial RAM disk, and a disk for each workload. It needs apt or a filled cache (as the
// rig does), dpkg-deb, mke2fs and Go, and no rights.
//
// Each guest has its load inside, so that nothing outside of it has to be moved along. It prints
// "workload ready" once it is warm, checks its answers from then on, and crashes when one is wrong.
// Loads that are programs of ours (folder load) print heartbeats, too: meter.go there has what is
// in them, and histogram.go the latencies.
package main
