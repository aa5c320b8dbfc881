package program

import (
	"time"

	"taskguide/migration/policy"
)

// question is an event for a program, with what a shadow notes about it.
type question struct {
	now   time.Duration
	event policy.Event
	m     Message
	asks  bool
}

// quietly asks a program beside the migration, which does not wait for it. While the program
// answers, a few events wait, and others are dropped: a shadow that is slow is asked less.
type quietly struct {
	p     Asked
	note  func(question, policy.Action)
	next  chan question
	stop  chan struct{}
	ended chan struct{}
}

func newQuietly(p Asked, note func(question, policy.Action)) *quietly {
	q := &quietly{p: p, note: note, next: make(chan question, 16), stop: make(chan struct{}),
		ended: make(chan struct{})}
	go q.run()
	return q
}

func (q *quietly) put(what question) {
	what.event.Rounds = nil // the engine's
	select {
	case q.next <- what:
	default:
	}
}

func (q *quietly) run() {
	defer close(q.ended)
	for {
		select {
		case what := <-q.next:
			q.ask(what)
		case <-q.stop:
			for { // what is left was asked before the end
				select {
				case what := <-q.next:
					q.ask(what)
				default:
					return
				}
			}
		}
	}
}

func (q *quietly) ask(what question) {
	if !what.asks {
		q.p.Tell(what.m)
		return
	}
	if a, err := q.p.Ask(what.m, AnswerTime); err == nil && a != nil {
		q.note(what, *a)
	}
}

// close asks what is left, for a moment, and ends the program.
func (q *quietly) close() {
	close(q.stop)
	select {
	case <-q.ended:
	case <-time.After(farewell):
	}
	q.p.Close()
	<-q.ended // nobody answers any more
}
