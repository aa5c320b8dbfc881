package tagging

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// guestDevice is the guest's view of the device's RAM.
type guestDevice struct {
	ram  []byte
	port *Port
}

// useDevice gives a port device RAM.
func useDevice(p *Port) guestDevice {
	ram := bytesOf(make([]uint64, DeviceBytes/8))
	p.UseDevice(ram)
	return guestDevice{ram, p}
}

func (d guestDevice) page(i int) guestPage {
	return guestPage{&tagPage{bytes: d.ram[i*PageSize : (i+1)*PageSize]}, d.port}
}

// commit makes pages empty tag pages, and commits these and no others.
func (d guestDevice) commit(pages ...int) {
	set := uint32(0)
	for _, i := range pages {
		d.page(i).format()
		set |= 1 << i
	}
	d.port.Write(RegPages, 4, set)
}

// format makes the page an empty tag page.
func (g guestPage) format() {
	g.put(pageMagicAt, 0)
	for at := 4; at < PageSize; at += 4 {
		g.put(at, 0)
	}
	g.put(pageVersionAt, PageVersion)
	g.put(pageSlotsAt, PageSlots)
	g.put(pageMagicAt, PageMagic)
}

func (g guestPage) put(at int, v uint32) { atomic.StoreUint32(g.word(at), v) }

// name writes a task's name into a slot.
func (g guestPage) setName(slot int, name string) {
	var b [32]byte
	copy(b[:], name)
	for i := 0; i < len(b); i += 4 {
		g.put(pageSlot0+slot*pageSlotBytes+slotNameAt+i, binary.LittleEndian.Uint32(b[i:]))
	}
}

func ids(i Info) (ids []uint32) {
	for _, t := range i.Tasks {
		ids = append(ids, t.ID)
	}
	return ids
}

func TestDevicePages(t *testing.T) {
	r := newRAM(4)
	p := newPort(r, newClock().now)
	d := useDevice(p)
	ramPage := newPage(t, p, r)
	ramPage.set(0, slotUsed, 1, 0)
	d.commit(0, 15)
	d.page(0).set(62, slotUsed, 2, 1)
	d.page(15).set(0, slotUsed, 3, 1)
	d.page(7).format()
	d.page(7).set(0, slotUsed, 4, 0)
	require.EqualValues(t, 1<<0|1<<15, p.Read(RegPages, 4))
	i := p.Snapshot()
	require.Equal(t, []uint32{1, 2, 3}, ids(i), "a page that is not committed does not count")
	require.Equal(t, 2, i.DevicePages)
	require.False(t, p.Gate().Open)
	ramPage.setDepth(0, 1)
	require.Equal(t, GateState{Open: true, Tasks: 3}, p.Gate())

	p.Write(RegPages, 4, 1<<15)
	require.Equal(t, []uint32{1, 3}, ids(p.Snapshot()), "its tasks are forgotten with the page")
	p.Write(RegPages, 4, 0)
	require.Equal(t, []uint32{1}, ids(p.Snapshot()))
	require.Zero(t, p.Snapshot().GuestErrors.Total)
}

func TestDevicePagesAreRefused(t *testing.T) {
	p := NewPort(newRAM(4))
	p.Write(RegPages, 4, 0)
	require.Zero(t, p.Snapshot().GuestErrors.Total)
	p.Write(RegPages, 4, 1)
	require.Equal(t, GuestErrors{Total: 1, Page: 1}, p.Snapshot().GuestErrors, "no device RAM")
	require.Zero(t, p.Read(RegPages, 4))

	p = NewPort(newRAM(4))
	d := useDevice(p)
	d.commit(2)
	p.Write(RegPages, 4, 1<<DevicePages|1<<2)
	require.EqualValues(t, 1<<2, p.Read(RegPages, 4), "the set before stays")
	p.Write(RegPages, 4, 1<<2|1<<3)
	require.EqualValues(t, 1<<2, p.Read(RegPages, 4), "page 3 has no header")
	require.Equal(t, GuestErrors{Total: 2, Page: 2}, p.Snapshot().GuestErrors)
	d.page(2).put(pageMagicAt, 0)
	register(p, 9)
	require.Zero(t, p.Read(RegPages, 4), "given up once it is no tag page")
	require.False(t, p.HasDevicePages())
}

