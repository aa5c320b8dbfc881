package migration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"taskguide/migration/peer"
	"taskguide/transport"
)

const (
	// clearTimeout bounds how long a newcomer waits until the attempt before it is cleared away.
	clearTimeout = 5 * time.Second
	// fenceTimeout bounds how long a fence waits until the copy is gone. After that the fence is
	// told to ask again.
	fenceTimeout = 5 * time.Second
	// maxDiscarded is how many failed migrations are remembered, so that their sources can ask.
	maxDiscarded = 1024
)

var (
	errFenced  = errors.New("its source took the guest back")
	errExpired = fmt.Errorf("not told to run the guest within %v", peer.Lifetime)
)

// admission says which connection belongs to which attempt, and remembers how attempts ended.
// There is one attempt at a time.
type admission struct {
	clock func() time.Duration // counts lifetimes

	mu       sync.Mutex // guards everything below; a leaf
	current  *attempt   // nil: the next attempt may come
	outcomes map[transport.ID]transport.Outcome
	// discarded are the failed migrations in outcomes, oldest first.
	discarded []transport.ID
}

func newAdmission(clock func() time.Duration) *admission {
	return &admission{clock: clock, outcomes: make(map[transport.ID]transport.Outcome)}
}

// busyError refuses a migration while another one is here.
type busyError struct {
	ended <-chan struct{} // closed once that other one has been cleared away
}

func (busyError) Error() string {
	return "busy with another migration: wait for its end, or migrate to another destination"
}

// admitSoon is admit for a source that may come right after another attempt failed or was
// cancelled. That attempt's source learns of the end before this destination has freed what it
// received, which takes longer for a larger guest. So a newcomer that meets another migration waits
// for up to clearTimeout before it is refused.
func (m *admission) admitSoon(ctx context.Context, h transport.Hello, terms transport.Terms) (
	*attempt, error,
) {
	timeout := time.NewTimer(clearTimeout)
	defer timeout.Stop()
	for {
		a, err := m.admit(h, terms)
		var busy busyError
		if !errors.As(err, &busy) {
			return a, err
		}
		select {
		case <-busy.ended:
		case <-timeout.C:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// admit opens an attempt for channel 0, or finds the one that another channel
// belongs to.
func (m *admission) admit(h transport.Hello, terms transport.Terms) (*attempt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h.Channels == 0 || int(h.Channels) > MaxChannels || h.Channel >= h.Channels {
		return nil, fmt.Errorf("channel %d of %d: use at most %d",
			h.Channel, h.Channels, MaxChannels)
	}
	if h.Channel > 0 {
		a := m.current
		if a == nil || a.id != h.ID || int(h.Channels) != len(a.taken) {
			return nil, errors.New("this channel belongs to no migration under way")
		}
		if terms != a.terms {
			return nil, errors.New("this channel was offered on other terms than its migration")
		}
		if a.taken[h.Channel] {
			return nil, fmt.Errorf("channel %d is here already", h.Channel)
		}
		a.taken[h.Channel] = true
		return a, nil
	}
	for _, o := range m.outcomes {
		if o == transport.OutcomeRunning || o == transport.OutcomeStarting {
			return nil, errors.New("a guest runs here already")
		}
	}
	if m.current != nil {
		return nil, busyError{m.current.ended}
	}
	if _, again := m.outcomes[h.ID]; again {
		return nil, errors.New("that migration was here before")
	}
	m.current = &attempt{
		id:    h.ID,
		terms: terms,
		taken: make([]bool, h.Channels),
		joins: make(chan joined, h.Channels),
		ended: make(chan struct{}),
	}
	m.current.ctx, m.current.end = context.WithCancelCause(context.Background())
	m.outcomes[h.ID] = transport.OutcomePending
	return m.current, nil
}

// hand gives a channel to its attempt, unless the attempt is over. It does not block, because every
// channel is admitted once and joins has room for all.
func (m *admission) hand(a *attempt, j joined) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != a {
		j.conn.Close()
		return
	}
	a.joins <- j
}

// start is the last check before the guest runs: after it no fence can stop the guest. It refuses a
// guest that was fenced, or whose lifetime is over.
func (m *admission) start(a *attempt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case a.fenced:
		return errFenced
	case m.clock() >= a.until:
		return errExpired
	}
	m.outcomes[a.id] = transport.OutcomeStarting
	return nil
}

// conclude writes down how an attempt ended. From then on queries get this answer, and no channel
// can join the attempt.
func (m *admission) conclude(a *attempt, o transport.Outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outcomes[a.id] = o
	m.current = nil
	close(a.ended)
	if o != transport.OutcomeDiscarded {
		return
	}
	// The list is bounded, because anybody may come and fail. A source whose outcome is forgotten
	// is told that it is unknown, which is safe.
	if m.discarded = append(m.discarded, a.id); len(m.discarded) > maxDiscarded {
		delete(m.outcomes, m.discarded[0])
		m.discarded = m.discarded[1:]
	}
}

// outcome returns how a migration ended. A fence ends a migration that was not told to run yet: its
// guest will never run here, and the answer waits until the copy is gone.
func (m *admission) outcome(hello transport.Hello) (o transport.Outcome, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, known = m.outcomes[hello.ID]
	a := m.current
	pending := known && o == transport.OutcomePending && a != nil && a.id == hello.ID
	if !pending || hello.Purpose != transport.PurposeFence {
		return o, known
	}
	a.fenced = true
	a.end(errFenced)
	m.mu.Unlock()
	timeout := time.NewTimer(fenceTimeout)
	defer timeout.Stop()
	select {
	case <-a.ended:
	case <-timeout.C:
	}
	m.mu.Lock()
	o, known = m.outcomes[hello.ID]
	return o, known
}
