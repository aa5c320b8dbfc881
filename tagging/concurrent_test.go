package tagging

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// follower is a listener that follows the gate by its calls alone, and records any call that does
// not fit.
type follower struct {
	mu     sync.Mutex
	open   bool
	asked  bool // GateClosing has come, GateClosed has not
	held   bool // GateClosing answered that it holds
	hold   func() bool
	busy   atomic.Int32
	wrong  []string
	quorum Quorum
}

// follow attaches f. Calls wait until f knows the gate that they follow.
func (f *follower) follow(p *Port) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = p.Attach(f.quorum, f).Open
}

func (f *follower) call(name string, fits bool) (done func()) {
	if f.busy.Add(1) != 1 {
		name, fits = name+" while another call runs", false
	}
	if !fits {
		f.wrong = append(f.wrong,
			fmt.Sprintf("%s: open %v, asked %v, held %v", name, f.open, f.asked, f.held))
	}
	return func() { f.busy.Add(-1) }
}

func (f *follower) GateClosing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.call("closing", f.open && !f.asked)()
	f.held = f.hold != nil && f.hold()
	f.open, f.asked = false, !f.held
	return f.held
}

func (f *follower) GateClosed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.call("closed", !f.open && f.asked && !f.held)()
	f.asked = false
}

func (f *follower) GateOpened() {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.call("opened", !f.open && !f.asked)()
	f.open = true
}

func (f *follower) check(t *testing.T, open bool) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Empty(t, f.wrong)
	require.Equal(t, open, f.open, "the gate by its transitions, and as it is")
}

// guestTask is a task of a guest: where it is, and how it reports that.
type guestTask struct {
	enter, exit func()
	depth       int
}

func (g *guestTask) wander(random *rand.Rand, steps int) {
	for range steps {
		if g.depth == 0 || g.depth < 3 && random.IntN(2) == 0 {
			g.depth++
			g.enter()
		} else {
			g.depth--
			g.exit()
		}
	}
}

func plainTask(p *Port, id uint32) *guestTask {
	register(p, id)
	return &guestTask{enter: func() { enter(p, id) }, exit: func() { exit(p, id) }}
}

// fastTask follows the protocol of the tag page: store, full barrier, load, ring.
func fastTask(g guestPage, slot int, id uint32) *guestTask {
	g.set(slot, slotUsed, id, 0)
	register(g.port, id)
	depth := uint32(0)
	move := func(by uint32, reg uint64) func() {
		return func() {
			depth += by
			g.setDepth(slot, depth)
			if g.notified() {
				g.port.Write(reg, 4, id)
			}
		}
	}
	return &guestTask{enter: move(1, RegEnter), exit: move(^uint32(0), RegExit)}
}

// Tasks wander while migrations come and go. Once a migration has attached, its view follows every
// transition, whatever it missed before.
func TestNoTransitionIsLost(t *testing.T) {
	for _, kind := range []string{"plain", "fast", "mixed", "device"} {
		for _, quorum := range []Quorum{All, Any} {
			t.Run(kind+" "+string(quorum), func(t *testing.T) {
				r := newRAM(4)
				p := NewPort(r)
				page := newPage(t, p, r)
				device := useDevice(p)
				device.commit(0, 5)
				var tasks []*guestTask
				for i := range 3 {
					if kind == "device" {
						tasks = append(tasks, fastTask(device.page(i%2*5), i, uint32(i)))
					} else if kind == "fast" || kind == "mixed" && i > 0 {
						tasks = append(tasks, fastTask(page, i, uint32(i)))
					} else {
						tasks = append(tasks, plainTask(p, uint32(i)))
					}
				}
				for round := range 400 {
					migrateWhileWandering(t, p, tasks, quorum, uint64(round))
				}
				require.Zero(t, p.Snapshot().GuestErrors.Total)
			})
		}
	}
}

func migrateWhileWandering(t *testing.T, p *Port, tasks []*guestTask, quorum Quorum, seed uint64) {
	var guests sync.WaitGroup
	for i, task := range tasks {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		guests.Go(func() { task.wander(random, 1+random.IntN(20)) })
	}
	random := rand.New(rand.NewPCG(seed, 99))
	f := &follower{quorum: quorum, hold: func() bool { return random.IntN(2) == 0 }}
	f.follow(p)
	p.Gate()
	guests.Wait()

	inside := 0
	for _, task := range tasks {
		if task.depth > 0 {
			inside++
		}
	}
	open := gate(quorum, len(tasks), inside).Open
	f.check(t, open)
	require.Equal(t, open, p.Gate().Open)
	for id, task := range tasks {
		require.EqualValues(t, task.depth, find(p.Snapshot(), uint32(id)).Depth)
	}
	p.Detach()
}

// Everything runs at once, for the race detector and to find deadlocks. In the end, the counts
// match what tasks did.
func TestEverythingAtOnce(t *testing.T) {
	r := newRAM(4)
	p := NewPort(r)
	page := newPage(t, p, r)
	device := useDevice(p)
	device.commit(3)
	tasks := []*guestTask{
		plainTask(p, 10), plainTask(p, 11), fastTask(page, 0, 12), fastTask(page, 1, 13),
		fastTask(device.page(3), 0, 14),
	}
	var guests, hosts sync.WaitGroup
	stop := make(chan struct{})
	for i, task := range tasks {
		guests.Go(func() { task.wander(rand.New(rand.NewPCG(7, uint64(i))), 3000) })
	}
	guests.Go(func() {
		for id := range uint32(1000) { // tasks that register and unregister
			enter(p, 1000+id%7)
			exit(p, 1000+id%7)
			unregister(p, 1000+id%7)
		}
	})
	forever := func(f func()) {
		hosts.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
				}
			}
		})
	}
	var followers []*follower
	forever(func() {
		f := &follower{quorum: []Quorum{All, Any}[len(followers)%2]}
		// A listener may do all of this.
		f.hold = func() bool { p.Gate(); p.SetState(StateSuspended); return len(f.wrong) > 0 }
		followers = append(followers, f)
		f.follow(p)
		p.Gate()
		p.Detach()
	})
	forever(func() { p.Snapshot(); p.Save(); p.Fingerprint() })
	forever(func() { p.CountLeases(func() bool { return true }); p.HasDevicePages() })
	forever(func() {
		p.Read(RegState, 4)
		p.Read(RegClockLo, 4)
		p.Read(RegClockHi, 4)
		p.Read(1, 1)
	})
	forever(func() { p.Subscribe(func(Transition) {})() })
	guests.Wait()
	close(stop)
	hosts.Wait()

	i := p.Snapshot()
	require.Len(t, i.Tasks, len(tasks))
	for id, task := range tasks {
		require.EqualValues(t, task.depth, find(i, uint32(10+id)).Depth)
	}
	require.Equal(t, i.GuestErrors.Total, i.GuestErrors.Access)
	for _, f := range followers {
		require.Empty(t, f.wrong)
	}
}
