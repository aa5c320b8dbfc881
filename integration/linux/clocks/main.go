// Command clocks runs in a Linux guest and prints what its clocks say, about three times a second
// for each CPU:
//
//	clocks cpu=1 mono=5123456789 real=1790000000123456789 tsc=123456789012 width=4711
//
// mono and real are CLOCK_MONOTONIC and CLOCK_REALTIME in ns, and tsc is the CPU's time-stamp
// counter. They were read one after another within width cycles of that counter. A line is the
// reading with the least width of several, because a guest can be interrupted within one.
//
// The command begins a line with "backwards" instead if a clock said less than before, or the
// counter of the same CPU did. With the argument now, it prints CLOCK_REALTIME and ends.
package main

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// readings is how many readings a line is chosen from.
const readings = 20

// rdtsc reads the time-stamp counter of the CPU that it runs on, after all loads before it.
func rdtsc() uint64

type reading struct {
	mono, real int64 // ns
	tsc, width uint64
}

func main() {
	if len(os.Args) > 1 {
		fmt.Println(time.Now().UnixNano())
		return
	}
	runtime.LockOSThread() // affinity is the thread's
	cpus := runtime.NumCPU()
	last := make([]reading, cpus)
	for {
		for cpu := range cpus {
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				fmt.Fprintln(os.Stderr, "clocks:", err)
				os.Exit(1)
			}
			r, ok := best(last[cpu])
			word := "clocks"
			if !ok {
				word = "backwards"
			}
			fmt.Printf("%s cpu=%d mono=%d real=%d tsc=%d width=%d\n", word, cpu, r.mono, r.real,
				r.tsc, r.width)
			// The other CPUs must not read less of what is the same clock for all of them.
			for i := range last {
				last[i].mono, last[i].real = r.mono, r.real
			}
			last[cpu].tsc = r.tsc
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// best reads the clocks a few times. It returns the narrowest reading, or the first that is less
// than what came before it, and false.
func best(before reading) (reading, bool) {
	var narrowest reading
	for n := range readings {
		r := read()
		if r.mono < before.mono || r.real < before.real || r.tsc < before.tsc {
			return r, false
		}
		if n == 0 || r.width < narrowest.width {
			narrowest = r
		}
		before = r
	}
	return narrowest, true
}

func read() reading {
	var mono, real unix.Timespec
	begin := rdtsc()
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono)
	middle := rdtsc()
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &real)
	return reading{
		mono: mono.Nano(), real: real.Nano(), tsc: middle, width: rdtsc() - begin,
	}
}
