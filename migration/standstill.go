package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"taskguide/migration/peer"
	"taskguide/migration/policy"
	"taskguide/tagging"
)

// ErrStandstill ends a migration after too many of its switchovers were taken back because the
// guest stood still for too long.
var ErrStandstill = errors.New("the guest stood still for too long")

// errTakenBack ends the steps of a switchover whose limit was spent.
var errTakenBack = errors.New("the switchover was taken back")

// maxStandstills bounds Report.Standstills: the latest are kept.
const maxStandstills = 1000

// step is how far a switchover has come.
type step int

const (
	stepPause   step = iota // nothing of the stop-and-copy has begun
	stepPages               // the last pages are being sent
	stepFlushed             // the destination was told that no page follows
	stepEchoed              // and has answered
	stepState               // sending the state has begun: the destination cannot go back
)

// unfinished says in words which work is not done yet.
func (s step) unfinished() string {
	switch s {
	case stepPause:
		return "the stop-and-copy had not begun"
	case stepState:
		return "the destination had not loaded the state"
	}
	return "the last pages were not through"
}

// standstill is a stretch of time for which this engine makes the guest stand still. It begins when
// the first vCPU is asked to pause, or is held at its EXIT.
//
// Until the state goes out everything can be undone, so the time without a running guest has a
// limit. A timer spends it. Then the guest runs again at once, and the engine ends its present step
// without cutting a frame, because a cut connection could carry no further attempt.
//
// A standstill that is not in Source.standing is of a guest that its user had paused. It has no
// limit.
type standstill struct {
	begin   time.Time
	gone    chan struct{} // closed once the limit is spent, with Source.mu held
	resumed chan struct{} // closed once the guest runs again after that

	limit   time.Duration // 0: none; guarded by Source.mu
	timer   *time.Timer   // nil without a limit; guarded by Source.mu
	inRound bool          // a round's pages tell how fast the link is; guarded by Source.mu
	reached step          // guarded by Source.mu
}

// newStandstill returns one without a limit.
func newStandstill(begin time.Time) *standstill {
	return &standstill{begin: begin, gone: make(chan struct{}), resumed: make(chan struct{})}
}

// spent tells whether the limit is spent. A caller that acts on false holds Source.mu.
func (st *standstill) spent() bool {
	select {
	case <-st.gone:
		return true
	default:
		return false
	}
}

// until returns a context that ends with ctx, and when the limit is spent.
func (st *standstill) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-st.gone:
			stop(errTakenBack)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { stop(nil) }
}

// askToPause returns the standstill that begins now, or has begun already. s.mu is held, and the
// caller must ask the vCPUs to pause right afterwards.
func (s *Source) askToPause(begin time.Time) *standstill {
	if s.standing != nil {
		return s.standing
	}
	st := newStandstill(begin)
	st.inRound = s.stream.InRound()
	st.limit = s.p.standstillLimit(s.head.AnyDowntime())
	if st.limit > 0 {
		st.timer = time.AfterFunc(time.Until(begin.Add(st.limit)), func() { s.spend(st) })
	}
	s.standing = st
	return st
}

// halt stops the count of the limit, for work that the limit does not cover, and returns what is
// left of it. It fails if the limit is spent. A standstill is halted at most once.
func (s *Source) halt(st *standstill) (left time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.spent() {
		return 0, errTakenBack
	}
	if st.timer != nil {
		st.timer.Stop()
	}
	return max(st.limit-time.Since(st.begin), 0), nil
}

// goOn undoes halt.
func (s *Source) goOn(st *standstill, left time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.timer != nil {
		st.timer.Reset(left)
	}
}

// pass takes a step of a switchover, unless the limit is spent. It holds Source.mu, so spend sees
// what step notes.
func (s *Source) pass(st *standstill, step func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.spent() {
		return errTakenBack
	}
	step()
	return nil
}

// spend takes back a switchover whose limit is spent.
func (s *Source) spend(st *standstill) { s.takeBack(st, nil) }

