// Package guestkernel holds the guest that runs when no other kernel is named: a small kernel in C
// and assembly whose only purpose is to be migrated, to notice whatever a migration does to it, and
// to say so.
//
// # How it runs
//
// The guest boots by PVH: the loader copies the ELF's segments and enters it in 32-bit protected
// mode with EBX pointing at a hvm_start_info. Our own VMM, QEMU and other PVH loaders boot the very
// same file. The guest has two halves. At CPL 0 there is only what must be there: page tables,
// descriptor tables, the timer interrupt, and a handful of calls. Everything else, above all the
// workloads, runs at CPL 3. The reason is KVM without hardware virtualization, where CPL 3 runs at
// full speed and CPL 0 is emulated at half a microsecond an instruction. CPL 3 calls CPL 0 by int3,
// the only entry that works on every KVM.
//
// Devices on PCI are driven from CPL 3, too, by the registers in their BARs. They are mapped where
// our own VMM and QEMU's firmware put them. Only configuration space takes calls. Queues are
// polled.
//
// All whole 2 MiB pages of RAM above the image are mapped, in the order of the memory map, as one
// heap. Each vCPU that answers the boot processor's INIT/SIPI runs one task, or idles if there are
// fewer tasks. Each has a LAPIC timer that ticks ten times a second.
//
// # The kernel command line
//
// Words of the form key=value; sizes take K, M and G, times s, ms, us and m (a bare number is
// seconds).
//
//	workload=idle     halts between ticks
//	  touch=SIZE      first fills that much memory once (fill=zero: with truly zero pages)
//	  verify=1        and goes on verifying it, in rotation
//	  spin=1          spins instead of halting, and so sees every pause
//	workload=phased   each task alternates between a busy phase, in which it rewrites its working
//	                  set again and again, and a cool one, in which it rewrites the first part
//	  ws=64M hot=1M   the working set of each task, and the part that stays hot (0: nothing)
//	  busy=1s cool=1s how long each phase lasts; 0 leaves it out
//	  fill=zero       what the pages are filled with: zero, pattern (compressible) or random (not)
//	  step=out        several tasks have their phases out of step, evenly spread; in: all at once
//	  pace=0          pages a second that a busy phase rewrites at most; 0: as fast as it can
//	  inject=1        damages a page on purpose (also: stale, torn), to show that it is found
//	workload=matmul   matrix multiplication by blocks (cool) and updates of the matrices in place
//	                  (busy)
//	workload=sort     merge sorts of random keys, pass by pass (busy), and verification of the
//	                  result (cool)
//	workload=kv       a key-value store that serves requests (cool), and also takes in bursts of
//	                  updates (busy)
//	  ws= hot= busy=  as for phased; the phases of matmul and sort end with the first whole piece
//	  cool= step=     of work after their time, and hot= concerns only phased and kv
//	  rate=50000      kv: requests a second to each task
//	workload=heap     each task has a heap that is mostly garbage, and declares the garbage to be
//	                  not worth moving
//	  ws=64M          the heap of each task
//	  live=20         percent of it that lives on
//	  declare=1       0: the garbage is not declared
//	workload=disk     each task reads and writes blocks of the virtio disk of its number, at
//	                  random, and verifies what it reads
//	  ws=64M          how much of the disk, from its beginning; less if the disk has less. It is
//	                  overwritten
//	  block=4K        the size of each request
//	  depth=8         requests in flight, 1 to 64
//	  keep=0          so many blocks that were read are left alone before they are verified
//	  writes=50       percent of the requests that write
//	  inject=1        damages what it writes, as for phased
//	workload=net      sends frames by the virtio network card to a peer that sends them back, and
//	                  verifies what comes
//	  depth=8         frames under way, 1 to 64
//	workload=echo     sends the lines that come in on COM1 back
//	workload=fault    faults on purpose
//	workload=tagbench measures what a tag costs in each way, prints one line and ends
//
//	secs=0            ends after that time with status 0; 0: never
//	tasks=N           tasks, one a vCPU; by default as many as there are vCPUs (phased, matmul,
//	                  sort, kv), else one
//	cpus=N            waits for N vCPUs and uses no more
//
//	tag=none          which phases the tasks mark as segments for task guidance, each task under
//	                  its own number:
//	                    cool    by a store to the tag port's MMIO page
//	                    fast    the same phases, by the tag page
//	                    device  the same phases, by a tag page in the tag device's RAM
//	                    port    the same phases, by I/O port
//	                    busy    the wrong phases
//	                    random  segments that begin and end at random times
//	watch=1           a task that tags also reads EPOCH, on both sides of each tag and every 10
//	                  ms, to tell of a move; each reading leaves the VM, so 0 is to measure what
//	                  tags cost by themselves
//	coop=1            a busy phase ends early, at the end of a pass, when a migration waits for
//	                  the task
//	seed=1            the seed of random data and times
//	dots=0            how often task 0 prints a dot, on a line of its own, while it runs, as in
//	                  dots=1ms: the longest silence of the console is what somebody outside saw of
//	                  a pause. Printing is not a step, so gap_us misses a pause that falls into it
//
// A machine without a tag port turns tag= into none, and a line says so.
//
// # What it says
//
// One line a second from each task, further fields may follow:
//
//	hb task=0 ms=1000 passes=12 writes=196608 gap_us=84 ticks=10 gap_max_us=84 print_us=1400
//	   stalls=1:52,64:1 phase=busy tsc_ms=7 kvmclock_ms=7      (one line, broken here)
//
// ms is time since boot, passes counts whole rewritings of the working set, writes pages rewritten,
// and ticks timer interrupts. gap_us is the longest time between two consecutive steps since the
// last line, gap_max_us since the beginning; a step is one page, or one turn of a loop, so that a
// pause of the VM is seen in full. The time that printing the line took is left out of it and
// reported in the next line as print_us. tsc_ms and kvmclock_ms are the two clocks themselves.
// phase is prepare while a task fills its memory; its run begins after that, and the n-th heartbeat
// of the run comes n seconds after its first phase began.
//
// stalls is a histogram of the same gaps since the last line: 52 of 1 to 2 us, one of 64 to 128 us,
// by powers of two up to 67 s, or "-" if there were none. A program that waits on its own (idle,
// disk) has its waits among them.
//
// The programs add fields of their own. matmul: products, the whole ones so far, and n, the side of
// its matrices. sort: sorts and verified. kv: requests answered since the last line and their
// latencies in microseconds, p50_us, p99_us, p999_us and max_us, and updates, those of the bursts
// so far. Requests arrive on a schedule; a request that arrives while the VM stands still waits,
// and its latency says so.
//
// disk: reads, the blocks read so far; requests answered since the last line, kib_s, the KiB of
// data a second that they moved, and their latencies p50_us, p99_us and max_us, until the guest
// took the answer. There writes counts blocks, too. net: the same of frames, and lost, those that
// were not back within half a second.
//
// Each program verifies what it computes, and src/cpl3 says how at the top of each one's source. In
// phased, every page that a task writes carries its number, its task, a generation and check words,
// and is verified before it is written again (src/cpl3/pages.h has the layout). The first mismatch
// ends the VM:
//
//	CORRUPT task=0 page=1024 want 0x3 got 0x2 word=2 kind=lost-write
//
// In disk, page is the number of a block. A request that the disk answers with an error ends the VM
// with a FAULT line.
//
// When a task that tags sees by EPOCH that the VM has moved, it says whether that happened in a
// segment:
//
//	moved task=0 epoch=1 inside=1 ms=4711 phase=cool
//
// inside is 0 or 1. If the reading right before a tag did not show the change and the reading right
// after it did, inside is the name of the tag: enter or exit.
//
// # How it ends
//
// The guest ends by a byte written to I/O port 0xf4, which is the exit status: 0 after secs=, 1
// after CORRUPT, 2 after a FAULT line (an exception at either privilege level, or a disk's error),
// and 3 if the command line makes no sense, with one line that says why. QEMU's isa-debug-exit
// device turns status b into its own exit status 2b+1.
//
// # Building it
//
// The ELF is committed, so that nobody needs a C compiler to build or run this project. make -C
// guestkernel builds it from src/. A note in it carries the digest of its sources, which the
// package's tests compare with the sources beside it. make -C guestkernel check builds it once more
// and compares bytes.
package guestkernel
