package trial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// noiseWindow is how long the host is watched before a trial.
const noiseWindow = 100 * time.Millisecond

// ticksPerSecond is USER_HZ, the unit of /proc/stat. It is 100 on every Linux with the
// architectures that this program runs on.
const ticksPerSecond = 100

// listen measures what the host does before the trial does anything.
func listen(ctx context.Context) Noise {
	before, errBefore := readStat()
	begun := time.Now()
	sleep(ctx, noiseWindow)
	after, errAfter := readStat()
	n := Noise{Load1: loadAverage()}
	if errBefore == nil && errAfter == nil {
		s := time.Since(begun).Seconds() * ticksPerSecond
		n.BusyCPUs = float64(after.busy-before.busy) / s
		n.StolenCPUs = float64(after.stolen-before.stolen) / s
	}
	return n
}

func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return Unknown
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return Unknown
	}
	return v
}

// stat is the sum over all CPUs, in ticks.
type stat struct {
	busy   uint64 // at work, interrupts included
	used   uint64 // by processes
	stolen uint64
}

func readStat() (stat, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return stat{}, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return parseStat(line)
}

// parseStat reads the first line of /proc/stat, proc(5): user nice system idle iowait irq softirq
// steal ...
func parseStat(line string) (stat, error) {
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return stat{}, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var s stat
	for i, v := range f[1:9] {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("/proc/stat: %w", err)
		}
		switch i {
		case 3, 4: // idle, iowait
		case 7:
			s.stolen = n
		case 5, 6: // irq, softirq
			s.busy += n
		default:
			s.busy, s.used = s.busy+n, s.used+n
		}
	}
	return s, nil
}

// listenInterval is the length of the intervals whose peak is taken. One look costs a few
// milliseconds of one CPU.
const listenInterval = time.Second

// moment is what had been used by a point in time.
type moment struct {
	at     time.Time
	stat   stat
	ours   float64 // seconds of the bench and of what it started
	failed bool
}

// listener measures what others do while a trial runs, until stop.
type listener struct {
	quit chan struct{}
	done chan NoiseDuring
}

func newListener() *listener {
	l := &listener{make(chan struct{}), make(chan NoiseDuring, 1)}
	first := look()
	go func() { l.done <- l.run(first) }()
	return l
}

func (l *listener) run(first moment) NoiseDuring {
	tick := time.NewTicker(listenInterval)
	defer tick.Stop()
	var n NoiseDuring
	for last := first; ; {
		select {
		case <-tick.C:
			now := look()
			others, stolen := between(last, now)
			n.OthersPeakCPUs, n.StolenPeakCPUs = max(
				n.OthersPeakCPUs,
				others,
			), max(
				n.StolenPeakCPUs,
				stolen,
			)
			last = now
		case <-l.quit:
			n.OthersCPUs, n.StolenCPUs = between(first, look())
			n.OthersPeakCPUs, n.StolenPeakCPUs = max(
				n.OthersPeakCPUs,
				n.OthersCPUs,
			), max(
				n.StolenPeakCPUs,
				n.StolenCPUs,
			)
			return n
		}
	}
}

func (l *listener) stop() NoiseDuring {
	close(l.quit)
	return <-l.done
}

// between is what others used, and what was stolen, between two moments, in CPUs.
func between(a, b moment) (others, stolen float64) {
	s := b.at.Sub(a.at).Seconds()
	if a.failed || b.failed || s <= 0 {
		return 0, 0
	}
	used := float64(b.stat.used-a.stat.used) / ticksPerSecond
	// Ticks are coarse, and processes are not all read at the same moment.
	return max(
			0,
			used-(b.ours-a.ours),
		) / s, float64(
			b.stat.stolen-a.stat.stolen,
		) / ticksPerSecond / s
}

func look() moment {
	m := moment{at: time.Now()}
	var errStat, errOurs error
	m.stat, errStat = readStat()
	m.ours, errOurs = usedByTree(os.Getpid())
	m.failed = errStat != nil || errOurs != nil
	return m
}

// usedByTree is the processor time, in seconds, of a process, its descendants, and those of them
// that have ended and were waited for.
func usedByTree(root int) (float64, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	procs := map[int]procStat{}
	for _, path := range stats {
		// A process may have ended since.
		if b, err := os.ReadFile(path); err == nil {
			if p, err := parseProcStat(string(b)); err == nil {
				procs[p.pid] = p
			}
		}
	}
	if _, ok := procs[root]; !ok {
		return 0, fmt.Errorf("process %d is not in /proc", root)
	}
	ticks := uint64(0)
	for _, p := range procs {
		for q, depth := p, 0; depth < len(procs); depth++ {
			if q.pid == root {
				ticks += p.ticks
				break
			}
			parent, ok := procs[q.parent]
			if !ok {
				break
			}
			q = parent
		}
	}
	return float64(ticks) / ticksPerSecond, nil
}

// procStat is what this package needs of proc_pid_stat(5).
type procStat struct {
	pid, parent int
	ticks       uint64 // of the process and of the children that it has waited for
}

// parseProcStat reads the fields pid, ppid, and utime, stime, cutime and cstime: 1, 4 and 14 to 17.
func parseProcStat(line string) (procStat, error) {
	end := strings.LastIndexByte(line, ')')
	begin := strings.IndexByte(line, ' ')
	if begin < 0 || end < begin {
		return procStat{}, fmt.Errorf("the stat of a process begins with %.20q", line)
	}
	f := strings.Fields(line[end+1:])
	if len(f) < 15 {
		return procStat{}, errors.New("the stat of a process is too short")
	}
	var p procStat
	var err error
	if p.pid, err = strconv.Atoi(line[:begin]); err != nil {
		return procStat{}, err
	}
	if p.parent, err = strconv.Atoi(f[1]); err != nil {
		return procStat{}, err
	}
	for _, v := range f[11:15] {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return procStat{}, err
		}
		p.ticks += n
	}
	return p, nil
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
