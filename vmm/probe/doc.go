// Package probe finds out what this host's KVM offers.
//
// KVM reports some of it as capabilities. Some shows only in a VM with a vCPU, which is made and
// thrown away: the TSC's frequency, and whether performance counters are gone. KVM does not report
// by what means it runs guests; that is in /proc/cpuinfo and /sys/module.
//
// [Ask] has all of it, for `vmm doctor`, reports and tests, with notes on what follows for users.
// [CPU] and [Offer] have the processor alone, which package vmm makes a guest's CPUID table from.
package probe
