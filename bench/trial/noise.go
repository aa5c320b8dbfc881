package trial

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// noiseWindow is how long the host is watched before a trial.
const noiseWindow = 100 * time.Millisecond

// ticksPerSecond is USER_HZ, in which /proc/stat counts; it is 100 on every Linux with the architectures that this
// program runs on.
const ticksPerSecond = 100

// listen measures what the host does while the trial does nothing yet.
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
type stat struct{ busy, stolen uint64 }

func readStat() (stat, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return stat{}, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return parseStat(line)
}

// parseStat reads the first line of /proc/stat, proc(5): user nice system idle iowait irq softirq steal ...
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
		default:
			s.busy += n
		}
	}
	return s, nil
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
