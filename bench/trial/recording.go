package trial

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"taskguide/bench/sim"
	"taskguide/control"
	"taskguide/dirtylog/trace"
	"taskguide/migration"
	"taskguide/migration/policy"
)

// Recording has a guest's writes recorded before the request, and the move simulated from that.
type Recording struct {
	Interval time.Duration `json:"interval_ns"`
	Length   time.Duration `json:"length_ns"`
}

// Simulated is the simulation of a trial's move, and the oracle's move on the same trace.
type Simulated struct {
	Setting sim.Setting `json:"setting"`
	Order   sim.Terms   `json:"order"`
	Move    sim.Move    `json:"move"`
	Oracle  sim.Move    `json:"oracle"`
	Pages   int         `json:"pages"`
	Faults  int64       `json:"faults"` // that recording cost the guest
	Late    int         `json:"late"`   // intervals that took too long
	// PackUS is what compressing a page took in the recording, at least and at most.
	PackUS    [2]float64 `json:"pack_us"`
	LimitedBy sim.Limit  `json:"limited_by"`
}

// record records the guest. It returns the trace's file, and how the recording ended.
func (s *stage) record(ctx context.Context, r *Recording) ([]byte, trace.End, error) {
	var file bytes.Buffer
	w := recorder{Writer: trace.NewWriter(&file)}
	order := control.TraceOrder{Interval: r.Interval, For: r.Length}
	err := s.source.client.Trace(ctx, order, &w)
	if err == nil {
		err = ctx.Err() // the trace that it ends is whole, but shorter than ordered
	}
	if err != nil {
		return nil, w.end, fmt.Errorf("record a trace: %w", err)
	}
	err = w.Close()
	return file.Bytes(), w.end, err
}

// recorder keeps how a trace ended.
type recorder struct {
	*trace.Writer
	end trace.End
}

// Record implements [trace.Sink].
func (r *recorder) Record(line trace.Record) error {
	if line.End != nil {
		r.end = *line.End
	}
	return r.Writer.Record(line)
}

// simulate simulates the trial's move. The trace is cut to whole cycles, so that a move that
// outlasts it meets the same guest again.
func (s *stage) simulate(ctx context.Context, file []byte, end trace.End) (*Simulated, error) {
	t, err := wholeCycles(file)
	if err != nil {
		return nil, err
	}
	order, setting, err := simulation(t, s.spec.Params, s.spec.RTT, s.processors())
	if err != nil {
		return nil, err
	}
	at := s.result.Request.momentIn(t, s.spec.Guest.Cycle())
	out := &Simulated{
		Setting: setting, Order: order.Terms(), Pages: t.Pages, Faults: end.Faults, Late: end.Late,
		PackUS: setting.PackUS(t), LimitedBy: setting.LimitedBy(t),
	}
	if out.Move, err = setting.Run(ctx.Err, t, order, at); err == nil {
		out.Oracle, err = setting.Best(ctx.Err, t, order, at)
	}
	return out, err
}

// momentIn finds the moment at which a recorded guest is where this one was at the request: in the
// same phase, for as long. The point of the cycle is not the same moment, because phases do not end
// by the clock: a program that looks at it once in a pass is busy for up to a pass longer, and
// recording it makes passes longer.
func (r Request) momentIn(t *sim.Trace, cycle time.Duration) time.Duration {
	if r.Anchor != "tags" {
		return time.Duration(r.Offset * float64(cycle))
	}
	since := time.Duration(r.PhaseMS * float64(time.Millisecond))
	begins, ends := append([]time.Duration{0}, t.Exits()...), t.Enters()
	if r.GateOpen {
		begins, ends = ends, t.Exits()
	}
	var at, longest time.Duration
	fits := false
	for _, begin := range begins {
		end := t.Length
		if i, _ := slices.BinarySearch(ends, begin+1); i < len(ends) {
			end = ends[i]
		}
		switch length := end - begin; {
		case since < length: // the last of these counts, because what is in pages changes
			at, fits = begin+since, true
		case !fits && length > longest: // none may be as long: its end then comes closest
			at, longest = end-1, length
		}
	}
	return at
}

// wholeCycles reads a trace and cuts it to whole cycles.
func wholeCycles(file []byte) (*sim.Trace, error) {
	t, err := sim.Load(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	if t.Lost > 0 {
		return nil, fmt.Errorf("the trace lost %d events, and an EXIT may be among them", t.Lost)
	}
	// The segments are the cool phases, so an EXIT begins the cycle.
	exits := t.Exits()
	if len(exits) < 2 {
		return nil, fmt.Errorf("the trace has %d EXITs, and no whole cycle", len(exits))
	}
	return t.Cut(exits[0], exits[len(exits)-1])
}

// loopbackTrip is the round trip of a loopback between two processes beside a busy vCPU, and
// relayTrip what a relay takes for its own work. They are what messages were under way (way_ms) in
// the downtimes of docs/results/simulator.md, rounded. What a greeting takes says more about the
// wait for a CPU.
const (
	loopbackTrip = 150 * time.Microsecond
	relayTrip    = 350 * time.Microsecond
)

// processors are what a guest and both ends of its move share, 0 where these are on two hosts.
func (s *stage) processors() int {
	if s.site.Hosts != nil {
		return 0
	}
	return runtime.NumCPU()
}

// simulation is a migration's order for the simulator, over a relay with that round trip.
func simulation(t *sim.Trace, p migration.Params, trip time.Duration, processors int) (
	sim.Order, sim.Setting, error,
) {
	p.Destination = "unix:nowhere"
	p, err := p.WithDefaults()
	if err != nil {
		return sim.Order{}, sim.Setting{}, err
	}
	choice, err := policy.Parse(string(p.Rule))
	if err != nil {
		return sim.Order{}, sim.Setting{}, err
	}
	o := sim.Order{
		Policy: choice, Guidance: p.Guidance, AtExit: *p.SwitchAtExit, Gate: sim.Quorum(p.Gate),
		MaxDefer: max(p.MaxDefer, 0), OnTimeout: p.OnTimeout, Limit: max(p.DowntimeLimit, 0),
	}
	s := sim.DefaultSetting(t)
	s.BitsPerSecond, s.Compress = p.BitsPerSecond, sim.Compress(p.Compress)
	s.RTT, s.Ack = loopbackTrip, loopbackTrip
	s.Costs.Processors = processors
	if trip > 0 {
		s.RTT += trip + relayTrip // but TCP ends at the relay
	}
	return o, s, nil
}
