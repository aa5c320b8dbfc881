package program

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"taskguide/migration/policy"
)

const (
	// AnswerTime is how long a program has for its answer.
	AnswerTime = 50 * time.Millisecond
	// ExitAnswerTime is that at an EXIT, with the vCPU held there.
	ExitAnswerTime = 5 * time.Millisecond
	// exitAnswerLife is for how long an answer given before an EXIT counts at that EXIT.
	exitAnswerLife = 20 * time.Millisecond
)

// Counsel is who is asked in a migration besides the head: the program that leads, and shadows. The
// zero value is nobody. Its fields without a guard are set before it is used.
type Counsel struct {
	lead    string          // the path of the program that leads, empty for none
	choices []policy.Choice // the shadows
	launch  func(path string, log *slog.Logger, lost func(error)) (Asked, error)

	log     *slog.Logger
	leader  Asked // nil for none; set by Start
	quiet   []*quietly
	closing sync.Once

	// mu guards everything below. Nobody waits while holding it.
	mu      sync.Mutex
	shadows []*policy.Shadow // one for each choice
	exit    *exitAnswer
}

// Asked is a Program, or what stands for one in a test.
type Asked interface {
	Ask(m Message, within time.Duration) (*policy.Action, error)
	TryAsk(m Message, within time.Duration) (*policy.Action, error)
	Tell(m Message)
	Close()
}

// exitAnswer is what the leader answered to an EXIT that is about to close the gate.
type exitAnswer struct {
	event policy.Event
	at    time.Duration
}

// NewCounsel returns the counsel of a migration: the program that leads, if any, and shadows.
func NewCounsel(lead string, shadows []policy.Choice, others policy.Values) (*Counsel, error) {
	c := &Counsel{lead: lead, choices: shadows, log: slog.New(slog.DiscardHandler)}
	c.launch = func(path string, log *slog.Logger, lost func(error)) (Asked, error) {
		p, err := Launch(path, log, lost)
		if err != nil {
			return nil, err // and no nil *Program, which is no nil Asked
		}
		return p, nil
	}
	for _, choice := range shadows {
		var p policy.Policy
		if choice.Program() == "" {
			var err error
			if p, err = choice.New(others); err != nil {
				return nil, fmt.Errorf("shadow %s: %w", choice, err)
			}
		}
		c.shadows = append(c.shadows, policy.NewShadow(choice.String(), p))
	}
	return c, nil
}

// LaunchBy has programs started in another way. A test has none.
func (c *Counsel) LaunchBy(
	launch func(path string, log *slog.Logger, lost func(error)) (Asked, error),
) {
	c.launch = launch
}

// LogTo has what programs say on standard error logged.
func (c *Counsel) LogTo(log *slog.Logger) { c.log = log }

// Start starts the programs. If the one that leads is over, lost is told.
func (c *Counsel) Start(lost func(error)) (err error) {
	if c.lead != "" {
		if c.leader, err = c.launch(c.lead, c.log, lost); err != nil {
			return err
		}
	}
	for i, choice := range c.choices {
		path := choice.Program()
		if path == "" {
			continue
		}
		shadow := c.shadows[i]
		p, err := c.launch(path, c.log, func(why error) { c.failed(shadow, why) })
		if err != nil {
			return err
		}
		c.quiet = append(c.quiet, newQuietly(p, func(q question, a policy.Action) {
			c.mu.Lock()
			defer c.mu.Unlock()
			shadow.Note(q.now, q.event, a)
		}))
	}
	return nil
}

func (c *Counsel) failed(s *policy.Shadow, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Fail(why.Error())
}

// Ask puts a question to the leader. There is no answer if it is late, or over.
func (c *Counsel) Ask(m Message) *policy.Action {
	if c.leader == nil {
		return nil
	}
	a, err := c.leader.Ask(m, AnswerTime)
	if err != nil {
		return nil // the leader's end is told apart
	}
	return a
}

// AskAtExit puts a question to the leader while a vCPU waits at its EXIT, and keeps the event with
// its answer for AtExit.
func (c *Counsel) AskAtExit(now time.Duration, m Message, e policy.Event) {
	if c.leader == nil {
		return
	}
	a, err := c.leader.TryAsk(m, ExitAnswerTime)
	if a == nil || err != nil {
		return
	}
	e.Answer, e.Rounds = a, nil // the engine's rounds may change meanwhile
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exit = &exitAnswer{e, now}
}

// AtExit returns the event that AskAtExit has kept for this EXIT, once.
func (c *Counsel) AtExit(now time.Duration) (policy.Event, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.exit
	c.exit = nil
	if x == nil || now-x.at > exitAnswerLife {
		return policy.Event{}, false
	}
	return x.event, true
}

// Shadow asks the shadows. It does not wait: programs among them answer later. At a start they
// learn what a leader learns, the opening.
func (c *Counsel) Shadow(now time.Duration, e policy.Event, opening *Opening) {
	if len(c.shadows) == 0 {
		return
	}
	c.mu.Lock()
	for _, s := range c.shadows {
		s.Step(now, e)
	}
	c.mu.Unlock()
	for _, q := range c.quiet {
		m := Asking(now, e)
		m.Opening = opening
		q.put(question{now, e, m, true})
	}
}

// Tell tells everybody of an event to which there is no answer.
func (c *Counsel) Tell(now time.Duration, e policy.Event) {
	if c.leader == nil && len(c.shadows) == 0 {
		return
	}
	c.mu.Lock()
	for _, s := range c.shadows {
		s.Tell(now, e)
	}
	c.mu.Unlock()
	m := Telling(now, e)
	if c.leader != nil {
		c.leader.Tell(m)
	}
	for _, q := range c.quiet {
		q.put(question{now, e, m, false})
	}
}

// Records returns what the shadows would have done so far.
func (c *Counsel) Records() []policy.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	records := []policy.Record{}
	for _, s := range c.shadows {
		records = append(records, s.Record())
	}
	return records
}

// Dismiss ends the leader.
func (c *Counsel) Dismiss() {
	if c.leader != nil {
		c.leader.Close()
	}
}

// Close ends all programs.
func (c *Counsel) Close() {
	c.closing.Do(func() {
		c.Dismiss()
		for _, q := range c.quiet {
			q.close()
		}
	})
}
