package sim

import (
	"fmt"
	"time"

	"taskguide/migration/policy"
)

// Move is the outcome of a simulated move. Times are milliseconds.
type Move struct {
	AtMS       float64 `json:"at_ms"`       // the moment of the request, in the trace
	GateOpen   bool    `json:"gate_open"`   // at the request
	SwitchOpen bool    `json:"switch_open"` // the gate at the switchover, or about to close
	DowntimeMS float64 `json:"downtime_ms"` // 0 unless it moved
	TotalMS    float64 `json:"total_ms"`
	// Error says why the guest stays; empty if it moved.
	Error         string  `json:"error,omitempty"`
	Reason        string  `json:"reason,omitempty"`
	PolicyError   string  `json:"policy_error,omitempty"` // why the program was asked no more
	Guidance      string  `json:"guidance"`               // none without a task
	Forced        bool    `json:"forced"`
	WaitedMS      float64 `json:"waited_ms"`
	SuspendedMS   float64 `json:"suspended_ms"`
	DeferredMS    float64 `json:"deferred_ms"`
	Retractions   int     `json:"retractions"`
	TakenBack     int     `json:"taken_back"`
	Samples       int     `json:"samples"`
	Rounds        int     `json:"rounds"`
	PagesSent     int64   `json:"pages_sent"`
	PagesZero     int64   `json:"pages_zero"`
	PagesSkipped  int64   `json:"pages_skipped"`
	PagesStopCopy int64   `json:"pages_stopcopy"`
	BytesWire     int64   `json:"bytes_wire"`
	// Laps is how often the move outlasted the trace, which then began again.
	Laps int `json:"laps"`
}

// Moved tells whether the guest moved.
func (m Move) Moved() bool { return m.Error == "" }

// Cancelled returns an error once nobody wants a simulation any more, as context.Context.Err does.
// It ends the simulation within a move, because one that never converges can take minutes.
type Cancelled func() error

// Run simulates a move of the trace's guest that is requested at a moment of the trace.
func (s Setting) Run(cancelled Cancelled, t *Trace, o Order, at time.Duration) (Move, error) {
	if err := s.check(o); err != nil {
		return Move{}, err
	}
	p, err := o.Policy.New(o.values())
	if err != nil {
		return Move{}, fmt.Errorf("policy %q: %w", o.Policy, err)
	}
	w := newWalk(s, t, o, o.head(p), at)
	w.cancelled = cancelled
	if o.Lead != nil {
		if w.leader, err = o.Lead(); err != nil {
			return Move{}, fmt.Errorf("policy %q: %w", o.Policy, err)
		}
		defer w.leader.Close()
	}
	m := w.run()
	return m, cancelled()
}

// run carries the move out.
func (w *walk) run() Move {
	w.m.GateOpen = w.guest.now().open
	w.err = w.migrate()
	now := w.now
	m := &w.m
	if w.err != nil {
		w.step(policy.Event{Kind: policy.KindEnded})
		m.Error = w.err.Error()
	}
	d := w.head.Deferral(now)
	m.WaitedMS, m.SuspendedMS, m.DeferredMS = ms(d.Waited), ms(d.Suspended), ms(d.Deferred)
	m.TotalMS, m.Rounds, m.Laps = ms(now), w.completed, w.guest.laps
	m.Forced, m.Guidance = w.head.Forced(), string(w.head.Guidance())
	return *m
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
