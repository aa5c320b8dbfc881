package migration

import (
	"context"
	"fmt"
	"time"

	"taskguide/migration/peer"
	"taskguide/transport"
)

// takeOver loads the state, which came in a frame with the given header, and runs the guest when
// told to.
func (d *Destination) takeOver(ctx context.Context, a *attempt, machine Incoming,
	header transport.Header, state []byte, w *peer.Watch) error {
	if err := a.links.Main().Announce(peer.WorkLimit(machine.RAM().Size())); err != nil {
		return err
	}
	var v arrived
	if header.Arg&stateVerify != 0 {
		v = a.verification(machine, w)
		if err := v.ram(); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := load(machine, state, v); err != nil {
		return err
	}
	if err := d.awaitCommit(ctx, a, begin); err != nil {
		return fmt.Errorf("not told to run the guest: %w", err)
	}
	a.told = time.Now()
	if err := d.admission.start(a); err != nil {
		return err
	}
	if err := machine.Run(header.Arg&statePaused != 0); err != nil {
		return fmt.Errorf("run the guest: %w", err)
	}
	return nil
}

// load loads the state, and compares it with the source's unless v is nil. RAM was compared before,
// because KVM updates its clock pages in guest RAM when vCPU state is loaded.
func load(machine Incoming, state []byte, v arrived) error {
	if err := machine.LoadState(state); err != nil {
		return fmt.Errorf("load the machine's state: %w", err)
	}
	if v == nil {
		return nil
	}
	if err := v.loaded(); err != nil {
		return err
	}
	return v.agree()
}

// verification returns the way in which the source wants to compare.
func (a *attempt) verification(machine Incoming, w *peer.Watch) arrived {
	v := verification{main: a.links.Main(), machine: machine, watch: w}
	if a.terms.Features&transport.FeatureParts != 0 {
		leavesOut := a.terms.Features&transport.FeatureLeftOut != 0
		return &arrivedParts{verification: v, leavesOut: leavesOut}
	}
	return &arrivedSums{verification: v}
}

// awaitCommit tells the source that the guest is ready to run, after work that has begun at the
// given time, and waits for its word.
func (d *Destination) awaitCommit(ctx context.Context, a *attempt, begin time.Time) error {
	// The count begins before prepared is written, so that the source's count begins later.
	a.until = d.clock() + peer.Lifetime
	expiring, stop := context.WithCancel(ctx)
	defer stop()
	go d.expire(expiring, a, a.until)
	main := a.links.Main()
	err := main.WriteMessage(transport.TypePrepared, uint32(peer.Lifetime.Milliseconds()),
		a.worked(begin))
	if err != nil {
		return err
	}
	_, err = readMessage(main, transport.TypeCommit)
	return err
}

// expire ends the attempt when its lifetime is over, unless ctx ends before. A timer does not count
// the time for which a host sleeps, so expire looks at the clock again and again. The decisive look
// is that of admission.start.
func (d *Destination) expire(ctx context.Context, a *attempt, until time.Duration) {
	for {
		left := until - d.clock()
		if left <= 0 {
			a.end(errExpired)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(left, peer.Pace)):
		}
	}
}
