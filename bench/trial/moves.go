package trial

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"taskguide/control"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
)

// Move is one of many moves of a guest.
type Move struct {
	// WaitedMS is the random time from the guest's last heartbeat to the request.
	WaitedMS float64 `json:"waited_ms"`
	// GapMS is the longest gap that the guest saw in the seconds of the move, and GapBeforeMS the
	// longest in the second before.
	GapMS       float64 `json:"gap_ms"`
	GapBeforeMS float64 `json:"gap_before_ms"`
	DowntimeMS  float64 `json:"downtime_ms"`
	TotalMS     float64 `json:"total_ms"`
	Pages       int64   `json:"pages_stopcopy"`
	Reason      string  `json:"switchover_reason"`
	Forced      bool    `json:"forced"`
	// Unexplained is what no part explains of the downtime.
	UnexplainedMS float64 `json:"unexplained_ms"`
}

// movePatience is how much longer a trial may take for each move.
const movePatience = 20 * time.Second

// patience bounds how long the trial takes, also if guidance holds back each of its moves for as
// long as it may.
func (s Spec) patience() time.Duration {
	maxDefer := cmp.Or(s.Params.MaxDefer, migration.Defaults().MaxDefer)
	return patience + time.Duration(s.Moves)*(movePatience+max(maxDefer, 0))
}

// loopback is where both ends of many moves are, because the way back over a Link would be another
// way.
var loopback = (*Link)(nil).Source()

// shuttle moves one guest back and forth between processes.
type shuttle struct {
	site   *Site
	spec   Spec
	dir    string
	random *rand.Rand
	guest  heartbeat.Log // what the guest prints, wherever it is
	here   *process
	there  *process // where it goes next; nil between moves
	// hear lets there's output into guest, once all of here's is in, because the two are one text.
	hear func()
}

// runMoves moves a fresh guest Spec.Moves times. Each move begins at a random moment of the guest's
// cycle. The result's report is that of the last move, and its gap the longest of all.
func (site *Site) runMoves(ctx context.Context, r *Result) (err error) {
	if site.Link != nil {
		return errors.New("many moves go over the loopback, not over a link")
	}
	dir, err := os.MkdirTemp("", "vmm-bench-")
	if err != nil {
		return fmt.Errorf("make a folder for the trial: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &shuttle{
		site: site, spec: r.Spec, dir: dir, hear: func() {},
		random: rand.New(rand.NewPCG(uint64(r.Spec.Guest.Seed), movesStream)),
	}
	defer s.strike()
	if err := s.board(ctx); err != nil {
		return err
	}
	for n := range r.Spec.Moves {
		m, report, err := s.move(ctx, n)
		if err != nil {
			return fmt.Errorf("move %d of %d: %w", n+1, r.Spec.Moves, err)
		}
		r.Moves, r.Report = append(r.Moves, m), report
		r.GapMS = max(r.GapMS, m.GapMS)
		r.GapBeforeMS = max(r.GapBeforeMS, m.GapBeforeMS)
	}
	return nil
}

// movesStream keeps the generator of the moments apart from others with the same seed.
const movesStream = 0x6d6f766573

// board starts the guest, which does not get the time of all its moves for its first heartbeats.
func (s *shuttle) board(ctx context.Context) error {
	args, err := s.spec.Guest.boot(loopback.host)
	if err != nil {
		return err
	}
	started := make(chan struct{})
	close(started)
	s.here, err = startVMM(s.site.Binary, s.dir, "move0", loopback, &s.guest, started, args...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	alive, cancelAlive := s.here.whileAlive(ctx)
	defer cancelAlive()
	if err := awaitBeats(alive, &s.guest, s.spec); err != nil {
		return s.here.explain(err)
	}
	return nil
}

// await starts the next destination, and returns where it listens.
func (s *shuttle) await(ctx context.Context, n int) (address string, err error) {
	heard := make(chan struct{})
	s.hear = sync.OnceFunc(func() { close(heard) })
	s.there, err = startVMM(s.site.Binary, s.dir, fmt.Sprintf("move%d", n+1), loopback, &s.guest,
		heard, "--incoming", loopback.listenAddress())
	if err != nil {
		return "", err
	}
	vm, err := s.there.await(ctx, "listening", func(vm control.VM) bool {
		return vm.Incoming != ""
	})
	return vm.Incoming, err
}

// move moves the guest once, and waits for its first heartbeats afterwards.
func (s *shuttle) move(ctx context.Context, n int) (m Move, r migration.Report, err error) {
	params := s.spec.Params
	if params.Destination, err = s.await(ctx, n); err != nil {
		return m, r, err
	}
	if params, err = params.WithDefaults(); err != nil {
		return m, r, err
	}
	wait := s.moment()
	sleep(ctx, wait)
	asked := len(running(s.guest.Beats()))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(graceTime, s.here.end) })
	r, err = s.here.client.Migrate(ctx, params, func(control.Event) {})
	stop()
	if err == nil {
		m, err = moveOf(wait, r)
	}
	if err != nil {
		return m, r, s.there.explain(err)
	}
	return m, r, s.arrive(ctx, asked, &m)
}

