package control

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"taskguide/migration"
	"taskguide/tagging"
)

const (
	maxSubscribers = 64
	// queueLimit bounds a client's queue, in events of a few hundred bytes.
	queueLimit = 256
)

var errTooManyClients = errors.New("too many clients follow this VM's events")

// hub passes every event to every subscriber and never waits for one.
type hub struct {
	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	closed bool
}

// subscriber is one client's queue. The hub's mutex guards its fields, except wake.
type subscriber struct {
	hub     *hub
	queue   []Event
	dropped int
	wake    chan struct{} // holds one token while there may be something to read
}

func newHub() *hub {
	return &hub{subs: make(map[*subscriber]struct{})}
}

// publish queues e for every subscriber. It does not block. Any goroutine may call it, and events
// of one caller keep their order.
func (h *hub) publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	for s := range h.subs {
		s.push(e)
	}
}

// pushTag queues a transition for this subscriber alone.
func (s *subscriber) pushTag(t tagging.Transition) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.push(Event{Time: t.Time, Kind: EventTag, Tag: &t})
}

// pushBeat queues a heartbeat for this subscriber alone. Heartbeats leave half of the queue to
// other events: a guest prints as many as it likes, and a tag that is lost is worse.
func (s *subscriber) pushBeat(b Beat) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if len(s.queue) >= queueLimit/2 {
		s.dropped++
		s.signal()
		return
	}
	s.push(Event{Time: b.Time, Kind: EventBeat, Beat: &b})
}

// push queues an event for this subscriber. The hub's mutex must be held.
func (s *subscriber) push(e Event) {
	switch n := len(s.queue); {
	case n > 0 && e.Kind == string(migration.NoticeProgress) && s.queue[n-1].Kind == e.Kind:
		s.queue[n-1] = e // only the newest progress matters
	case n >= queueLimit:
		s.dropped += n
		s.queue = append(s.queue[:0], e)
	default:
		s.queue = append(s.queue, e)
	}
	s.signal()
}

func (s *subscriber) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// subscribe begins a stream. Its first event tells the state as it is once the stream has begun, so
// that no change falls between the two: one that comes meanwhile is told twice.
func (h *hub) subscribe(state func() State) (*subscriber, error) {
	s := &subscriber{hub: h, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	full := len(h.subs) >= maxSubscribers
	if !full && !h.closed {
		h.subs[s] = struct{}{}
	}
	h.mu.Unlock()
	if full {
		return nil, errTooManyClients
	}
	first := Event{Time: time.Now(), Kind: EventState, State: state()} // it takes locks of its own
	h.mu.Lock()
	defer h.mu.Unlock()
	s.queue = slices.Insert(s.queue, 0, first)
	s.signal()
	return s, nil
}

// next waits for the next event. It returns io.EOF once the hub is closed and the queue is empty.
func (s *subscriber) next(ctx context.Context) (Event, error) {
	for {
		e, ok, closed := s.pop()
		if ok {
			return e, nil
		}
		if closed {
			return Event{}, io.EOF
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

func (s *subscriber) pop() (e Event, ok, closed bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.dropped > 0 {
		e = Event{Time: time.Now(), Kind: EventLagged, Dropped: s.dropped}
		s.dropped = 0
		return e, true, false
	}
	if len(s.queue) == 0 {
		return Event{}, false, s.hub.closed
	}
	e = s.queue[0]
	s.queue = s.queue[1:]
	return e, true, false
}

// cancel ends the subscription.
func (s *subscriber) cancel() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subs, s)
}

// close ends all streams once their subscribers have read the queued events.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.subs {
		s.signal()
	}
}
