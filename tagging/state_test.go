package tagging

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// busyPort returns a port with some of every kind of state, its RAM and its clock.
func busyPort(t testing.TB) (*Port, *ram, *clock) {
	r, c := newRAM(4), newClock()
	p := newPort(r, c.now)
	enter(p, 1)
	enter(p, 1)
	register(p, 0xffff_ffff)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 1)
	page.set(1, slotUsed, 8, 0)
	register(p, 7)
	p.Read(RegClockLo, 4)
	p.Write(RegPageLo, 4, 0x1234)
	c.advance(time.Second)
	exit(p, 1)
	exit(p, 99)
	p.Read(3, 1)
	p.Moved()
	p.Moved()
	p.SetState(StateSwitchingOver)
	return p, r, c
}

func TestSaveAndLoad(t *testing.T) {
	p, r, c := busyPort(t)
	there := newPort(r, c.now)
	enter(there, 1000)
	require.NoError(t, there.Load(p.Save()))
	require.Equal(t, p.Snapshot(), there.Snapshot())
	require.Equal(t, p.Save(), there.Save())
	require.Equal(t, p.Fingerprint(), there.Fingerprint())
	require.Equal(t, p.Read(RegClockHi, 4), there.Read(RegClockHi, 4))
	p.Write(RegPageHi, 4, 0) // both commit the latched 0x1234
	there.Write(RegPageHi, 4, 0)
	require.Equal(t, p.Snapshot(), there.Snapshot())
}

// Time passes for tasks at the source until Save and at the destination from Load on. The time in
// between does not count.
func TestTimeDoesNotPassOnTheWay(t *testing.T) {
	c := newClock()
	p := newPort(nil, c.now)
	enter(p, 1)
	c.advance(time.Second)
	state := p.Save()
	c.advance(time.Hour)
	there := newPort(nil, c.now)
	require.NoError(t, there.Load(state))
	c.advance(time.Second)
	require.Equal(t, 2000.0, find(there.Snapshot(), 1).InsideMS)
}

func TestFingerprintTellsStatesApart(t *testing.T) {
	base := func() *Port { p, _, _ := busyPort(t); return p }
	want := base().Fingerprint()
	require.Equal(t, want, base().Fingerprint())
	same := map[string]func(*Port){
		"epoch":  (*Port).Moved,
		"state":  func(p *Port) { p.SetState(StateNone) },
		"errors": func(p *Port) { exit(p, 99) },
		"time":   func(p *Port) { p.now = func() time.Time { return time.Unix(1, 1) }; p.Save() },
	}
	for what, do := range same {
		p := base()
		do(p)
		require.Equal(t, want, p.Fingerprint(), what)
	}
	differs := map[string]func(*Port){
		"depth": func(p *Port) { enter(p, 1) },
		"task":  func(p *Port) { register(p, 2) },
		"page": func(p *Port) {
			p.Write(RegPageLo, 4, 0)
			p.Write(RegPageHi, 4, 0)
			p.Write(RegPageLo, 4, 0x1234)
		},
		"page latch": func(p *Port) { p.Write(RegPageLo, 4, 1) },
		"clock latch": func(p *Port) {
			p.now = func() time.Time { return time.Unix(1, 1) }
			p.Read(RegClockLo, 4)
		},
	}
	for what, do := range differs {
		p := base()
		do(p)
		require.NotEqual(t, want, p.Fingerprint(), what)
	}
}

