package tagging

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func enter(p *Port, id uint32)      { p.Write(RegEnter, 4, id) }
func exit(p *Port, id uint32)       { p.Write(RegExit, 4, id) }
func register(p *Port, id uint32)   { p.Write(RegRegister, 4, id) }
func unregister(p *Port, id uint32) { p.Write(RegUnregister, 4, id) }

func TestIdentification(t *testing.T) {
	p := NewPort(nil)
	require.EqualValues(t, 0x31474154, p.Read(0x00, 4))
	require.EqualValues(t, 1, p.Read(0x04, 4))
	require.Zero(t, p.Snapshot().GuestErrors.Total)
}

// At every offset of the page and far beyond, and with every size, only aligned 32-bit accesses of
// registers in their direction do anything.
func TestOnlyRegistersAnswer(t *testing.T) {
	offsets := []uint64{1 << 32, math.MaxUint64, math.MaxUint64 - 3, 1<<32 + RegEnter}
	for o := range uint64(MMIOBytes + 16) {
		offsets = append(offsets, o)
	}
	readable := map[uint64]bool{
		0x00: true, 0x04: true, 0x10: true, 0x14: true, 0x28: true, 0x2c: true,
	}
	// DEADLINE_MS, CLONES and PAGES read 0 in this machine.
	zero := map[uint64]bool{0x30: true, 0x34: true, 0x38: true}
	writable := map[uint64]bool{
		0x08: true, 0x0c: true, 0x18: true, 0x1c: true, 0x20: true, 0x24: true, 0x38: true,
	}
	for _, size := range []int{-4, 0, 1, 2, 3, 4, 5, 8, 16} {
		p := newPort(newRAM(1), newClock().now)
		p.SetState(StatePreCopy)
		p.Moved()
		p.SetState(StatePreCopy)
		enter(p, 1)
		before := p.Snapshot()
		errors := uint64(0)
		for _, o := range offsets {
			got := p.Read(o, size)
			switch {
			case size == 4 && readable[o]:
				require.NotZero(t, got, "offset %#x", o)
			case size == 4 && zero[o]:
				require.Zero(t, got, "offset %#x", o)
			default:
				errors++
				require.Zero(t, got, "offset %#x size %d", o, size)
			}
			if size != 4 || !writable[o] {
				errors++
				p.Write(o, size, 1)
			}
			require.Equal(t, errors, p.errors.Access, "offset %#x size %d", o, size)
		}
		after := p.Snapshot()
		require.Equal(t, GuestErrors{Total: errors, Access: errors}, after.GuestErrors)
		after.GuestErrors = before.GuestErrors
		require.Equal(t, before, after, "size %d", size)
	}
}

func TestNesting(t *testing.T) {
	p := NewPort(nil)
	depth := func() uint32 { return find(p.Snapshot(), 9).Depth }
	register(p, 9)
	require.Zero(t, depth())
	register(p, 9)
	enter(p, 9)
	enter(p, 9)
	require.EqualValues(t, 2, depth())
	register(p, 9)
	require.EqualValues(t, 2, depth(), "REGISTER again changes nothing")
	exit(p, 9)
	require.EqualValues(t, 1, depth())
	require.True(t, p.Gate().Open)
	exit(p, 9)
	require.Zero(t, depth())
	require.Zero(t, p.Snapshot().GuestErrors.Total)
	exit(p, 9)
	require.Zero(t, depth())
	require.Equal(t, GuestErrors{Total: 1, Task: 1}, p.Snapshot().GuestErrors)
	require.Equal(t, GateState{Open: false, Tasks: 1}, p.Gate())
}

func TestUnknownTasks(t *testing.T) {
	p := NewPort(nil)
	exit(p, 5)
	unregister(p, 5)
	i := p.Snapshot()
	require.Empty(t, i.Tasks, "neither registers")
	require.NotNil(t, i.Tasks, "an empty list in JSON, not null")
	require.Equal(t, GuestErrors{Total: 2, Task: 2}, i.GuestErrors)
	require.Equal(t, Counters{Exits: 1, Unregisters: 1}, i.Counters)
}

func TestUnregisterForgetsOpenSegments(t *testing.T) {
	p := NewPort(nil)
	enter(p, 1)
	enter(p, 2)
	exit(p, 2)
	require.Equal(t, GateState{Open: false, Tasks: 2}, p.Gate())
	unregister(p, 2)
	require.Equal(t, GateState{Open: true, Tasks: 1}, p.Gate())
	unregister(p, 1)
	require.Equal(t, GateState{Open: true, Tasks: 0}, p.Gate())
	enter(p, 1)
	require.EqualValues(t, 1, find(p.Snapshot(), 1).Depth)
}

func TestDepthDoesNotWrap(t *testing.T) {
	p := NewPort(nil)
	enter(p, 1)
	p.table.tasks[1].depth = math.MaxUint32
	enter(p, 1)
	require.EqualValues(t, math.MaxUint32, find(p.Snapshot(), 1).Depth)
	require.Equal(t, GuestErrors{Total: 1, Task: 1}, p.Snapshot().GuestErrors)
}

