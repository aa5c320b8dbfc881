package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/transport"
)

// TestWriterMoves: a guest that writes its disk all the time moves five times, and is killed. No
// write that it knew to be durable is lost, and none is made twice.
func TestWriterMoves(t *testing.T) {
	const moves = 5
	b := newBox(t)
	g := &guest{}
	disk := b.bigImage("a.img")
	here := b.run(g, "host-0", b.writer(disk)...)
	writes(b, 10, g)
	for n := range moves {
		name := fmt.Sprintf("host-%d", n+1)
		there, to := b.incoming(g, name, b.unix(name+".in"), "--disk", disk)
		requireVerified(t, b.migrate(here.name, to, "--verify"))
		require.Equal(t, 0, here.wait())
		writes(b, 10, g)
		here = there
	}
	here.kill()
	here.wait()
	last := journal("w", g)
	require.Equal(t, len(last), nothingLost(b, disk, g))
	require.Equal(t, len(last), last[len(last)-1], "none is missing")
	t.Logf("%d writes", len(last))
}

// ownersLock is how the kernel shows the lock of a disk's owner: a lock on the first byte alone.
var ownersLock = regexp.MustCompile(`(?m)^lock:\s+\d+: OFDLCK +ADVISORY +WRITE .* 0 0$`)

// owns tells whether a process owns a disk, as the kernel sees it.
func (p *process) owns(disk string) bool {
	p.box.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	files, err := filepath.Glob(proc + "fd/*")
	require.NoError(p.box.t, err)
	for _, file := range files {
		if target, err := os.Readlink(file); err != nil || target != disk {
			continue
		}
		info, err := os.ReadFile(proc + "fdinfo/" + filepath.Base(file))
		if err == nil && ownersLock.Match(info) {
			return true
		}
	}
	return false
}

// Who runs the guest after one of two processes was killed.
type survivor string

const (
	survivesHere  survivor = "the source"
	survivesThere survivor = "the destination"
	survivesNot   survivor = "nobody"
	// survivesInDoubt: the source cannot know, and keeps its guest standing still.
	survivesInDoubt survivor = "nobody, and the source is in doubt"
)

// handover is a writer that is being handed over, with a frame of that held back.
type handover struct {
	*box
	disk                string
	source, destination *process
	here, there         *guest // their consoles
	relay               *relay
	migrate             func() result
}

func newHandover(t *testing.T, hold frameOf) *handover {
	b := newBox(t)
	h := &handover{box: b, disk: b.bigImage("a.img"), here: &guest{}, there: &guest{}}
	h.source = b.run(h.here, "source", b.writer(h.disk)...)
	writes(b, 10, h.here)
	require.True(t, h.source.owns(h.disk))
	var to string
	h.destination, to = b.incoming(h.there, "destination", "tcp:127.0.0.1:0", "--disk", h.disk)
	h.relay = newRelay(t, to, hold, nil)
	// A busy host may let any time pass while the frame is held, and the switchover must not be
	// taken back meanwhile.
	_, h.migrate = b.background("migrate", "source", h.relay.address(), "--channels", "1",
		"--standstill-limit", "0")
	select {
	case <-h.relay.held:
	case <-b.ctx.Done():
		require.FailNow(t, "it does not come that far", h.source.stderr)
	}
	if hold == runningBack {
		h.destination.awaitState(control.StateRunning)
		writes(b, 10, h.here, h.there)
	}
	// From the state on nobody owns the disk, until the destination runs the guest.
	require.False(t, h.source.owns(h.disk))
	require.Equal(t, hold == runningBack, h.destination.owns(h.disk))
	return h
}

// Frames of a handover, in their order.
var (
	stateForth   = frameOf{forth, transport.TypeState}
	preparedBack = frameOf{back, transport.TypePrepared}
	commitForth  = frameOf{forth, transport.TypeCommit}
	runningBack  = frameOf{back, transport.TypeRunning}
)

// goesOn requires that one process runs the guest and owns its disk, and the other does not.
func (h *handover) goesOn(by survivor) {
	h.t.Helper()
	switch by {
	case survivesHere:
		h.source.awaitState(control.StateRunning)
		writes(h.box, 10, h.here)
		require.True(h.t, h.source.owns(h.disk))
		require.False(h.t, h.destination.owns(h.disk))
		h.inUse(h.disk)
		h.source.kill()
		h.source.wait()
	case survivesThere:
		h.destination.awaitState(control.StateRunning)
		writes(h.box, 10, h.here, h.there)
		require.True(h.t, h.destination.owns(h.disk))
		require.False(h.t, h.source.owns(h.disk))
		h.inUse(h.disk)
		h.destination.kill()
		h.destination.wait()
	default:
		if by == survivesInDoubt {
			require.NotContains(h.t, h.source.stderr.String(), "the guest stays here")
			h.source.vm()
		}
		require.False(h.t, h.source.owns(h.disk))
		require.False(h.t, h.destination.owns(h.disk))
	}
	h.free()
}