// TestDevicePagesUnderMigration: notify is set while a listener is attached, in pages that are
// committed meanwhile too, and rings are heard in order.
func TestDevicePagesUnderMigration(t *testing.T) {
	p := NewPort(newRAM(4))
	d := useDevice(p)
	d.commit(0)
	a := d.page(0)
	a.set(0, slotUsed, 7, 1)
	require.False(t, a.notified())
	l := &recorder{}
	require.Equal(t, GateState{Open: true, Tasks: 1}, p.Attach(All, l))
	require.True(t, a.notified())

	b := d.page(4)
	b.format()
	b.set(0, slotUsed, 8, 0)
	p.Write(RegPages, 4, 1|1<<4)
	require.True(t, b.notified(), "from its commit on")
	require.Equal(t, []string{"closing", "closed"}, l.taken())
	b.setDepth(0, 1)
	enter(p, 8)
	require.Equal(t, []string{"opened"}, l.taken())

	a.format() // a daemon that begins anew uses a page that is committed
	require.False(t, a.notified())
	p.Write(RegPages, 4, 1|1<<4)
	require.True(t, a.notified())

	p.Write(RegPages, 4, 1)
	require.False(t, b.notified(), "its tasks need not ring any more")
	p.Detach()
	require.False(t, a.notified())
	require.Zero(t, p.Snapshot().GuestErrors.Total)
}

// TestExitInDevicePage: at an EXIT the listener is asked before the gate closes. If it holds, the
// machine moves with the EXIT done, and the task's next ENTER counts where it goes on.
func TestExitInDevicePage(t *testing.T) {
	p := NewPort(newRAM(4))
	d := useDevice(p)
	d.commit(0)
	page := d.page(0)
	page.set(0, slotUsed, 7, 1)
	l := &recorder{}
	l.closing = func() bool {
		require.True(t, p.table.gate(All).Open, "the table does not change while it is asked")
		require.True(t, p.Snapshot().State == StateNone)
		require.True(t, p.table.gate(All).Open, "neither by a look")
		return true
	}
	require.True(t, p.Attach(All, l).Open)
	page.setDepth(0, 0)
	exit(p, 7)
	require.Equal(t, []string{"closing"}, l.taken())
	p.Quiesce()

	there := NewPort(newRAM(4))
	d2 := useDevice(there)
	require.NoError(t, there.Load(p.Save()))
	require.NoError(t, there.LoadDevice(p.SaveDevice()))
	require.Equal(t, p.FingerprintDevice(), there.FingerprintDevice())
	require.True(t, d2.page(0).notified(), "as it was at the source")
	there.Moved()
	require.False(t, d2.page(0).notified())
	require.Equal(t, GateState{Open: false, Tasks: 1}, there.Gate())
	d2.page(0).setDepth(0, 1)
	require.True(t, there.Gate().Open)
}

// TestQuietPortLeavesDevicePages: while the machine stands still, device RAM stays as it is.
func TestQuietPortLeavesDevicePages(t *testing.T) {
	c := newClock()
	p := newPort(newRAM(4), c.now)
	d := useDevice(p)
	d.commit(0)
	d.page(0).put(pageTermAt, 1000)
	count(p, c, 5)
	p.Quiesce()
	before := string(d.ram)
	p.Attach(All, &recorder{})
	p.Detach()
	p.Attach(All, &recorder{})
	require.Zero(t, count(p, c, 100))
	require.Equal(t, before, string(d.ram))
	p.Resume()
	require.True(t, d.page(0).notified())
}

func running() bool { return true }

// count counts leases n times, a step of time apart, and returns how many have ended.
func count(p *Port, c *clock, n int) (ended int) {
	for range n {
		c.advance(LeaseStep)
		ended += p.CountLeases(running)
	}
	return ended
}

const testTerm = 2 * time.Second

// leasedPort has a task outside of its segment in page 1, and one inside in page 2, which has no
// lease.
func leasedPort() (*Port, guestDevice, *clock) {
	c := newClock()
	p := newPort(newRAM(4), c.now)
	d := useDevice(p)
	d.commit(1, 2)
	d.page(1).put(pageTermAt, uint32(testTerm.Milliseconds()))
	d.page(1).set(0, slotUsed, 7, 0)
	d.page(2).set(0, slotUsed, 8, 1)
	return p, d, c
}

const termSteps = int(testTerm / LeaseStep)

