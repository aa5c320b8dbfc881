package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"taskguide/migration/peer"
	"taskguide/migration/policy"
)

// What devices ask of the host, as disks do, may take long, or hang for good. So the engine waits
// for it in three places, and in none without an end:
//
//   - During pre-copy the disks are made durable again and again, so that little is left.
//   - Once rule and gate agree, the devices are drained while the guest runs on. That is no
//     downtime, but the guest's disks stand still, so it has the time of a standstill.
//   - In the standstill the devices are quiesced, which takes time only where a vCPU is held at its
//     EXIT, for then nothing was drained; and the disks are made durable for the last time.
//
// Whatever of it fails or takes too long takes the switchover back.

// ErrStorage ends a migration after too many of its switchovers were taken back, the last because
// of the guest's storage.
var ErrStorage = errors.New("the guest's storage does not keep up")

var (
	// errNotYet says that the switchover was given up before the vCPUs were asked to stop.
	errNotYet = errors.New("not yet")
	// errHeld says that a vCPU is held at its EXIT, so the guest stands still already.
	errHeld = errors.New("a vCPU is held at its EXIT")
)

// storageError is an error of what devices ask of the host.
type storageError struct{ error }

func (e storageError) Unwrap() error { return e.error }

const (
	// syncPace is the time between two syncs of the disks during pre-copy.
	syncPace = time.Second
	// unnoticed is a time in which so little gets dirty that the policy need not be asked again.
	unnoticed = 5 * time.Millisecond
)

// askHost has the machine do f, which waits for the host, and keeps the destination patient
// meanwhile. The host has as long as the guest may stand still. The error is a storageError unless
// ctx or look ended it. Unless nil, look is called when something has happened, and ends f by an
// error.
//
// It does not wait for the link, because the guest may stand still and its caller hold s.vcpus.
// Then a link that hangs would keep the guest from running again.
func (s *Source) askHost(
	ctx context.Context, f func(context.Context) error, look func() error,
) error {
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if limit := s.p.standstillLimit(false); limit > 0 {
		defer time.AfterFunc(limit, func() { stop(fmt.Errorf("waited for %v", limit)) }).Stop()
	}
	done := make(chan error, 1)
	go func() { done <- f(asking) }()
	abort := func(why error) error {
		stop(why)
		<-done
		return why
	}
	announced, announce := make(chan error, 1), time.NewTicker(peer.AnnouncePace)
	defer announce.Stop()
	wake := s.wake
	if look == nil {
		wake, look = nil, func() error { return nil }
	}
	for err := look(); ; err = look() {
		if err != nil {
			return abort(err)
		}
		select {
		case err := <-done:
			switch {
			case err == nil:
				return nil
			case ctx.Err() != nil:
				return context.Cause(ctx)
			}
			return storageError{err}
		case <-wake:
		case <-announce.C:
			announce.Stop() // until this one is through
			go func() { announced <- s.peer.AnnounceWait(peer.AnnounceAhead) }()
		case err := <-announced:
			if err != nil {
				return abort(peer.Explain(ctx, err))
			}
			announce.Reset(peer.AnnouncePace)
		}
	}
}

// drain has the devices finish what they have begun, and makes the disks durable, while the guest
// runs. Afterwards the devices begin nothing until the guest is resumed or Undrain is called. An
// error other than errNotYet and errGateClosed ends the migration.
func (s *Source) drain(ctx context.Context) error {
	s.mu.Lock()
	held := s.standing != nil
	s.report.DrainMS = 0 // that of an earlier switchover
	s.mu.Unlock()
	if held || !s.m.Running() {
		return nil
	}
	begin, drained := time.Now(), 0.0
	err := s.askHost(ctx, func(ctx context.Context) error {
		if err := s.presync(ctx); err != nil {
			return err
		}
		watch := &stopwatch{last: time.Now()}
		err := s.m.Drain(ctx)
		drained = watch.lap()
		if err != nil {
			return err
		}
		return s.presync(ctx) // of what has come since; nothing comes any more
	}, s.stillToDrain)
	s.mu.Lock()
	s.report.DrainMS = drained
	s.mu.Unlock()
	var failed storageError
	switch {
	case errors.Is(err, errHeld):
		return nil // the rest of it belongs to the standstill
	case errors.As(err, &failed):
		return s.drainTakenBack(begin, failed)
	case err != nil || time.Since(begin) < unnoticed:
		return err
	}
	return s.askAgain()
}