// moveOf reads a move from its report. It fails unless the guest moved, led by its policy to the
// end, because the move would be counted in that policy's name.
func moveOf(waited time.Duration, r migration.Report) (Move, error) {
	if r.Status != migration.StatusCompleted {
		return Move{}, fmt.Errorf("migration %s: %s", r.Status, r.Error)
	}
	return Move{
		WaitedMS: ms(waited), DowntimeMS: r.DowntimeMS, TotalMS: r.TotalMS, Pages: r.PagesStopCopy,
		Reason: r.SwitchoverReason, Forced: r.Forced, UnexplainedMS: r.Downtime.UnexplainedMS,
	}, obeyed(r)
}

// moment is how long to wait for the next request: a random part of the guest's cycle, so that the
// request is at a random point of it, wherever in the cycle the wait begins.
func (s *shuttle) moment() time.Duration {
	cycle := s.spec.Guest.Cycle()
	if cycle <= 0 {
		cycle = heartbeatPeriod
	}
	return time.Duration(s.random.Int64N(int64(cycle)))
}

// arrive waits until the guest's tasks have beaten at their new place, and reads their gaps.
func (s *shuttle) arrive(ctx context.Context, asked int, m *Move) error {
	select {
	case <-s.here.silent: // all of its output is in
	case <-ctx.Done():
		return fmt.Errorf("waiting for the end of %s: %w", s.here.name, ctx.Err())
	}
	at := span{asked: asked, moved: len(running(s.guest.Beats()))}
	s.hear()
	if err := s.here.succeed(ctx); err != nil {
		return err
	}
	s.here.client.Close()
	s.here, s.there = s.there, nil
	alive, cancel := s.here.whileAlive(ctx)
	defer cancel()
	for n := at.moved; ; n++ {
		beats, err := awaitRunning(alive, &s.guest, n)
		if err != nil {
			return s.here.explain(err)
		}
		if tasks := byTask(beats, at); allComplete(tasks, 1) {
			m.readGaps(tasks)
			return nil
		}
	}
}

// readGaps takes the gaps from the heartbeats around the move.
func (m *Move) readGaps(tasks map[int]*series) {
	for _, t := range tasks {
		for _, b := range t.around() {
			m.GapMS = max(m.GapMS, ms(b.Gap))
		}
		if before := t.before(); len(before) > 0 {
			m.GapBeforeMS = max(m.GapBeforeMS, ms(before[len(before)-1].Gap))
		}
	}
}

// strike ends what still runs, and waits until it has ended.
func (s *shuttle) strike() {
	s.hear()
	for _, p := range []*process{s.here, s.there} {
		if p != nil {
			p.end()
			<-p.done
		}
	}
}