// TestLeaseEnds: then the page loses its magic, its tasks leave the gate, and the port does not
// write to it any more.
func TestLeaseEnds(t *testing.T) {
	p, d, c := leasedPort()
	l := &recorder{}
	require.False(t, p.Attach(All, l).Open)
	require.Zero(t, count(p, c, termSteps), "the first step only begins")
	require.True(t, d.page(1).valid())
	require.Empty(t, l.taken())
	require.Equal(t, 1, count(p, c, 1))
	require.Equal(t, []string{"opened"}, l.taken())
	require.False(t, d.page(1).valid())
	require.EqualValues(t, 1<<2, p.Read(RegPages, 4))
	i := p.Snapshot()
	require.Equal(t, []uint32{8}, ids(i))
	require.EqualValues(t, 1, i.LapsedPages)
	require.Zero(t, i.GuestErrors.Total)

	d.page(1).format() // somebody uses it anew, without a commit
	p.Detach()
	p.Attach(All, l)
	require.False(t, d.page(1).notified())
	require.Zero(t, count(p, c, 100), "page 2 has no lease")
	d.page(1).put(pageTermAt, 1000)
	p.Write(RegPages, 4, 1<<1|1<<2)
	require.True(t, d.page(1).notified(), "a new daemon takes over")
}

// TestLeaseOfLastInside: with the quorum any, the gate closes when the page of the last task that
// is inside goes. The listener is not asked to hold anybody, because no vCPU is at an EXIT.
func TestLeaseOfLastInside(t *testing.T) {
	p, d, c := leasedPort()
	d.page(1).setDepth(0, 1)
	d.page(2).setDepth(0, 0)
	l := &recorder{}
	require.True(t, p.Attach(Any, l).Open)
	require.Equal(t, 1, count(p, c, termSteps+1))
	require.Equal(t, []string{"closed"}, l.taken())
}

// TestLeaseIsRenewed by any change of its word.
func TestLeaseIsRenewed(t *testing.T) {
	p, d, c := leasedPort()
	for i := range 10 {
		require.Zero(t, count(p, c, termSteps-1))
		d.page(1).put(pageLeaseAt, uint32(i*7+1))
	}
	require.Zero(t, count(p, c, termSteps))
	require.Equal(t, 1, count(p, c, 1))
}

// TestLeaseCountsOnlyWhileVCPUsRun: it does not end while they stand or a switchover is under way,
// and begins anew with a resume, with a load and with a commit.
func TestLeaseCountsOnlyWhileVCPUsRun(t *testing.T) {
	almost := func() (*Port, guestDevice, *clock) {
		p, d, c := leasedPort()
		require.Zero(t, count(p, c, termSteps))
		return p, d, c
	}
	stand := map[string]func(p *Port, c *clock){
		"held": func(p *Port, c *clock) {
			for range 100 {
				c.advance(LeaseStep)
				require.Zero(t, p.CountLeases(func() bool { return false }))
			}
		},
		"switching over": func(p *Port, c *clock) {
			p.SetState(StateSwitchingOver)
			require.Zero(t, count(p, c, 100))
			p.SetState(StatePreCopy)
		},
		"nobody counts": func(_ *Port, c *clock) { c.advance(time.Hour) },
	}
	for name, stand := range stand {
		t.Run(name, func(t *testing.T) {
			p, d, c := leasedPort()
			require.Zero(t, count(p, c, termSteps-2))
			stand(p, c)
			require.Zero(t, p.CountLeases(running))
			require.True(t, d.page(1).valid())
		})
	}
	anew := map[string]func(p *Port) *Port{
		"resume": func(p *Port) *Port { p.Quiesce(); p.Resume(); return p },
		"commit": func(p *Port) *Port { p.Write(RegPages, 4, 1<<1|1<<2); return p },
		"load here": func(p *Port) *Port {
			require.NoError(t, p.LoadDevice(p.SaveDevice()))
			return p
		},
		"load": func(p *Port) *Port {
			there := newPort(newRAM(4), p.now)
			useDevice(there)
			require.NoError(t, there.Load(p.Save()))
			require.NoError(t, there.LoadDevice(p.SaveDevice()))
			there.Moved()
			return there
		},
	}
	for name, anew := range anew {
		t.Run(name, func(t *testing.T) {
			p, _, c := almost()
			p = anew(p)
			require.Zero(t, count(p, c, termSteps))
			require.Equal(t, 1, count(p, c, 1))
		})
	}
}

// TestLeaseTermIsBounded: a page says how long its lease is, and may lie.
func TestLeaseTermIsBounded(t *testing.T) {
	for _, tt := range []struct {
		term  uint32
		steps int
	}{
		{1, int(minTerm / LeaseStep)},
		{uint32(minTerm.Milliseconds()) + 1, int(minTerm/LeaseStep) + 1},
		{0xffffffff, int(maxTerm / LeaseStep)},
	} {
		p, d, c := leasedPort()
		d.page(1).put(pageTermAt, tt.term)
		require.Zero(t, count(p, c, tt.steps), tt.term)
		require.Equal(t, 1, count(p, c, 1), tt.term)
	}
	p, d, c := leasedPort()
	d.page(1).put(pageTermAt, 0)
	require.Zero(t, count(p, c, 10*termSteps), "without a term there is no lease")
}