// stillToDrain returns an error if the guest must not be kept from its disks any longer.
func (s *Source) stillToDrain() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.standing != nil:
		return errHeld
	case s.head.GateHolds():
		return errGateClosed
	}
	return nil
}

// askAgain asks the policy and the gate whether they still want the switchover after the devices
// have taken a while.
func (s *Source) askAgain() error {
	remaining, _, err := s.takeDirty()
	if err != nil {
		return err
	}
	s.mu.Lock()
	drained := s.event(policy.KindDrained, remaining)
	s.mu.Unlock()
	drained = s.ask(drained)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.step(drained)
	switch {
	case a.Err != nil:
		return a.Err
	case s.standing != nil, s.decided(a):
		return nil
	case s.head.GateHolds():
		return errGateClosed
	}
	s.report.SwitchoverReason = ""
	return errNotYet
}

// drainTakenBack takes back a switchover whose devices were not drained, or whose disks were not
// made durable. If a vCPU is held at its EXIT by now, the guest must not stand still until its
// storage has rested, so the standstill finds out whether the storage still fails.
func (s *Source) drainTakenBack(begin time.Time, why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.standing != nil {
		return nil
	}
	over := Drain{
		AtMS: ms(begin.Sub(s.begin)), MS: ms(time.Since(begin)), Why: s.report.SwitchoverReason,
		Ended: "taken back: " + OneLine(why.Error()),
	}
	all := s.report.DrainsTakenBack
	if len(all) == maxStandstills {
		all = all[1:]
	}
	s.report.DrainsTakenBack = append(slices.Clip(all), over)
	s.report.SwitchoverReason = ""
	s.rest()
	if a := s.step(policy.Event{Kind: policy.KindSpent}); a.Verb == policy.Abort {
		return fmt.Errorf("%w: %w, the last because %w", ErrStorage, a.Err, why)
	}
	return errNotYet
}

// rest gives storage that made a switchover fail time to recover, and the guest time to learn of an
// error; s.mu is held.
func (s *Source) rest() {
	s.notBefore = time.Now().Add(max(s.p.standstillLimit(false), minStandstillLimit))
}

// resting tells whether no switchover may begin yet because of the storage; s.mu is held.
func (s *Source) resting() bool { return time.Now().Before(s.notBefore) }

// mayBegin tells whether the action is a switchover and may begin now; s.mu is held. While a
// program took its time to answer, a vCPU may have been held at its EXIT and that switchover been
// taken back. Then none begins before rewind.
func (s *Source) mayBegin(a policy.Action) bool {
	return !s.resting() && s.takenBack == nil && s.decided(a)
}

// presync makes the disks durable while the guest runs.
func (s *Source) presync(ctx context.Context) error {
	watch := &stopwatch{last: time.Now()}
	err := s.m.SyncDisks(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.PresyncMS += watch.lap()
	return err
}

// startSyncing makes the disks durable from time to time during pre-copy, until the returned
// function is called. A guest learns of errors by its flush, and so does the next drain.
func (s *Source) startSyncing(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var syncer sync.WaitGroup
	syncer.Go(func() {
		tick := time.NewTicker(syncPace)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			s.mu.Lock()
			phase := s.report.Phase
			s.mu.Unlock()
			if phase == PhasePreCopy || phase == PhaseHeld {
				_ = s.presync(ctx)
			}
		}
	})
	return func() {
		cancel()
		syncer.Wait()
	}
}

// quiesce brings the devices of a guest that stands still to rest.
func (s *Source) quiesce(ctx context.Context, st *standstill, watch *stopwatch) error {
	err := s.inStandstill(ctx, st, s.m.Quiesce)
	if err != nil {
		return s.storageFailed(st, err)
	}
	return s.pass(st, func() { s.report.Downtime.QuiesceMS = watch.lap() })
}

// inStandstill has the machine do f, which waits for the host, while it stands still and stays so.
func (s *Source) inStandstill(
	ctx context.Context, st *standstill, f func(context.Context) error,
) error {
	s.vcpus.Lock()
	defer s.vcpus.Unlock()
	if err := s.pass(st, func() {}); err != nil {
		return err
	}
	waiting, stop := st.until(ctx)
	defer stop()
	return s.askHost(waiting, f, nil)
}

// storageFailed takes a switchover back because of an error of storage. Other errors, and those of
// a guest that its user has paused, it returns. The caller does not hold s.vcpus.
func (s *Source) storageFailed(st *standstill, err error) error {
	var failed storageError
	if errors.As(err, &failed) && s.takeBack(st, failed) || st.spent() {
		return errTakenBack
	}
	return err
}
