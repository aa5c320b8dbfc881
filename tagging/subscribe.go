package tagging

import "time"

// backlog is how many transitions a subscriber may be behind.
const backlog = 1024

// subscriber takes transitions from the vCPUs' threads.
type subscriber struct {
	queue   chan Transition // closed by leave
	done    chan struct{}   // closed once f has had the last of the queue
	dropped uint64          // since the last that was queued; the port's mu guards it
}

func (s *subscriber) run(f func(Transition)) {
	defer close(s.done)
	for t := range s.queue {
		f(t)
	}
}

// Subscribe calls f for every transition of a task, in order, on its own goroutine. A vCPU never
// waits for f: when f is more than 1024 transitions behind, transitions are dropped, and the next
// one says how many. Fast tasks are seen only when the host reads the tag page: at their rings
// during a migration, and in Snapshot otherwise.
//
// unsubscribe returns once f has returned from the last transition before it, and f is not called
// again. So f must not call unsubscribe, nor wait for what its caller holds.
func (p *Port) Subscribe(f func(Transition)) (unsubscribe func()) {
	s := &subscriber{queue: make(chan Transition, backlog), done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.subscribers[s] = struct{}{}
	go s.run(f)
	return func() {
		p.leave(s)
		<-s.done // without mu, so that no vCPU waits for f
	}
}

// leave adds nothing more to a subscriber's queue.
func (p *Port) leave(s *subscriber) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, subscribed := p.subscribers[s]; !subscribed {
		return
	}
	delete(p.subscribers, s)
	close(s.queue)
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
