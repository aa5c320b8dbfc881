package tagging

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestListenerHearsTransitions(t *testing.T) {
	type step struct {
		do   func(*Port)
		want []string
	}
	closes, opens := []string{"closing", "closed"}, []string{"opened"}
	tests := []struct {
		name   string
		quorum Quorum
		steps  []step
	}{
		{"all", All, []step{
			{func(p *Port) { register(p, 1) }, closes}, // there was no task, now one is outside
			{func(p *Port) { enter(p, 1) }, opens},
			{func(p *Port) { enter(p, 1) }, nil},
			{func(p *Port) { exit(p, 1) }, nil},
			{func(p *Port) { enter(p, 2) }, nil},
			{func(p *Port) { exit(p, 1) }, closes},
			{func(p *Port) { exit(p, 2) }, nil},
			{func(p *Port) { enter(p, 1) }, nil},
			{func(p *Port) { enter(p, 2) }, opens},
			{func(p *Port) { register(p, 3) }, closes},
			{func(p *Port) { unregister(p, 3) }, opens},
			{func(p *Port) { exit(p, 1) }, closes},
			{func(p *Port) { exit(p, 1) }, nil}, // unbalanced
			{func(p *Port) { unregister(p, 1) }, opens},
			{func(p *Port) { unregister(p, 2) }, nil},
		}},
		{"any", Any, []step{
			{func(p *Port) { enter(p, 1) }, nil},
			{func(p *Port) { register(p, 2) }, nil},
			{func(p *Port) { exit(p, 1) }, closes},
			{func(p *Port) { enter(p, 2) }, opens},
			{func(p *Port) { enter(p, 1) }, nil},
			{func(p *Port) { exit(p, 2) }, nil},
			{func(p *Port) { unregister(p, 1) }, closes},
			{func(p *Port) { unregister(p, 2) }, opens}, // no task is left
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := NewPort(nil)
			l := &recorder{}
			require.Equal(t, GateState{Open: true}, p.Attach(tt.quorum, l))
			for i, s := range tt.steps {
				s.do(p)
				require.Equal(t, s.want, l.taken(), "step %d", i)
			}
			p.Detach()
			register(p, 9)
			enter(p, 9)
			require.Empty(t, l.taken(), "after Detach")
		})
	}
}

// watcher is a listener made of functions.
type watcher struct {
	opened, closed func()
	closing        func() bool
}

func (w watcher) GateOpened()       { w.opened() }
func (w watcher) GateClosing() bool { return w.closing() }
func (w watcher) GateClosed()       { w.closed() }

// The listener sees the gate as it is on its side of the transition, and may use the port. Other
// vCPUs may read registers meanwhile.
func TestListenerUsesThePort(t *testing.T) {
	p := NewPort(nil)
	enter(p, 1)
	var seen []GateState
	look := func() {
		seen = append(seen, p.Gate())
		p.SetState(StateSuspended)
		done := make(chan uint32)
		go func() { done <- p.Read(RegState, 4) }()
		require.EqualValues(t, StateSuspended, <-done)
		require.Len(t, p.Snapshot().Tasks, 1)
		require.NotEmpty(t, p.Save())
	}
	p.Attach(All,
		watcher{opened: look, closed: look, closing: func() bool { look(); return false }})
	exit(p, 1)
	enter(p, 1)
	require.Equal(t, []GateState{{true, 1}, {false, 1}, {true, 1}}, seen)
}

func TestHeldExitIsDoneWhenSaved(t *testing.T) {
	p := NewPort(nil)
	enter(p, 1)
	l := &recorder{closing: func() bool { return true }}
	p.Attach(All, l)
	exit(p, 1)
	require.Equal(t, []string{"closing"}, l.taken(), "no GateClosed after a hold")
	require.False(t, p.Gate().Open)
	there := NewPort(nil)
	require.NoError(t, there.Load(p.Save()))
	require.Zero(t, find(there.Snapshot(), 1).Depth)
	// The machine was not stopped after all: guidance goes on.
	enter(p, 1)
	require.Equal(t, []string{"opened"}, l.taken())
}

