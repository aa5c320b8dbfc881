package trial

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuSeconds is the processor time of a process in seconds, for all its threads, including those
// that have ended. It makes the id of another process' CPU clock as clock_getcpuclockid(3) does.
func cpuSeconds(pid int) (float64, error) {
	const schedClock = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return float64(t.Nano()) / 1e9, nil
}

// vcpuNames matches the names that our VMM and QEMU give to the threads of their vCPUs.
var vcpuNames = regexp.MustCompile(`^(vcpu \d+|CPU \d+/KVM)\n?$`)

// vcpuThreads returns the stat files, proc_pid_stat(5), of a process' vCPU threads.
func vcpuThreads(pid int) ([]string, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return nil, err
	}
	var threads []string
	for _, task := range tasks {
		// A thread may have ended since.
		if name, err := os.ReadFile(filepath.Join(task, "comm")); err == nil &&
			vcpuNames.Match(name) {
			threads = append(threads, filepath.Join(task, "stat"))
		}
	}
	if len(threads) == 0 {
		return nil, fmt.Errorf("process %d has no thread that is named as a vCPU's", pid)
	}
	return threads, nil
}

// parseThreadStat reads the processor time of a thread, in ticks: the fields utime and stime of
// proc_pid_stat(5), the 14th and 15th. Its second field is a name in parentheses, which may hold
// anything.
func parseThreadStat(stat string) (ticks uint64, err error) {
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 13 {
		return 0, errors.New("the stat of a thread is too short")
	}
	for _, v := range f[11:13] {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("the stat of a thread: %w", err)
		}
		ticks += n
	}
	return ticks, nil
}

// guestMeterInterval is how often the threads of vCPUs are read. They may end as soon as the guest
// has left, and their times end with them.
const guestMeterInterval = 20 * time.Millisecond

// guestMeter measures the processor time of a process' vCPUs, from newGuestMeter to stop or to
// their end. It is as exact as the kernel's account of threads, in ticks of 10 ms.
type guestMeter struct {
	threads []string
	begun   []uint64
	latest  []uint64
	quit    chan struct{}
	done    chan struct{}
}

func newGuestMeter(pid int) (*guestMeter, error) {
	threads, err := vcpuThreads(pid)
	if err != nil {
		return nil, err
	}
	m := &guestMeter{
		threads: threads, begun: make([]uint64, len(threads)), latest: make([]uint64, len(threads)),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	m.look()
	copy(m.begun, m.latest)
	go m.run()
	return m, nil
}

func (m *guestMeter) run() {
	defer close(m.done)
	tick := time.NewTicker(guestMeterInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.look()
		case <-m.quit:
			m.look()
			return
		}
	}
}

func (m *guestMeter) look() {
	for i, path := range m.threads {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended: its last time is known
		}
		if ticks, err := parseThreadStat(string(b)); err == nil {
			m.latest[i] = ticks
		}
	}
}

// stop returns the processor time in seconds.
func (m *guestMeter) stop() float64 {
	close(m.quit)
	<-m.done
	ticks := uint64(0)
	for i := range m.threads {
		ticks += m.latest[i] - m.begun[i]
	}
	return float64(ticks) / ticksPerSecond
}
