package tagging

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func receive(t *testing.T, c <-chan Transition) Transition {
	t.Helper()
	select {
	case tr := <-c:
		return tr
	case <-time.After(time.Minute):
		require.Fail(t, "no transition came")
		return Transition{}
	}
}

func TestSubscribe(t *testing.T) {
	c := newClock()
	r := newRAM(4)
	p := newPort(r, c.now)
	got := make(chan Transition, 16)
	unsubscribe := p.Subscribe(func(tr Transition) { got <- tr })
	register(p, 1)
	register(p, 1) // no transition
	enter(p, 1)
	register(p, 2)
	exit(p, 1)
	exit(p, 1) // unbalanced: none
	unregister(p, 1)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 2)
	p.Snapshot()
	now := c.now()
	for _, want := range []Transition{
		{Event: Registered, Task: 1},
		{Event: Entered, Task: 1, Depth: 1, GateAll: true, GateAny: true},
		{Event: Registered, Task: 2, GateAny: true},
		{Event: Exited, Task: 1},
		{Event: Unregistered, Task: 1},
		{Event: Registered, Task: 7, Depth: 2, Fast: true, GateAny: true},
	} {
		want.Time = now
		require.Equal(t, want, receive(t, got))
	}
	unsubscribe()
	unsubscribe()
	enter(p, 3)
	require.Empty(t, p.subscribers)
}

// A subscriber that does not return costs the guest nothing, and learns how many transitions it
// missed.
func TestSlowSubscriber(t *testing.T) {
	p := NewPort(nil)
	got := make(chan Transition)
	unsubscribe := p.Subscribe(func(tr Transition) { got <- tr })
	const total = 10 * backlog
	for id := range uint32(total / 2) {
		enter(p, id%MaxTasks)
		unregister(p, id%MaxTasks)
	}
	heard, dropped := uint64(0), uint64(0)
	for range backlog {
		require.Zero(t, receive(t, got).Dropped)
		heard++
	}
	// The queue is almost empty now, so this one is delivered.
	const last = 0xffff_ffff
	enter(p, last)
	for task := uint32(0); task != last; heard++ {
		tr := receive(t, got)
		task = tr.Task
		dropped += tr.Dropped
	}
	require.NotZero(t, dropped)
	require.EqualValues(t, total+1, heard+dropped)
	exit(p, last)
	require.Zero(t, receive(t, got).Dropped)
	unsubscribe()
}

// TestUnsubscribeLosesNothing: what happened before it is heard before it returns, and nothing that
// happens later is. A vCPU does not wait meanwhile.
func TestUnsubscribeLosesNothing(t *testing.T) {
	p := NewPort(nil)
	listen := make(chan struct{})
	var heard []uint32 // by the time that unsubscribe returns, nobody else has it
	unsubscribe := p.Subscribe(func(tr Transition) {
		<-listen
		heard = append(heard, tr.Task)
	})
	var want []uint32
	for id := range uint32(100) {
		enter(p, id)
		want = append(want, id)
	}
	unsubscribed := make(chan struct{})
	go func() {
		defer close(unsubscribed)
		unsubscribe()
	}()
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.subscribers) == 0
	}, time.Minute, time.Millisecond)
	enter(p, 100)
	close(listen)
	<-unsubscribed
	require.Equal(t, want, heard)
	unsubscribe()
}
