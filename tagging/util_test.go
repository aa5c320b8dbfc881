package tagging

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ram is a guest's RAM of a few pages from gpa 0 on. It records the bytes that the host wrote.
type ram struct {
	bytes []byte
	mu    sync.Mutex
	dirty map[uint64]int // gpa: bytes
}

func newRAM(pages int) *ram {
	// Words of a []uint64 are aligned; those of a []byte need not be.
	words := make([]uint64, pages*PageSize/8)
	return &ram{bytes: bytesOf(words), dirty: make(map[uint64]int)}
}

func (r *ram) Slice(gpa uint64, n int) ([]byte, bool) {
	size := uint64(len(r.bytes))
	if gpa > size || uint64(n) > size-gpa {
		return nil, false
	}
	return r.bytes[gpa : gpa+uint64(n) : gpa+uint64(n)], true
}

func (r *ram) StoreUint32(gpa uint64, v uint32) bool {
	atomic.StoreUint32(wordOf(r.bytes[gpa:]), v)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty[gpa] = 4
	return true
}

// guestPage is the guest's view of a tag page.
type guestPage struct {
	*tagPage
	port *Port
}

const pageGPA = 2 * PageSize

// newPage sets up a tag page at pageGPA and registers it.
func newPage(t testing.TB, p *Port, r *ram) guestPage {
	page := formatPage(t, r, pageGPA)
	p.Write(RegPageLo, 4, pageGPA)
	p.Write(RegPageHi, 4, 0)
	return guestPage{page, p}
}

func formatPage(t testing.TB, r *ram, gpa uint64) *tagPage {
	page, ok := newTagPage(r, gpa)
	require.True(t, ok)
	clear(page.bytes)
	binary.LittleEndian.PutUint32(page.bytes[pageMagicAt:], PageMagic)
	binary.LittleEndian.PutUint32(page.bytes[pageVersionAt:], PageVersion)
	binary.LittleEndian.PutUint32(page.bytes[pageSlotsAt:], PageSlots)
	return page
}

func (g guestPage) set(slot int, flags, task, depth uint32) {
	at := pageSlot0 + slot*pageSlotBytes
	atomic.StoreUint32(g.word(at+slotTaskAt), task)
	atomic.StoreUint32(g.word(at+slotDepthAt), depth)
	atomic.StoreUint32(g.word(at+slotFlagsAt), flags)
}

func (g guestPage) setDepth(slot int, depth uint32) {
	atomic.StoreUint32(g.word(pageSlot0+slot*pageSlotBytes+slotDepthAt), depth)
}

func (g guestPage) notified() bool { return atomic.LoadUint32(g.word(pageNotifyAt)) != 0 }

// clock stands still until it is moved.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.ns.Store(0x0123_4567_89ab_cdef)
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// recorder is a listener that writes down its calls.
type recorder struct {
	mu      sync.Mutex
	calls   []string
	closing func() bool // asked by GateClosing, if set
}

func (r *recorder) record(call string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
}

// taken returns the calls since the last call of taken.
func (r *recorder) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

func (r *recorder) GateOpened() { r.record("opened") }

func (r *recorder) GateClosing() bool {
	r.record("closing")
	return r.closing != nil && r.closing()
}

func (r *recorder) GateClosed() { r.record("closed") }

// find returns a task of a snapshot, or nil if it is not there.
func find(i Info, id uint32) *TaskInfo {
	for n := range i.Tasks {
		if i.Tasks[n].ID == id {
			return &i.Tasks[n]
		}
	}
	return nil
}
