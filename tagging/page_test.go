package tagging

import (
	"encoding/binary"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFastTasks(t *testing.T) {
	r := newRAM(4)
	p := newPort(r, newClock().now)
	page := newPage(t, p, r)
	require.EqualValues(t, pageGPA, p.Snapshot().Page)
	require.Empty(t, p.Snapshot().Tasks)

	page.set(0, slotUsed, 7, 0)
	page.set(5, slotUsed, 8, 3)
	page.set(9, 2, 9, 1) // being set up
	page.set(PageSlots-1, slotUsed, 10, math.MaxUint32)
	require.Equal(t, GateState{Open: false, Tasks: 3}, p.Gate(), "without a ring, the slots count")
	i := p.Snapshot()
	require.Len(t, i.Tasks, 3)
	require.Equal(t, []uint32{0, 3, math.MaxUint32},
		[]uint32{i.Tasks[0].Depth, i.Tasks[1].Depth, i.Tasks[2].Depth})
	for _, task := range i.Tasks {
		require.True(t, task.Fast)
		require.Equal(t, task.Depth > 0, task.Inside)
	}

	page.setDepth(0, 1)
	require.True(t, p.Gate().Open)
	page.set(0, 0, 7, 1)
	require.Equal(t, GateState{Open: true, Tasks: 2}, p.Gate(), "a freed slot's task is forgotten")
	require.Zero(t, p.Snapshot().GuestErrors.Total)
}

func TestRingsOnlyLook(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 0)
	depth := func() uint32 { return find(p.Snapshot(), 7).Depth }
	for _, ring := range []func(*Port, uint32){enter, exit, register} {
		page.setDepth(0, 4)
		ring(p, 7)
		ring(p, 7)
		require.EqualValues(t, 4, depth())
		page.setDepth(0, 0)
		ring(p, 7)
		require.Zero(t, depth())
	}
	require.Zero(t, p.Snapshot().GuestErrors.Total)

	unregister(p, 7)
	require.NotNil(t, find(p.Snapshot(), 7), "the slot says that it is there")
	require.Equal(t, GuestErrors{Total: 1, Task: 1}, p.Snapshot().GuestErrors)

	page.set(0, 0, 7, 0)
	require.Nil(t, find(p.Snapshot(), 7))
	unregister(p, 7)
	require.EqualValues(t, 1, p.Snapshot().GuestErrors.Total,
		"a ring that comes after a look is no error")
}

func TestPlainAndFastSideBySide(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	enter(p, 1)
	enter(p, 2)
	enter(p, 2)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 2, 0)
	register(p, 2)
	require.Equal(t, GateState{Open: false, Tasks: 2}, p.Gate(), "the slot takes over")
	exit(p, 1)
	require.Zero(t, find(p.Snapshot(), 1).Depth)
	require.False(t, find(p.Snapshot(), 1).Fast)

	// The slot was freed, and its task was used as a plain task before anyone looked.
	page.set(0, 0, 2, 9)
	enter(p, 2)
	task := find(p.Snapshot(), 2)
	require.EqualValues(t, 1, task.Depth)
	require.False(t, task.Fast)
	require.Zero(t, p.Snapshot().GuestErrors.Total)
}

func TestListenerHearsFastTransitions(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 1)
	require.False(t, page.notified())
	l := &recorder{}
	require.Equal(t, GateState{Open: true, Tasks: 1}, p.Attach(All, l))
	require.True(t, page.notified())
	require.Equal(t, 4, r.dirty[pageGPA+pageNotifyAt], "the host's write is in the dirty log")

	page.setDepth(0, 0)
	require.False(t, p.Gate().Open, "Gate is ahead of the ring")
	require.False(t, p.Snapshot().GateAll)
	require.Empty(t, l.taken())
	exit(p, 7)
	require.Equal(t, []string{"closing", "closed"}, l.taken(),
		"looking does not swallow the transition")
	page.setDepth(0, 2)
	enter(p, 7)
	page.set(1, slotUsed, 8, 0)
	register(p, 8)
	page.set(1, 0, 8, 0)
	unregister(p, 8)
	require.Equal(t, []string{"opened", "closing", "closed", "opened"}, l.taken())

	// A transition without a ring is found at the next ring of any task.
	page.setDepth(0, 0)
	enter(p, 99)
	require.Equal(t, []string{"closing", "closed"}, l.taken())

	clear(r.dirty)
	p.Detach()
	require.False(t, page.notified())
	require.Equal(t, 4, r.dirty[pageGPA+pageNotifyAt])
}