func TestLoadRefuses(t *testing.T) {
	good := func() []byte { p, _, _ := busyPort(t); return p.Save() }
	le := binary.LittleEndian
	const pageAt, tasksAt, firstTask = 24, stateHeadBytes - 4, stateHeadBytes
	edited := func(edit func([]byte) []byte) []byte { return edit(good()) }
	tests := []struct {
		name, want string
		state      []byte
	}{
		{"nothing", "0 bytes are no tag port state", nil},
		{"short", "no tag port state", good()[:stateHeadBytes-1]},
		{"magic", "no tag port state", edited(func(b []byte) []byte { b[0]++; return b })},
		{"version", "version 2 is unknown", edited(func(b []byte) []byte { b[4]++; return b })},
		{"reserved", "reserved", edited(func(b []byte) []byte { b[6]++; return b })},
		{"state", "migration state 5", edited(func(b []byte) []byte { b[12]++; return b })},
		{
			"page outside", "0x100000 is no page of RAM",
			edited(func(b []byte) []byte { le.PutUint64(b[pageAt:], 1<<20); return b }),
		},
		{
			"page unaligned", "is no page of RAM",
			edited(func(b []byte) []byte { b[pageAt]++; return b }),
		},
		{"fewer tasks", "3 tasks in", edited(func(b []byte) []byte { b[tasksAt]--; return b })},
		{
			"many tasks", "4294967295 tasks in",
			edited(func(b []byte) []byte { le.PutUint32(b[tasksAt:], 0xffffffff); return b }),
		},
		{"too many tasks", "4097 tasks in", edited(func(b []byte) []byte {
			le.PutUint32(b[tasksAt:], MaxTasks+1)
			return append(b[:firstTask], make([]byte, (MaxTasks+1)*stateTaskBytes)...)
		})},
		{"cut", "4 tasks in", edited(func(b []byte) []byte { return b[:len(b)-1] })},
		{"trailing", "4 tasks in", edited(func(b []byte) []byte { return append(b, 0) })},
		{
			"order", "task 7 is out of order",
			edited(func(b []byte) []byte { b[firstTask] = 200; return b }),
		},
		{
			"twice", "task 7 is out of order",
			edited(func(b []byte) []byte { b[firstTask] = 7; return b }),
		},
		{
			"flags", "unknown flags 0x2",
			edited(func(b []byte) []byte { b[firstTask+8] = 2; return b }),
		},
		{
			"fast without page", "task 7 has no slot",
			edited(func(b []byte) []byte { le.PutUint64(b[pageAt:], 0); return b }),
		},
		{"inside", "century", edited(func(b []byte) []byte { b[firstTask+35] = 0x7f; return b })},
		{"outside", "century", edited(func(b []byte) []byte { b[firstTask+43] = 0xff; return b })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _, _ := busyPort(t)
			before := p.Save()
			require.ErrorContains(t, p.Load(tt.state), tt.want)
			require.Equal(t, before, p.Save(), "the port is as it was")
		})
	}
}

func TestLoadRefusesMoreFastTasksThanSlots(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	for i := range PageSlots {
		page.set(i, slotUsed, uint32(i), 1)
	}
	register(p, 1000)
	state := p.Save()
	require.NoError(t, NewPort(r).Load(state))
	state[len(state)-stateTaskBytes+8] = stateFastFlag
	require.ErrorContains(t, NewPort(r).Load(state), "task 1000 has no slot")
}

func FuzzLoad(f *testing.F) {
	busy, _, _ := busyPort(f)
	f.Add(busy.Save())
	f.Add(NewPort(nil).Save())
	f.Add(busy.Save()[:stateHeadBytes])
	f.Fuzz(func(t *testing.T, state []byte) {
		r, c := newRAM(4), newClock()
		p := newPort(r, c.now)
		if p.Load(state) != nil {
			return
		}
		require.LessOrEqual(t, len(state), MaxStateBytes)
		require.True(t, bytes.Equal(state, p.Save()), "what was loaded is what is saved")
		checkTable(t, p)
		p.Snapshot()
		enter(p, 1)
		p.Attach(All, &recorder{})
		exit(p, 1)
		p.Moved()
		checkTable(t, p)
	})
}

// checkTable compares the port's counts with its tasks.
func checkTable(t testing.TB, p *Port) {
	inside, fast := 0, 0
	for id, task := range p.table.tasks {
		if task.depth > 0 {
			inside++
		}
		if task.fast {
			fast++
			require.Contains(t, p.table.fast, id)
		}
	}
	require.Equal(t, inside, p.table.inside)
	require.Len(t, p.table.fast, fast)
	require.LessOrEqual(t, fast, p.slotsAtMost())
	require.LessOrEqual(t, len(p.table.tasks), MaxTasks)
}