// takeBack takes back a switchover because of a failure, or because its limit is spent if that is
// nil. The guest runs again at once, and the engine goes on with rounds if it still can. It returns
// false if there is nothing to take back, or it is too late.
func (s *Source) takeBack(st *standstill, failure error) bool {
	busy := s.m.Busy()
	s.mu.Lock()
	if s.standing != st || st.spent() || s.doubt.Told() || s.head.Ended() {
		s.mu.Unlock()
		return false
	}
	s.takenBack = st
	why, fail := "", error(nil)
	if failure != nil {
		why, fail = s.whyFailed(failure)
	} else {
		why, fail = s.whySpent(st, busy)
	}
	if failure != nil || busy != "" {
		s.rest()
	}
	if fail != nil {
		s.end() // so that no vCPU is held at an EXIT any more
	}
	s.stream.Stop()
	close(st.gone)
	s.mu.Unlock()

	// No lock is held here, and resume does not wait for the link.
	err := s.resume(why)
	if fail == nil && err != nil {
		fail = err
	}
	if fail != nil {
		s.cancel(fail)
	} else {
		s.setPhase(PhasePreCopy)
	}
	close(st.resumed)
	s.wakeUp()
	return true
}

// whyFailed says that storage failed; fail is not nil if that ends the migration. s.mu is held.
func (s *Source) whyFailed(failure error) (why string, fail error) {
	if a := s.step(policy.Event{Kind: policy.KindSpent}); a.Verb == policy.Abort {
		fail = fmt.Errorf("%w: %w, the last because %w", ErrStorage, a.Err, failure)
	}
	return "taken back: " + OneLine(failure.Error()), fail
}

// whySpent says what was unfinished when the limit was spent, with what the host had not done; fail
// is not nil if that ends the migration. s.mu is held.
func (s *Source) whySpent(st *standstill, busy string) (why string, fail error) {
	doing := st.reached.unfinished()
	if busy != "" {
		doing = "the host had not finished " + busy
	}
	if st.reached == stepState {
		fail = fmt.Errorf("%w: after %v %s, and it cannot go back from there",
			ErrStandstill, st.limit, doing)
	}
	if a := s.step(policy.Event{Kind: policy.KindSpent}); fail == nil && a.Verb == policy.Abort {
		fail = fmt.Errorf("%w: %w, the last after %v, when %s",
			ErrStandstill, a.Err, st.limit, doing)
	}
	return fmt.Sprintf("taken back after %v: %s", st.limit, doing), fail
}

// resume lets the vCPUs run again if this engine asked them to pause, and enters into
// the report how the standstill ended.
func (s *Source) resume(ended string) error {
	s.vcpus.Lock()
	defer s.vcpus.Unlock()
	s.mu.Lock()
	st := s.standing
	if st == nil && !s.head.Ended() {
		s.step(policy.Event{Kind: policy.KindResumed}) // of a guest that its user has paused
	}
	s.mu.Unlock()
	if st == nil {
		s.m.Undrain()
		return nil
	}
	// A request that has not been completed yet must be completed before it is undone. And no vCPU
	// may be in an exit while the state that exits look at is reset.
	errPause := s.m.Park()
	goesOn, why := s.notStanding(st)
	if errPause != nil {
		return fmt.Errorf("settle the pause before resuming: %w", errPause)
	}
	err := s.m.Resume()
	s.mu.Lock()
	over := st.entry(s.begin, why, ended)
	s.list(over)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("resume the guest at the source: %w", err)
	}
	if goesOn {
		s.emit(Notice{Kind: NoticeStandstill, Standstill: &over})
	}
	return nil
}