func TestTasksAreBounded(t *testing.T) {
	p := NewPort(nil)
	for id := range uint32(3 * MaxTasks) {
		enter(p, math.MaxUint32-id)
	}
	i := p.Snapshot()
	require.Len(t, i.Tasks, MaxTasks)
	require.Equal(t, GuestErrors{Total: 2 * MaxTasks, Full: 2 * MaxTasks}, i.GuestErrors)
	require.Len(t, p.Save(), MaxStateBytes)
	unregister(p, math.MaxUint32)
	register(p, 0)
	require.NotNil(t, find(p.Snapshot(), 0), "there is room again")
}

func TestGatePolicies(t *testing.T) {
	tests := []struct {
		name     string
		do       func(*Port)
		all, any bool
	}{
		{"no task", func(*Port) {}, true, true},
		{"one outside", func(p *Port) { register(p, 1) }, false, false},
		{"one inside", func(p *Port) { enter(p, 1) }, true, true},
		{"one of two inside", func(p *Port) { enter(p, 1); register(p, 2) }, false, true},
		{"both inside", func(p *Port) { enter(p, 1); enter(p, 2) }, true, true},
		{
			"nested counts once", func(p *Port) { enter(p, 1); enter(p, 1); register(p, 2) }, false,
			true,
		},
		{
			"both left", func(p *Port) { enter(p, 1); enter(p, 2); exit(p, 1); exit(p, 2) }, false,
			false,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := NewPort(nil)
			tt.do(p)
			i := p.Snapshot()
			require.Equal(t, tt.all, i.GateAll)
			require.Equal(t, tt.any, i.GateAny)
			l := &recorder{}
			require.Equal(t, GateState{tt.all, len(i.Tasks)}, p.Attach(All, l))
			require.Equal(t, GateState{tt.all, len(i.Tasks)}, p.Gate())
			require.Equal(t, GateState{tt.any, len(i.Tasks)}, p.Attach(Any, l))
			require.Equal(t, GateState{tt.any, len(i.Tasks)}, p.Gate())
			p.Detach()
			require.Equal(t, GateState{tt.all, len(i.Tasks)}, p.Gate(), "All without a listener")
			require.Empty(t, l.taken())
		})
	}
}

func TestClockIsLatched(t *testing.T) {
	c := newClock()
	p := newPort(nil, c.now)
	require.Zero(t, p.Read(RegClockHi, 4), "nothing latched yet")
	require.EqualValues(t, 0x89ab_cdef, p.Read(RegClockLo, 4))
	c.advance(time.Hour)
	require.EqualValues(t, 0x0123_4567, p.Read(RegClockHi, 4))
	require.EqualValues(t, 0x0123_4567, p.Read(RegClockHi, 4))
	ns := uint64(c.now().UnixNano())
	require.Equal(t, uint32(ns), p.Read(RegClockLo, 4))
	require.Equal(t, uint32(ns>>32), p.Read(RegClockHi, 4))
}

func TestClockIsReadOnce(t *testing.T) {
	c := newClock()
	p := newPort(nil, func() time.Time { defer c.advance(1 << 32); return c.now() })
	ns := uint64(c.now().UnixNano())
	require.Equal(t, uint32(ns), p.Read(RegClockLo, 4))
	require.Equal(t, uint32(ns>>32), p.Read(RegClockHi, 4))
}

func TestStateAndEpoch(t *testing.T) {
	p := NewPort(nil)
	require.Zero(t, p.Read(RegState, 4))
	for s := StateNone; s <= StateSwitchingOver; s++ {
		p.SetState(s)
		require.EqualValues(t, s, p.Read(RegState, 4))
	}
	require.Zero(t, p.Read(RegEpoch, 4))
	p.Moved()
	require.EqualValues(t, 1, p.Read(RegEpoch, 4))
	require.Zero(t, p.Read(RegState, 4))
}

func TestTimesInsideAndOutside(t *testing.T) {
	c := newClock()
	p := newPort(nil, c.now)
	register(p, 1)
	c.advance(3 * time.Second)
	enter(p, 1)
	began := c.now()
	c.advance(time.Second)
	enter(p, 1)
	c.advance(time.Second)
	exit(p, 1)
	c.advance(500 * time.Millisecond)
	want := TaskInfo{
		ID: 1, Depth: 1, Inside: true, Since: began, InsideMS: 2500, OutsideMS: 3000, Segments: 1,
	}
	require.Equal(t, want, *find(p.Snapshot(), 1))
	require.Equal(t, want, *find(p.Snapshot(), 1), "looking changes nothing")
	exit(p, 1)
	c.advance(time.Second)
	want = TaskInfo{
		ID: 1, Since: c.now().Add(-time.Second), InsideMS: 2500, OutsideMS: 4000, Segments: 1,
	}
	require.Equal(t, want, *find(p.Snapshot(), 1))
}

func TestTasksAreSorted(t *testing.T) {
	p := NewPort(nil)
	for _, id := range []uint32{7, 3, math.MaxUint32, 0, 5} {
		enter(p, id)
	}
	var ids []uint32
	for _, task := range p.Snapshot().Tasks {
		ids = append(ids, task.ID)
	}
	require.Equal(t, []uint32{0, 3, 5, 7, math.MaxUint32}, ids)
}