func TestDetachInsideGateClosing(t *testing.T) {
	p := NewPort(nil)
	enter(p, 1)
	l := &recorder{closing: func() bool { p.Detach(); return false }}
	p.Attach(All, l)
	exit(p, 1)
	require.Equal(t, []string{"closing"}, l.taken(), "no GateClosed after Detach")
	require.Equal(t, GateState{Open: false, Tasks: 1}, p.Gate())
}

// If a migration begins while an earlier one's listener still holds a vCPU, it does not hear of
// that transition, and starts from the gate after it.
func TestAttachWaitsForTransition(t *testing.T) {
	p := NewPort(nil)
	enter(p, 1)
	asked, answer := make(chan struct{}), make(chan bool)
	first := &recorder{closing: func() bool { close(asked); return <-answer }}
	p.Attach(All, first)
	go exit(p, 1)
	<-asked
	p.Detach()
	second := &recorder{}
	started, got := make(chan struct{}), make(chan GateState)
	go func() { close(started); got <- p.Attach(All, second) }()
	<-started
	time.Sleep(5 * time.Millisecond) // an Attach that does not wait would return by now
	require.True(t, p.Gate().Open, "the EXIT is not done yet")
	answer <- false
	require.Equal(t, GateState{Open: false, Tasks: 1}, <-got)
	require.Equal(t, []string{"closing"}, first.taken())
	require.Empty(t, second.taken())
}

// A vCPU whose write waits behind a GateClosing gets its transition after it.
func TestTransitionsQueueBehindGateClosing(t *testing.T) {
	p := NewPort(nil)
	enter(p, 1)
	asked, answer := make(chan struct{}), make(chan bool)
	l := &recorder{closing: func() bool { asked <- struct{}{}; return <-answer }}
	p.Attach(Any, l)
	exited, entered := make(chan struct{}), make(chan struct{})
	go func() { exit(p, 1); close(exited) }()
	<-asked
	go func() { enter(p, 2); close(entered) }()
	answer <- true
	<-exited
	<-entered
	require.Equal(t, []string{"closing", "opened"}, l.taken())
	require.Equal(t, GateState{Open: true, Tasks: 2}, p.Gate())
}

// forewarned is a listener that notes what it is told, and writes to the port in GateMayClose.
type forewarned struct {
	p    *Port
	told []string
	then func()
}

func (f *forewarned) GateOpened()       { f.told = append(f.told, "opened") }
func (f *forewarned) GateClosed()       { f.told = append(f.told, "closed") }
func (f *forewarned) GateClosing() bool { f.told = append(f.told, "closing"); return false }

func (f *forewarned) GateMayClose() {
	f.told = append(f.told, "may close")
	if f.then != nil {
		f.then()
	}
}

// TestForewarned: a listener that wants to know it hears of an EXIT that would close the gate, with
// no lock held, before anything has changed. Of other EXITs it hears nothing.
func TestForewarned(t *testing.T) {
	for _, quorum := range []Quorum{All, Any} {
		p := NewPort(nil)
		f := &forewarned{p: p}
		p.Write(RegEnter, 4, 1)
		p.Write(RegEnter, 4, 1) // twice
		p.Attach(quorum, f)
		p.Write(RegExit, 4, 1)
		require.Empty(t, f.told, "it is still inside")
		p.Write(RegExit, 4, 7)
		p.Write(RegExit, 2, 1)
		require.Empty(t, f.told, "errors close nothing")
		errors := p.Snapshot().GuestErrors
		p.Write(RegExit, 4, 1)
		require.Equal(t, []string{"may close", "closing", "closed"}, f.told)
		require.Equal(t, errors, p.Snapshot().GuestErrors, "it is counted once")
		p.Write(RegExit, 4, 1)
		require.Len(t, f.told, 3, "it is closed")

		// Another task changes things meanwhile, so the gate stays open.
		f.told = nil
		p.Write(RegEnter, 4, 1)
		f.then = func() { p.Write(RegEnter, 4, 1) }
		p.Write(RegExit, 4, 1)
		require.Equal(t, []string{"opened", "may close"}, f.told)
	}
}