// notStanding notes that the vCPUs are about to run again, and returns whether the migration
// goes on then, and why they had stood still.
func (s *Source) notStanding(st *standstill) (goesOn bool, why string) {
	open := s.m.Tags().Gate().Open
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.timer != nil {
		st.timer.Stop()
	}
	s.standing = nil
	goesOn, why = !s.head.Ended(), s.report.SwitchoverReason
	resumed := policy.Event{Kind: policy.KindResumed}
	if goesOn {
		if pause := s.report.Downtime.PauseMS; pause > 0 {
			s.report.DowntimeFixed.PauseMS = pause
		}
		resumed.Gate = gateOf(open) // the head was not told of the EXIT at which a vCPU was held
		s.report.SwitchoverReason, s.report.Downtime = "", DowntimeParts{}
	}
	s.step(resumed)
	return goesOn, why
}

// movedAfterAll corrects the report when a guest turns out to run at the destination.
func (s *Source) movedAfterAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Status, s.report.Error = StatusCompleted, ""
	s.report.Warnings = append(s.report.Warnings,
		"the destination's answer came late: the downtime is not known")
	if s.standing != nil { // it is listed as one whose end is unknown
		s.standing = nil
		s.report.Standstills[len(s.report.Standstills)-1].Ended = "moved"
	}
}

// staysAfterAll resumes a guest that turns out not to run at the destination.
func (s *Source) staysAfterAll() error {
	s.mu.Lock()
	if s.standing != nil { // it is listed as one whose end is unknown
		s.report.Standstills = s.report.Standstills[:len(s.report.Standstills)-1]
	}
	s.mu.Unlock()
	return s.resume("the destination did not run the guest")
}

// endedBy says, for the report, what ended a standstill that lasted until the migration's end.
func endedBy(err error) string {
	switch {
	case err == nil:
		return "the migration ended"
	case errors.Is(err, ErrCancelled), errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return "failed: " + OneLine(err.Error())
}

// list puts a standstill into the report; s.mu is held.
func (s *Source) list(over Standstill) {
	all := s.report.Standstills
	if len(all) == maxStandstills {
		all = all[1:]
	}
	s.report.Standstills = append(slices.Clip(all), over)
}

// entry returns the standstill for the report of a migration that began at the given time.
func (st *standstill) entry(began time.Time, why, ended string) Standstill {
	return Standstill{
		AtMS:  ms(st.begin.Sub(began)),
		MS:    ms(time.Since(st.begin)),
		Why:   why,
		Ended: ended,
	}
}

// rewind makes the destination receive pages again after a switchover was taken back, and returns
// once all that was sent before has arrived there. Only then is it known that the link works again,
// and how fast it was. A switchover decided on an older rate would be taken back again. If no
// switchover was taken back, it does nothing.
func (s *Source) rewind(ctx context.Context) error {
	s.mu.Lock()
	st := s.takenBack
	s.mu.Unlock()
	if st == nil {
		return nil
	}
	<-st.resumed
	// The devices may have been drained after that resume, by an engine that did not know of it.
	s.m.Undrain()
	s.mu.Lock()
	reached := st.reached // nobody takes a step any more
	s.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err // it was the last attempt
	}
	s.setPhase(PhasePreCopy)
	// Whoever took it back may have entered the phase before the engine told the guest of the
	// switchover.
	s.m.Tags().SetState(tagging.StatePreCopy)
	if reached < stepFlushed {
		if err := s.peer.Flush(); err != nil {
			return peer.Explain(ctx, err)
		}
	}
	if err := s.peer.Rewind(); err != nil {
		return peer.Explain(ctx, err)
	}
	if reached < stepEchoed {
		if err := s.peer.AwaitFlushed(ctx); err != nil {
			return err
		}
	}
	s.peer.Rewound()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takenBack = nil
	s.step(policy.Event{Kind: policy.KindRewound})
	s.report.Downtime = DowntimeParts{}
	s.report.PagesStopCopy, s.report.PagesDeclared = 0, 0
	if st.inRound {
		s.stream.DoubtRate()
	}
	return nil
}

// wasTakenBack tells whether a switchover was taken back that rewind has not seen yet.
func (s *Source) wasTakenBack() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takenBack != nil
}