// hookedRAM calls written after each write by the host.
type hookedRAM struct {
	*ram
	written func()
}

func (h hookedRAM) StoreUint32(gpa uint64, v uint32) bool {
	ok := h.ram.StoreUint32(gpa, v)
	h.written()
	return ok
}

// A task that found notify off has changed its slot before and does not ring. So Attach must read
// the slots after it has set notify.
func TestAttachReadsSlotsAfterNotify(t *testing.T) {
	r := newRAM(4)
	written := func() {}
	p := NewPort(hookedRAM{r, func() { written() }})
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 0)
	require.False(t, p.Gate().Open)
	written = func() { page.setDepth(0, 1) }
	require.Equal(t, GateState{Open: true, Tasks: 1}, p.Attach(All, &recorder{}))
	written = func() {}
	require.True(t, p.Snapshot().Tasks[0].Inside)
	require.True(t, p.table.gate(All).Open, "not only seen by a later look")
}

// While GateClosing asks about slots as they were, looks do not count, even if the listener is
// detached meanwhile.
func TestSnapshotInsideGateClosing(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 1)
	page.set(1, slotUsed, 8, 0)
	p.Attach(Any, &recorder{closing: func() bool {
		p.Detach()
		page.setDepth(1, 1)
		require.True(t, find(p.Snapshot(), 8).Inside)
		page.setDepth(1, 0)
		return false
	}})
	page.setDepth(0, 0)
	exit(p, 7)
	require.False(t, p.Snapshot().GateAny)
}

// One ring shows several tasks' changes when they come together.
func TestRingShowsAllSlots(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 1)
	page.set(1, slotUsed, 8, 1)
	l := &recorder{}
	p.Attach(Any, l)
	page.setDepth(0, 0)
	page.setDepth(1, 0)
	exit(p, 7)
	require.Equal(t, []string{"closing", "closed"}, l.taken())
	exit(p, 8)
	require.Empty(t, l.taken())
}

func TestPageIsRefused(t *testing.T) {
	const pages = 4
	tests := []struct {
		name string
		gpa  uint64
	}{
		{"unaligned", pageGPA + 4},
		{"one off", pageGPA + 1},
		{"just beyond RAM", pages * PageSize},
		{"far beyond RAM", 1 << 40},
		{"end of address space", math.MaxUint64 - PageSize + 1},
		{"last byte", math.MaxUint64},
		{"registers", MMIOBase},
		{"no header", 3 * PageSize},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRAM(pages)
			p := NewPort(r)
			page := newPage(t, p, r)
			page.set(0, slotUsed, 7, 1)
			p.Write(RegPageLo, 4, uint32(tt.gpa))
			p.Write(RegPageHi, 4, uint32(tt.gpa>>32))
			i := p.Snapshot()
			require.EqualValues(t, pageGPA, i.Page, "the page before stays")
			require.Equal(t, GuestErrors{Total: 1, Page: 1}, i.GuestErrors)
			require.Len(t, i.Tasks, 1)
		})
	}
	p := NewPort(nil)
	p.Write(RegPageLo, 4, pageGPA)
	p.Write(RegPageHi, 4, 0)
	require.Equal(t, GuestErrors{Total: 1, Page: 1}, p.Snapshot().GuestErrors, "a port without RAM")
}

