package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"taskguide/migration/peer"
	"taskguide/transport"
)

// Bits of a state frame's arg.
const (
	stateVerify uint32 = 1 << 0
	statePaused uint32 = 1 << 1
)

// handOver makes the destination load the state and then run the guest.
func (s *Source) handOver(ctx context.Context, st *standstill, state []byte,
	watch *stopwatch) error {
	arg := uint32(0)
	if s.p.Verify {
		arg |= stateVerify
	}
	// From here on the destination loads what it gets and cannot go back, so a spent limit ends the
	// migration.
	err := s.pass(st, func() {
		st.reached = stepState
		if s.standing != st {
			arg |= statePaused
		}
	})
	if err != nil {
		return err
	}
	if err := s.peer.Send(transport.TypeState, arg, state); err != nil {
		return peer.Explain(ctx, err)
	}
	if s.p.Verify {
		if err := s.verify(ctx, st, watch); err != nil {
			return err
		}
	}
	there, err := s.awaitPrepared(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	parts := &s.report.Downtime
	parts.LoadMS = watch.lap()
	parts.LoadThereMS = parts.split(parts.LoadMS, there, s.wayOf(len(state)))
	s.mu.Unlock()
	if err := s.commit(ctx, st); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	parts.RunMS = watch.lap()
	parts.RunThereMS = parts.split(parts.RunMS, s.workedThere(s.doubt.Running()), s.wayOf(0))
	return nil
}

// verify compares what the destination has with what is here, and tells it the result. The
// standstill's limit covers the loading that follows, but not the time for the digests of RAM.
func (s *Source) verify(ctx context.Context, st *standstill, watch *stopwatch) error {
	if err := s.peer.AnnounceWork(); err != nil {
		return peer.Explain(ctx, err)
	}
	left, err := s.halt(st)
	if err != nil {
		return err
	}
	v := s.verifier()
	if err := v.ram(ctx); err != nil {
		return s.notVerified(err, "have the destination sum up its RAM")
	}
	s.goOn(st, left)
	s.mu.Lock()
	s.report.Downtime.VerifyMS = watch.lap()
	s.mu.Unlock()
	if err := v.state(ctx); err != nil {
		return s.notVerified(err, "have the destination load and verify the state")
	}
	s.noteVerified(true)
	return nil
}

// notVerified distinguishes a difference from a failure to look for one; doing names the step that
// failed.
func (s *Source) notVerified(err error, doing string) error {
	if !errors.Is(err, ErrVerify) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	s.noteVerified(false)
	return err
}

func (s *Source) noteVerified(same bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Verified = &same
}

// awaitPrepared waits until the destination is ready to run the guest. It returns how long that
// says that it worked.
func (s *Source) awaitPrepared(ctx context.Context) (there time.Duration, err error) {
	r, err := s.peer.Await(ctx, transport.TypePrepared)
	if err == nil {
		err = s.doubt.Prepared(r.Header.Arg)
	}
	if err != nil {
		return 0, fmt.Errorf("have the destination load the state: %w", err)
	}
	return s.workedThere(r.Payload), nil
}

// commit is the point of no return: from the first byte of the commit on, only
// the destination may say that it will not run the guest.
//
// One lock orders the commit, a user's cancellation and the end of the standstill's limit.
func (s *Source) commit(ctx context.Context, st *standstill) error {
	s.mu.Lock()
	err := context.Cause(ctx)
	if err == nil && st.spent() {
		err = errTakenBack
	}
	if err == nil {
		err = s.doubt.MayCommit()
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	s.doubt.Begin()
	s.mu.Unlock()
	return s.doubt.FindOut(s.peer.Send(transport.TypeCommit, 0, nil))
}
