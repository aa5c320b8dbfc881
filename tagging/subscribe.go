package tagging

import "time"

// backlog is how many transitions a subscriber may be behind.
const backlog = 1024

// subscriber takes transitions from the vCPUs' threads.
type subscriber struct {
	queue   chan Transition // closed by unsubscribe
	gone    chan struct{}   // closed by unsubscribe, so that the backlog is dropped
	dropped uint64
}

func (s *subscriber) run(f func(Transition)) {
	for t := range s.queue {
		select {
		case <-s.gone:
			return
		default:
			f(t)
		}
	}
}

// Subscribe calls f for every transition of a task, in order, on its own goroutine. A vCPU never
// waits for f: when f is more than 1024 transitions behind, transitions are dropped, and the next
// one says how many. Fast tasks are seen only when the host reads the tag page: at their rings
// during a migration, and in Snapshot otherwise.
//
// After unsubscribe, which f may call, f is not called again, but a call in progress may still be
// running.
func (p *Port) Subscribe(f func(Transition)) (unsubscribe func()) {
	s := &subscriber{queue: make(chan Transition, backlog), gone: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.subscribers[s] = struct{}{}
	go s.run(f)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if _, subscribed := p.subscribers[s]; !subscribed {
			return
		}
		delete(p.subscribers, s)
		close(s.gone)
		close(s.queue)
	}
}

// publish tells the subscribers of an edit that was applied. mu must be held, which keeps
// transitions in order and queues open.
func (p *Port) publish(e edit, now time.Time) {
	if len(p.subscribers) == 0 {
		return
	}
	t := Transition{
		Time:    now,
		Event:   e.event,
		Task:    e.id,
		Depth:   e.depth,
		Fast:    e.fast,
		GateAll: p.table.gate(All).Open,
		GateAny: p.table.gate(Any).Open,
	}
	for s := range p.subscribers {
		t.Dropped = s.dropped
		select {
		case s.queue <- t:
			s.dropped = 0
		default:
			s.dropped++
		}
	}
}