func TestPageHiCommits(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	formatPage(t, r, pageGPA)
	p.Write(RegPageLo, 4, pageGPA)
	require.Zero(t, p.Snapshot().Page)
	p.Write(RegPageHi, 4, 0)
	require.EqualValues(t, pageGPA, p.Snapshot().Page)
	p.Write(RegPageLo, 4, 0)
	require.EqualValues(t, pageGPA, p.Snapshot().Page)
	p.Write(RegPageHi, 4, 0)
	require.Zero(t, p.Snapshot().Page)
	require.Zero(t, p.Snapshot().GuestErrors.Total)
}

func TestPageIsReplaced(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	first := newPage(t, p, r)
	first.set(0, slotUsed, 7, 0)
	l := &recorder{}
	require.False(t, p.Attach(All, l).Open)
	second := guestPage{formatPage(t, r, 3*PageSize), p}
	second.set(0, slotUsed, 8, 1)
	p.Write(RegPageLo, 4, 3*PageSize)
	p.Write(RegPageHi, 4, 0)
	require.False(t, first.notified())
	require.True(t, second.notified())
	require.Equal(t, GateState{Open: true, Tasks: 1}, p.Gate())
	require.Equal(t, []string{"opened"}, l.taken())

	second.setDepth(0, 0)
	exit(p, 8)
	p.Write(RegPageLo, 4, 0)
	p.Write(RegPageHi, 4, 0)
	require.False(t, second.notified())
	require.Equal(t, GateState{Open: true, Tasks: 0}, p.Gate())
	require.Equal(t, []string{"closing", "closed", "opened"}, l.taken())
}

// If a program has died, its page is other memory now: the port gives it up and does not write to
// it.
func TestAbandonedPageIsLeftAlone(t *testing.T) {
	abandon := map[string]func(guestPage){
		"magic":   func(g guestPage) { atomic.StoreUint32(g.word(pageMagicAt), 0) },
		"version": func(g guestPage) { atomic.StoreUint32(g.word(pageVersionAt), 2) },
		"reused":  func(g guestPage) { clear(g.bytes); copy(g.bytes, "something else") },
	}
	touch := map[string]func(*Port){
		"attach": func(p *Port) { p.Attach(All, &recorder{}) },
		"moved":  func(p *Port) { p.Moved() },
		"tag":    func(p *Port) { enter(p, 1); p.Detach() },
		"page": func(p *Port) {
			p.Write(RegPageLo, 4, 0)
			p.Write(RegPageHi, 4, 0)
		},
	}
	for how, abandon := range abandon {
		for what, touch := range touch {
			t.Run(how+" "+what, func(t *testing.T) {
				r := newRAM(4)
				p := NewPort(r)
				page := newPage(t, p, r)
				page.set(0, slotUsed, 7, 1)
				require.Len(t, p.Snapshot().Tasks, 1)
				abandon(page)
				require.Nil(t, find(p.Snapshot(), 7))
				clear(r.dirty)
				before := append([]byte(nil), page.bytes...)
				touch(p)
				require.Equal(t, before, page.bytes)
				require.Empty(t, r.dirty)
				require.Zero(t, p.Snapshot().Page)
				require.Nil(t, find(p.Snapshot(), 7))
			})
		}
	}
}

func TestHostileSlots(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 1)
	page.set(1, slotUsed, 7, 0) // the same task again
	page.set(2, slotUsed, 7, 5)
	l := &recorder{}
	require.Equal(t, GateState{Open: true, Tasks: 1}, p.Attach(All, l), "the first slot counts")
	require.Equal(t, GuestErrors{Total: 2, Page: 2}, p.Snapshot().GuestErrors)
	enter(p, 7)
	require.EqualValues(t, 2, p.Snapshot().GuestErrors.Page, "counted once, not at every look")

	binary.LittleEndian.PutUint32(page.bytes[pageSlotsAt:], math.MaxUint32)
	for i := range PageSlots {
		page.set(i, slotUsed, uint32(i), 1)
	}
	require.Equal(t, GateState{Open: true, Tasks: PageSlots}, p.Gate())
	binary.LittleEndian.PutUint32(page.bytes[pageSlotsAt:], 1)
	require.Equal(t, GateState{Open: true, Tasks: 1}, p.Gate(),
		"slots beyond the count are not looked at")
}