// free requires that nobody has the disk any more, so that a fresh VM can have it, and that nothing
// on it is lost.
func (h *handover) free() {
	h.t.Helper()
	h.run(&guest{}, "fresh", append([]string{"--disk", h.disk}, idle...)...).
		awaitState(control.StateRunning)
	h.inUse(h.disk)
	nothingLost(h.box, h.disk, h.here, h.there)
}

// TestKilledInHandover kills the source or the destination at each step of the handover. Then the
// guest runs where it should, with its disk, or nowhere. The disk has at most one owner. Once that
// one has died, too, a fresh VM can have the disk, and no write that the guest knew to be durable
// is lost.
func TestKilledInHandover(t *testing.T) {
	source := func(h *handover) *process { return h.source }
	destination := func(h *handover) *process { return h.destination }
	for _, c := range []struct {
		name    string
		hold    frameOf
		victim  func(*handover) *process
		arrives bool // what is held back, after the kill
		want    survivor
	}{
		{"state, destination", stateForth, destination, false, survivesHere},
		{"state, source", stateForth, source, false, survivesNot},
		{"state arrives, source", stateForth, source, true, survivesNot},
		{"prepared, destination", preparedBack, destination, false, survivesHere},
		{"prepared, source", preparedBack, source, false, survivesNot},
		{"commit, destination", commitForth, destination, false, survivesInDoubt},
		{"commit, source", commitForth, source, false, survivesNot},
		{"commit arrives, source", commitForth, source, true, survivesThere},
		{"running, destination", runningBack, destination, false, survivesInDoubt},
		{"running, source", runningBack, source, false, survivesThere},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHandover(t, c.hold)
			victim := c.victim(h)
			victim.kill()
			victim.wait()
			if c.arrives {
				h.relay.pass()
			} else {
				h.relay.cut()
			}
			switch c.want {
			case survivesHere:
				r := h.migrate()
				require.Equal(t, 1, r.status)
				require.Contains(t, r.stderr, "the guest still runs here")
			case survivesNot:
				h.destination.await("done with it", func(vm control.VM) bool {
					return strings.Contains(h.destination.stderr.String(), "migration failed")
				})
			}
			h.goesOn(c.want)
		})
	}
}

// TestKilledAtTheCommit kills a process while the commit arrives, at whatever it is doing then.
func TestKilledAtTheCommit(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond, 4 * time.Millisecond} {
		t.Run(fmt.Sprint("destination after ", delay), func(t *testing.T) {
			h := newHandover(t, commitForth)
			h.relay.pass()
			time.Sleep(delay)
			h.destination.kill()
			h.destination.wait()
			h.goesOn(survivesNot)
		})
		t.Run(fmt.Sprint("source after ", delay), func(t *testing.T) {
			h := newHandover(t, preparedBack)
			h.relay.pass()
			time.Sleep(delay)
			h.source.kill()
			h.source.wait()
			said := func(vm control.VM) bool {
				return vm.State == control.StateRunning ||
					strings.Contains(h.destination.stderr.String(), "migration failed")
			}
			if h.destination.await("decided", said).State == control.StateRunning {
				h.goesOn(survivesThere)
			} else {
				h.goesOn(survivesNot)
			}
		})
	}
}

// TestForcedAfterAKill: nobody but an operator can end the doubt of a source whose destination
// died. If the guest did not run there, it goes on here by force. If it did, its disk has changed,
// and no force lets it run here.
func TestForcedAfterAKill(t *testing.T) {
	force := func(h *handover) result {
		for {
			r := h.vmm("resume", "source", "--force")
			if !strings.Contains(r.stderr, "wait") && !strings.Contains(r.stderr, "under way") {
				return r
			}
			require.Equal(h.t, 1, r.status)
			require.False(h.t, h.source.owns(h.disk))
			time.Sleep(250 * time.Millisecond)
		}
	}
	doubt := func(t *testing.T, hold frameOf) *handover {
		h := newHandover(t, hold)
		h.destination.kill()
		h.destination.wait()
		h.relay.cut()
		return h
	}
	t.Run("it did not run there", func(t *testing.T) {
		h := doubt(t, commitForth)
		r := force(h)
		require.Equal(t, 0, r.status, r.stderr)
		h.goesOn(survivesHere)
	})
	t.Run("it ran there", func(t *testing.T) {
		h := doubt(t, runningBack)
		r := force(h)
		require.Equal(t, 1, r.status)
		require.Contains(t, r.stderr, "it changed since the guest stood still here")
		h.source.awaitState(control.StatePaused)
		for _, args := range [][]string{{"resume", "source"}, {"resume", "source", "--force"}} {
			require.Contains(t, h.refused(1, args...), "it changed since")
		}
		// Nobody listens there, so it is refused before anything is sent.
		require.Contains(t, h.refused(1, "migrate", "source", h.unix("nobody")),
			"the guest is here without its disks: disk "+h.disk+": it changed since")
		h.free()
		require.Contains(t, h.refused(1, "resume", "source", "--force"), "in use")
	})
}