// TestPagesCommitted: whoever counts leases hears of pages, here and after a load.
func TestPagesCommitted(t *testing.T) {
	heard := func(p *Port) bool {
		select {
		case <-p.PagesCommitted():
			return true
		default:
			return false
		}
	}
	p := NewPort(newRAM(4))
	d := useDevice(p)
	p.Write(RegPages, 4, 0)
	require.False(t, heard(p))
	d.commit(0)
	d.commit(0, 1)
	require.True(t, heard(p))
	require.False(t, heard(p))
	there := NewPort(newRAM(4))
	useDevice(there)
	require.NoError(t, there.LoadDevice(p.SaveDevice()))
	require.True(t, heard(there))
}

func TestTaskNames(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	d := useDevice(p)
	page := newPage(t, p, r)
	d.commit(3)
	page.set(0, slotUsed, 1, 0)
	page.setName(0, "redis")
	d.page(3).set(5, slotUsed, 2, 0)
	d.page(3).setName(5, "a \x1b[2J\n\xc3\xbc~\x7f")
	d.page(3).set(6, slotUsed, 3, 0)
	d.page(3).setName(6, strings.Repeat("x", 40))
	d.page(3).set(7, slotUsed, 1, 0)
	d.page(3).setName(7, "the second slot of task 1")
	register(p, 4)
	want := map[uint32]string{1: "redis", 2: "a ?[2J???~?", 3: strings.Repeat("x", 32), 4: ""}
	for _, task := range p.Snapshot().Tasks {
		require.Equal(t, want[task.ID], task.Name, "task %d", task.ID)
	}
}

func TestDeadline(t *testing.T) {
	p := NewPort(newRAM(4))
	require.Zero(t, p.Read(RegDeadlineMS, 4))
	p.Attach(All, &recorder{})
	require.Zero(t, p.Read(RegDeadlineMS, 4), "the listener does not know")
	l := &late{}
	p.Attach(All, l)
	for _, tt := range []struct {
		left time.Duration
		ok   bool
		want uint32
	}{
		{12300 * time.Millisecond, true, 12300},
		{time.Microsecond, true, 1},
		{0, true, 1},
		{-time.Second, true, 1},
		{100 * 24 * time.Hour, true, 0xffffffff},
		{time.Second, false, 0},
	} {
		l.left, l.ok = tt.left, tt.ok
		require.Equal(t, tt.want, p.Read(RegDeadlineMS, 4), "%v", tt.left)
	}
	p.Detach()
	require.Zero(t, p.Read(RegDeadlineMS, 4))
	require.Zero(t, p.Read(RegClones, 4))
	require.Zero(t, p.Snapshot().GuestErrors.Total)
}

// late is a listener that knows a deadline. It uses the port, as a listener may.
type late struct {
	recorder
	left time.Duration
	ok   bool
}

func (l *late) Deadline() (time.Duration, bool) { return l.left, l.ok }

func TestSaveDeviceIsSmall(t *testing.T) {
	p := NewPort(newRAM(4))
	d := useDevice(p)
	require.Len(t, p.SaveDevice(), deviceHeadBytes)
	d.commit(3, 9)
	require.Len(t, p.SaveDevice(), deviceHeadBytes+2*PageSize)
	for i := range d.ram {
		d.ram[i] = byte(i)
	}
	require.Len(t, p.SaveDevice(), MaxDeviceStateBytes)
}

func TestLoadDeviceRefuses(t *testing.T) {
	good := func() []byte {
		p := NewPort(newRAM(4))
		useDevice(p).commit(1)
		return p.SaveDevice()
	}
	for name, state := range map[string][]byte{
		"nothing":   nil,
		"short":     good()[:deviceHeadBytes-1],
		"cut":       good()[:deviceHeadBytes+PageSize-1],
		"trailing":  append(good(), 0),
		"committed": func() []byte { b := good(); b[2] = 1; return b }(),
		"used":      func() []byte { b := good(); b[14] = 1; return b }(),
		"more used": func() []byte { b := good(); b[13] = 1; return b }(),
	} {
		p := NewPort(newRAM(4))
		d := useDevice(p)
		d.commit(5)
		before := p.SaveDevice()
		require.ErrorContains(t, p.LoadDevice(state), "load tag pages", name)
		require.Equal(t, before, p.SaveDevice(), name)
	}
	require.ErrorContains(t, NewPort(newRAM(4)).LoadDevice(good()), "has no RAM for them")
	full := good()
	full[1] = 0x80 // page 15 is committed, and zero
	p := NewPort(newRAM(4))
	useDevice(p)
	require.NoError(t, p.LoadDevice(full))
	p.Moved()
	require.EqualValues(t, 1<<1, p.Read(RegPages, 4), "a page without header is given up")
}

