package trial

import (
	"context"
	"regexp"
	"slices"
	"time"

	"taskguide/bench/stats"
	"taskguide/guestkernel/heartbeat"
)

// span says which heartbeats belong to which part of a trial.
type span struct {
	asked int // beats before the request
	moved int // beats before the guest left the source
}

// byTask splits beats and span among tasks, which beat independently.
func byTask(beats []heartbeat.Beat, s span) map[int]*series {
	tasks := map[int]*series{}
	for i, b := range beats {
		t := tasks[b.Task]
		if t == nil {
			t = &series{}
			tasks[b.Task] = t
		}
		if i < s.asked {
			t.asked++
		}
		if i < s.moved {
			t.moved++
		}
		t.beats = append(t.beats, b)
	}
	return tasks
}

// series is the heartbeats of one task.
type series struct {
	beats []heartbeat.Beat
	span
}

// complete tells whether n beats have come after the move.
func (s *series) complete(n int) bool { return len(s.beats) >= s.moved+n }

// around is the beats around the migration: from the first one after the request to the first one
// after the move.
func (s *series) around() []heartbeat.Beat {
	return s.beats[min(s.asked, len(s.beats)):min(s.moved+1, len(s.beats))]
}

func (s *series) before() []heartbeat.Beat { return s.beats[:min(s.asked, len(s.beats))] }

// rate is writes per second from beat i to beat j.
func (s *series) rate(i, j int) float64 {
	if i < 0 || j >= len(s.beats) || i >= j {
		return 0
	}
	a, b := s.beats[i], s.beats[j]
	if b.Elapsed <= a.Elapsed || b.Writes < a.Writes {
		return 0
	}
	return float64(b.Writes-a.Writes) / (b.Elapsed - a.Elapsed).Seconds()
}

// running leaves out the heartbeats of a guest that still prepares its memory.
func running(beats []heartbeat.Beat) []heartbeat.Beat {
	return slices.DeleteFunc(beats,
		func(b heartbeat.Beat) bool { return b.Fields["phase"] == "prepare" })
}

// awaitRunning waits until there are more than n heartbeats of the run proper, and returns them.
func awaitRunning(ctx context.Context, log *heartbeat.Log, n int) ([]heartbeat.Beat, error) {
	for seen := n; ; {
		all, err := log.WaitBeats(ctx, seen)
		if err != nil {
			return nil, err
		}
		seen = len(all)
		if beats := running(all); len(beats) > n {
			return beats, nil
		}
	}
}

// readBeats fills in what the heartbeats show.
func (r *Result) readBeats(beats []heartbeat.Beat, s span) {
	for _, t := range byTask(beats, s) {
		for _, b := range t.around() {
			r.GapMS = max(r.GapMS, ms(b.Gap))
			r.ExitMS = max(r.ExitMS, exitMS(b))
		}
		if before := t.before(); len(before) > 0 {
			r.GapBeforeMS = max(r.GapBeforeMS, ms(before[len(before)-1].Gap))
			r.ExitBeforeMS = max(r.ExitBeforeMS, exitMS(before[len(before)-1]))
		}
		r.addWork(t)
		r.addFelt(t)
		r.addSlow(t)
		r.addLatency(t)
		r.addDisk(t)
	}
	if precopy := r.Report.TotalMS - r.GapMS; r.Work.BeforePerS > 0 && precopy > 0 {
		r.Work.Brownout = (r.Work.LostMS - r.GapMS) / precopy
	}
}

// exitMS is the longest time, in ms, that a line took to print since the heartbeat before.
func exitMS(b heartbeat.Beat) float64 {
	us, _ := b.Float("print_us")
	return us / 1000
}

// steadyCycle is the longest cycle that does not show in the work of a second.
const steadyCycle = 200 * time.Millisecond

// steady tells whether a program does the same all the time, and its speed before and after the
// request is known. In others, the speed depends on the phase.
func (r *Result) steady(t *series) bool {
	g := r.Spec.Guest
	same := g.Busy == 0 || g.Cool == 0 || g.Cycle() <= steadyCycle
	return same && t.asked >= 2 && len(t.beats) > t.moved
}

