package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/guestkernel/heartbeat"
)

// period is that of the embedded guest's heartbeats. The bench takes each of them for a second.
const period = time.Second

// meter prints the heartbeats of the embedded guest (package guestkernel says what is in them), by
// which the bench knows what the load felt of a move. A step is an answer, or a list of the heap.
type meter struct {
	say func(line string)
	set uint64 // so many writes are a pass

	phase  string
	born   time.Time
	last   time.Time // when the last step ended
	due    time.Time // when the next heartbeat is
	writes uint64
	usual  time.Duration // the pace of the last period with many gaps; 0: there was none

	// What follows is since the last heartbeat.
	printed time.Duration // how long its line took
	stalls  heartbeat.Stalls
	gaps    histogram // between steps
	latency histogram // of requests
}

// newMeter returns the meter of a load that prepares.
func newMeter(set uint64, say func(line string)) *meter {
	m := &meter{say: say, set: set, born: time.Now(), stalls: heartbeat.Stalls{}}
	m.begin("prepare")
	return m
}

// begin begins a phase, whose n-th heartbeat comes n seconds later.
func (m *meter) begin(phase string) {
	m.phase, m.last, m.printed = phase, time.Now(), 0
	m.due = m.last.Add(period)
	m.forget()
}

// forget begins to count anew.
func (m *meter) forget() {
	clear(m.stalls)
	m.gaps, m.latency = histogram{}, histogram{}
}

// ready says that the load is warm, and begins the run.
func (m *meter) ready() {
	m.say("workload ready")
	m.begin("busy")
}

// wrote notes a step that wrote something.
func (m *meter) wrote() {
	m.writes++
	m.step(time.Now())
}

// answered notes the answer to a request that was sent at that time.
func (m *meter) answered(sent time.Time) {
	now := time.Now()
	m.latency.add(now.Sub(sent), 1)
	m.step(now)
}

// rested says that what has gone on since the last step is in no gap: it was no step, and may take
// longer than one.
func (m *meter) rested() { m.last = time.Now() }

// step notes a step that has just ended.
func (m *meter) step(now time.Time) {
	gap := now.Sub(m.last)
	m.gaps.add(gap, 1)
	m.stalls.Count(gap)
	m.last = now
	if !now.Before(m.due) {
		m.beat(now)
	}
}

// beat prints a heartbeat: after a long pause one, not all that were missed. The time that this
// takes belongs to no gap, because it is the load's own doing.
func (m *meter) beat(now time.Time) {
	m.due = m.due.Add(now.Sub(m.due).Truncate(period) + period)
	line := fmt.Sprintf("hb task=0 ms=%d passes=%d writes=%d gap_us=%d print_us=%d stalls=%v"+
		" phase=%s", now.Sub(m.born).Milliseconds(), m.writes/m.set, m.writes,
		m.gaps.max.Microseconds(), m.printed.Microseconds(), m.stalls, m.phase)
	if m.latency.count > 0 {
		line += m.latencies()
	}
	m.forget()
	m.say(line)
	m.last = time.Now()
	m.printed = m.last.Sub(now)
}

// manyGaps is how many gaps a period must have so that their median is no pause. A period that is
// almost all pause has few, and perhaps no other.
const manyGaps = 100

// pace is how often a client of the load asks: the median gap of this period. If there are few, it
// may be the pause that clients are to feel, so it counts as no longer than it was before.
func (m *meter) pace() time.Duration {
	median := m.gaps.permille(500)
	switch {
	case m.gaps.count >= manyGaps:
		m.usual = median
	case m.usual > 0:
		median = min(median, m.usual)
	}
	return median
}

// latencies are the fields of a program that answers requests.
func (m *meter) latencies() string {
	requests := m.latency.count
	m.latency.addWaiting(&m.gaps, m.pace())
	us := func(share uint64) int64 { return m.latency.permille(share).Microseconds() }
	return fmt.Sprintf(" requests=%d p50_us=%d p99_us=%d p999_us=%d max_us=%d", requests, us(500),
		us(990), us(999), m.latency.max.Microseconds())
}

// printLine prints a line and waits until all of it has left the guest. Each byte on a serial port
// makes the vCPU leave the guest, and the next requests would wait for that otherwise.
func printLine(line string) {
	fmt.Println(line)
	// This is tcdrain(3). What is no terminal has nothing to wait for.
	_ = unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1)
}