func TestFastTasksCountAgainstTheBound(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	for id := range uint32(MaxTasks - 1) {
		enter(p, id)
	}
	page := newPage(t, p, r)
	page.set(0, slotUsed, MaxTasks, 0)
	page.set(1, slotUsed, MaxTasks+1, 0)
	i := p.Snapshot()
	require.Len(t, i.Tasks, MaxTasks)
	require.Equal(t, GuestErrors{Total: 1, Full: 1}, i.GuestErrors)
	require.Nil(t, find(i, MaxTasks+1))
	unregister(p, 3)
	require.NotNil(t, find(p.Snapshot(), MaxTasks+1), "there is room for it now")
}

func TestTimesOfFastTasks(t *testing.T) {
	r, c := newRAM(4), newClock()
	p := newPort(r, c.now)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 0)
	register(p, 7)
	c.advance(time.Second)
	page.setDepth(0, 1)
	task := find(p.Snapshot(), 7)
	require.Equal(t, 1000.0, task.OutsideMS, "seen inside only now")
	c.advance(2 * time.Second)
	task = find(p.Snapshot(), 7)
	require.Equal(t,
		TaskInfo{ID: 7, Depth: 1, Inside: true, Fast: true, Since: c.now().Add(-2 * time.Second),
			InsideMS: 2000, OutsideMS: 1000, Segments: 1}, *task)

	// While a listener is attached, a look must show changes but not count.
	p.Attach(All, &recorder{})
	page.setDepth(0, 0)
	page.set(1, slotUsed, 8, 1)
	i := p.Snapshot()
	require.Zero(t, find(i, 7).Depth)
	require.True(t, find(i, 8).Inside)
	require.Equal(t, GateState{Open: true, Tasks: 1}, p.table.gate(All))
}

func TestMovedPage(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 1)
	enter(p, 1)
	p.Attach(All, &recorder{})
	state := p.Save()

	r2 := newRAM(4)
	there := NewPort(r2)
	require.NoError(t, there.Load(state))
	require.EqualValues(t, pageGPA, there.Snapshot().Page,
		"kept though the page has not arrived yet")
	copy(r2.bytes, r.bytes)
	require.Equal(t, p.Fingerprint(), there.Fingerprint())
	arrived, _ := newTagPage(r2, pageGPA)
	page2 := guestPage{arrived, there}
	require.True(t, page2.notified(), "as it was at the source")
	there.Moved()
	require.False(t, page2.notified())
	require.Equal(t, GateState{Open: true, Tasks: 2}, there.Gate())
	page2.setDepth(0, 0)
	require.Equal(t, GateState{Open: false, Tasks: 2}, there.Gate(), "the page works here")
	l := &recorder{}
	there.Attach(All, l)
	require.True(t, page2.notified())
	page2.setDepth(0, 1)
	enter(there, 7)
	require.Equal(t, []string{"opened"}, l.taken())
}

// TestQuietPortWritesNoRAM: while the machine stands still, the tag page stays as it is, whatever
// the host asks of the port. Once it runs, notify is up to date.
func TestQuietPortWritesNoRAM(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 1)
	p.Quiesce()
	clear(r.dirty)
	require.Equal(t, GateState{Open: true, Tasks: 1}, p.Attach(All, &recorder{}))
	require.False(t, page.notified())
	p.Detach()
	p.Moved()
	p.Attach(All, &recorder{})
	require.Empty(t, r.dirty)
	p.Resume()
	require.True(t, page.notified())
	require.Equal(t, map[uint64]int{pageGPA + pageNotifyAt: 4}, r.dirty)

	clear(r.dirty)
	p.Quiesce()
	p.Resume()
	require.Empty(t, r.dirty, "nothing is due")
	p.Quiesce()
	p.Detach()
	require.True(t, page.notified())
	p.Resume()
	require.False(t, page.notified())
}