// firstBefore is the first heartbeat that counts for the speed before the request.
func (r *Result) firstBefore(t *series) int {
	return max(0, t.asked-1-max(1, r.Spec.BeatsBefore))
}

// addWork applies to programs that do the same all the time.
func (r *Result) addWork(t *series) {
	if !r.steady(t) {
		return
	}
	first := r.firstBefore(t)
	before, during := t.rate(first, t.asked-1), t.rate(t.asked-1, t.moved)
	r.Work.BeforePerS += before
	r.Work.DuringPerS += during
	r.Work.AfterPerS += t.rate(t.moved, len(t.beats)-1)
	if before > 0 {
		seconds := (t.beats[t.moved].Elapsed - t.beats[t.asked-1].Elapsed).Seconds()
		r.Work.LostMS = max(r.Work.LostMS, 1000*seconds*(1-during/before))
	}
}

// addLatency takes one more second than around, in which requests that had to wait are answered.
func (r *Result) addLatency(t *series) {
	if len(t.beats) == 0 {
		return
	}
	if _, serves := t.beats[0].Float("p50_us"); !serves {
		return
	}
	if r.Latency == nil {
		r.Latency = &Latency{}
	}
	for i, b := range t.beats {
		switch {
		case i < t.asked:
			r.Latency.Before.worst(b)
		case i <= t.moved+1:
			r.Latency.Around.worst(b)
		}
	}
}

// addDisk applies to a program of one task that drives a disk or a card.
func (r *Result) addDisk(t *series) {
	of := func(name string) (values []float64) {
		for _, b := range t.before() {
			if v, ok := b.Float(name); ok {
				values = append(values, v)
			}
		}
		return values
	}
	if rates := of("kib_s"); len(rates) > 0 {
		r.Disk = &Disk{
			BytesPerS: 1024 * stats.Median(rates),
			P50:       stats.Median(of("p50_us")), P99: stats.Median(of("p99_us")),
		}
	}
}

func (p *Percentiles) worst(b heartbeat.Beat) {
	for name, v := range map[string]*float64{
		"p50_us": &p.P50, "p99_us": &p.P99, "p999_us": &p.P999, "max_us": &p.Max,
	} {
		if f, ok := b.Float(name); ok {
			*v = max(*v, f)
		}
	}
}

var movedLine = regexp.MustCompile(
	`(?m)^moved task=\d+ epoch=\d+ inside=(\w+) ms=\d+ phase=(\w+)\r?$`,
)

// parseMoved finds what the guest prints about its move, for the first of several tasks.
func parseMoved(console string) *Moved {
	m := movedLine.FindStringSubmatch(console)
	if m == nil {
		return nil
	}
	return &Moved{Inside: m[1], Phase: m[2]}
}

// heartbeatPeriod is fixed in the guest.
const heartbeatPeriod = time.Second

// cycleAt is when the guest began its first cycle, computed from its last heartbeat: the n-th comes
// n seconds after.
func cycleAt(beats []heartbeat.Beat) time.Time {
	last := beats[len(beats)-1]
	for _, first := range beats {
		if first.Task == last.Task {
			return last.At.Add(-(last.Elapsed - first.Elapsed) - heartbeatPeriod)
		}
	}
	return last.At
}

// untilOffset is the time from now until a cycle that began at begin reaches that point.
func untilOffset(now, begin time.Time, offset float64, cycle time.Duration) time.Duration {
	if cycle <= 0 {
		return 0
	}
	at := now.Sub(begin) % cycle
	left := time.Duration(offset*float64(cycle)) - at
	if left < 0 {
		left += cycle
	}
	return left
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// readSilences fills in what the outside clock shows, if the guest prints dots.
func (r *Result) readSilences(source, destination *heartbeat.Watch, requested time.Time) {
	if r.Spec.Guest.Dots == 0 {
		return
	}
	s, ok := heartbeat.SilencesOf(source.Times(), destination.Times(), requested)
	if !ok {
		return
	}
	r.Silences = &Silences{ms(s.Before), ms(s.Rounds), ms(s.Switch), ms(s.After)}
}