// FuzzDevicePages has a guest's lies in two pages, and the port look at them in all its ways.
func FuzzDevicePages(f *testing.F) {
	p := NewPort(newRAM(4))
	d := useDevice(p)
	d.commit(0)
	d.page(0).set(0, slotUsed, 7, 1)
	d.page(0).setName(0, "name")
	d.page(0).put(pageTermAt, 1000)
	f.Add(d.ram[:256], d.ram[:128], uint32(3))
	f.Add(d.ram[:64], []byte(nil), uint32(1))
	f.Fuzz(func(t *testing.T, a, b []byte, set uint32) {
		c := newClock()
		p := newPort(newRAM(4), c.now)
		d := useDevice(p)
		copy(d.ram[:PageSize], a)
		copy(d.ram[PageSize:2*PageSize], b)
		before := string(d.ram)
		p.Write(RegPages, 4, set)
		for _, quorum := range []Quorum{All, Any} {
			p.Attach(quorum, &recorder{})
			exit(p, 7)
			count(p, c, 2*termSteps)
		}
		for _, task := range p.Snapshot().Tasks {
			require.LessOrEqual(t, len(task.Name), 32)
			for _, c := range []byte(task.Name) {
				require.True(t, ' ' <= c && c <= '~')
			}
		}
		checkTable(t, p)
		p.Detach()
		there := NewPort(newRAM(4))
		useDevice(there)
		require.NoError(t, there.Load(p.Save()))
		require.NoError(t, there.LoadDevice(p.SaveDevice()))
		require.Equal(t, p.SaveDevice(), there.SaveDevice())
		there.Moved()
		for i := range 2 {
			page := d.page(i)
			require.Equal(t, before[i*PageSize+4:i*PageSize+8], string(page.bytes[4:8]))
			require.Equal(t, before[i*PageSize+12:(i+1)*PageSize], string(page.bytes[12:]),
				"the port writes notify and the magic alone")
		}
	})
}

// BenchmarkDeviceLook is a ring when a guest has as many tasks as there is room for, which all
// change.
func BenchmarkDeviceLook(b *testing.B) {
	for _, pages := range []int{1, DevicePages} {
		b.Run(fmt.Sprintf("pages=%d", pages), func(b *testing.B) {
			p := NewPort(newRAM(4))
			d := useDevice(p)
			var all []int
			for i := range pages {
				all = append(all, i)
			}
			d.commit(all...)
			set := func(depth uint32) {
				for i := range pages {
					for s := range PageSlots {
						d.page(i).set(s, slotUsed, uint32(i*PageSlots+s), depth)
					}
				}
			}
			set(0)
			p.Attach(All, &recorder{})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				set(uint32(i%2) + 1)
				b.StartTimer()
				enter(p, 0)
			}
		})
	}
}

// BenchmarkSaveDevice is what device RAM adds to a standstill.
func BenchmarkSaveDevice(b *testing.B) {
	for _, pages := range []int{0, 1, DevicePages} {
		b.Run(fmt.Sprintf("pages=%d", pages), func(b *testing.B) {
			p, there := NewPort(newRAM(4)), NewPort(newRAM(4))
			d := useDevice(p)
			useDevice(there)
			for i := range pages {
				d.page(i).format()
			}
			for b.Loop() {
				if err := there.LoadDevice(p.SaveDevice()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestForget: clients may ask a port whose machine is gone, and whose memory is unmapped.
func TestForget(t *testing.T) {
	ram, err := memory.NewPrivate(DeviceBytes)
	require.NoError(t, err)
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	page.set(0, slotUsed, 7, 1)
	p.UseDevice(ram)
	d := guestDevice{ram, p}
	d.commit(1)
	d.page(1).set(0, slotUsed, 8, 0)
	require.Len(t, p.Snapshot().Tasks, 2)
	p.Forget()
	require.NoError(t, memory.FreePrivate(ram))
	require.Len(t, p.Snapshot().Tasks, 2, "as they were seen last")
	p.Gate()
	p.Attach(All, &recorder{})
	require.Empty(t, p.Declared())
	require.Zero(t, p.CountLeases(running))
	require.False(t, p.HasDevicePages())
}
