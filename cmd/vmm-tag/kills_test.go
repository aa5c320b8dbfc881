package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/tagging"
	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

const (
	killMoves    = 12
	killMovesAll = 200 // with TASKGUIDE_LONG
	killPrograms = 3
	killWake     = "50ms"
	// mostWakes is how many wake-ups of the daemon a dead program may hold the gate for.
	mostWakes = 10
)

// The test program is also the daemon and the programs that TestKills kills.
func init() {
	folder := os.Getenv("VMM_TAG_TEST_FOLDER")
	switch os.Getenv("VMM_TAG_TEST_KILLS") {
	case "daemon":
		args := []string{
			"daemon", "--socket", filepath.Join(folder, "socket"), "--device", folder,
			"--wake", killWake,
		}
		os.Exit(run(context.Background(), args, io.Discard, os.Stderr))
	case "raise":
		raise()
		may := unix.Setpriority(unix.PRIO_PROCESS, 0, -20) == nil // this thread's
		fmt.Println(may, priorities())
		os.Exit(0)
	case "program":
		for {
			tagUntilLost(filepath.Join(folder, "socket"))
			time.Sleep(time.Millisecond)
		}
	}
}

// priorities returns the different ones that this process's threads have.
func priorities() (all []int) {
	threads, _ := os.ReadDir("/proc/self/task")
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue
		}
		if p, err := unix.Getpriority(unix.PRIO_PROCESS, id); err == nil {
			all = append(all, 20-p) // the system call returns it so
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestRaise: all threads of the daemon come before those of other programs, if it may have that.
func TestRaise(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "VMM_TAG_TEST_KILLS=raise")
	out, err := child.Output()
	require.NoError(t, err)
	want := "true [-20]"
	if strings.HasPrefix(string(out), "false") {
		want = fmt.Sprint("false ", priorities())
	}
	require.Equal(t, want, strings.TrimSpace(string(out)))
}

// tagUntilLost tags until the daemon is gone.
func tagUntilLost(socket string) {
	c, err := guest.Dial(socket)
	if err != nil {
		return
	}
	defer c.Close()
	slot, err := c.Open("killed")
	for err == nil {
		if err = slot.Enter(); err == nil {
			time.Sleep(rand.N(20 * time.Millisecond))
			err = slot.Exit()
		}
		time.Sleep(rand.N(10 * time.Millisecond))
	}
}

// host is a host's side of a tag device made of plain files. It looks at the registers again and
// again, because nobody tells it of a store.
type host struct {
	t      *testing.T
	folder string
	dev    *guest.Device
	ram    []byte

	mu   sync.Mutex    // guards what follows
	port *tagging.Port // of the machine where it is now
	set  uint32        // of PAGES, as the guest wrote it
}

func newHost(t *testing.T, b *board) *host {
	f, err := os.OpenFile(filepath.Join(b.folder, "resource2"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	ram, err := unix.Mmap(int(f.Fd()), 0, abi.DeviceBytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED)
	require.NoError(t, err)
	h := &host{t: t, folder: b.folder, dev: b.dev, ram: ram, port: tagging.NewPort(nil)}
	h.port.UseDevice(ram)
	ctx, cancel := context.WithCancel(context.Background())
	var life sync.WaitGroup
	life.Go(func() { h.attend(ctx) })
	t.Cleanup(func() {
		cancel()
		life.Wait()
		require.NoError(t, unix.Munmap(ram))
	})
	return h
}

// attend does what a machine does for its device.
func (h *host) attend(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		if set := h.dev.Read(abi.RegPages); set != h.set {
			h.port.Write(abi.RegPages, 4, set)
			h.set = set
		}
		if h.port.CountLeases(func() bool { return true }) > 0 {
			h.set = h.port.Read(abi.RegPages, 4)
			h.dev.Write(abi.RegPages, h.set)
		}
		h.mu.Unlock()
	}
}

// tasks returns the ids of the tasks that the gate depends on.
func (h *host) tasks() map[uint32]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make(map[uint32]bool)
	for _, task := range h.port.Snapshot().Tasks {
		ids[task.ID] = true
	}
	return ids
}

// listener wants to hear of nothing. Attached, it makes programs ring.
type listener struct{}

func (listener) GateOpened()       {}
func (listener) GateClosing() bool { return false }
func (listener) GateClosed()       {}

// move moves the device to another machine, while the guest's processes stand.
func (h *host) move(all []*exec.Cmd) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.port.Attach(tagging.All, listener{})
	time.Sleep(5 * time.Millisecond) // programs ring meanwhile
	for _, p := range all {
		assert.NoError(h.t, p.Process.Signal(syscall.SIGSTOP)) // also of one that is dead
	}
	h.port.Quiesce()
	h.port.Detach()
	state, device := h.port.Save(), h.port.SaveDevice()
	next := tagging.NewPort(nil)
	next.UseDevice(h.ram)
	assert.NoError(h.t, next.Load(state))
	assert.NoError(h.t, next.LoadDevice(device))
	next.Moved()
	next.Resume()
	h.port = next
	for _, p := range all {
		assert.NoError(h.t, p.Process.Signal(syscall.SIGCONT))
	}
}

// started starts the test program as something else.
func (h *host) started(as string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "VMM_TAG_TEST_KILLS="+as, "VMM_TAG_TEST_FOLDER="+h.folder)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(h.t, cmd.Start())
	return cmd
}

// kills is what TestKills has running.
type kills struct {
	*host
	b        *board
	daemon   *exec.Cmd
	programs [killPrograms]*exec.Cmd
	observer *guest.Client
	wakes    uint32 // most wake-ups after which a dead program's task was there still
}

func (k *kills) all() []*exec.Cmd { return append(k.programs[:], k.daemon) }

// startDaemon starts a daemon, which all programs come back to.
func (k *kills) startDaemon() {
	k.daemon = k.started("daemon")
	k.b.eventually(func() (ok bool) {
		c, err := guest.Dial(k.b.socket)
		k.observer = c
		return err == nil
	})
	_, err := k.observer.Open("observer") // keeps a page whose lease counts wake-ups
	require.NoError(k.t, err)
	k.tagged()
}

// tagged waits until all programs are tasks, and the observer.
func (k *kills) tagged() {
	k.b.eventually(func() bool {
		for _, p := range k.programs {
			if k.taskOf(p) == 0 {
				return false
			}
		}
		return len(k.tasks()) == killPrograms+1
	})
}

// taskOf returns the id of a program's task, or 0.
func (k *kills) taskOf(p *exec.Cmd) uint32 {
	a, err := k.observer.Ask(guest.Request{Op: "status"})
	require.NoError(k.t, err)
	for _, task := range a.Status.Tasks {
		if task.PID == p.Process.Pid {
			return task.ID
		}
	}
	return 0
}

// lease returns the word that the daemon changes at each wake-up. All pages in use have the same.
func (k *kills) lease() (word uint32) {
	for _, s := range slotsOf(k.dev.Read(abi.RegPages), k.dev.RAM.Load) {
		if s.name == "observer" {
			word = k.dev.RAM.Load(guest.PageAt(s.page) + guest.PageLeaseAt)
		}
	}
	return word
}

// killProgram kills a program at a random moment of a move.
func (k *kills) killProgram(i int, moment time.Duration) {
	id, all := k.taskOf(k.programs[i]), k.all()
	moved := k.moving(all)
	time.Sleep(moment)
	require.NoError(k.t, k.programs[i].Process.Kill())
	<-moved // the move signals it, dead or not, so it is not reaped before
	_ = k.programs[i].Wait()
	before := k.lease() // it is dead by now, however busy the host is
	k.b.eventually(func() bool {
		now := k.lease()
		if !k.tasks()[id] {
			return true
		}
		if before != 0 && now != 0 { // else the observer has no page
			k.wakes = max(k.wakes, now-before) // it is there still
		}
		return false
	})
	k.programs[i] = k.started("program")
	k.tagged()
}

// killDaemon kills the daemon at a random moment of a move, and starts another after meanwhile.
func (k *kills) killDaemon(meanwhile func(), moment time.Duration) {
	moved := k.moving(k.all())
	time.Sleep(moment)
	require.NoError(k.t, k.daemon.Process.Kill())
	<-moved
	_ = k.daemon.Wait()
	meanwhile()
	_ = k.observer.Close()
	k.startDaemon()
}

// leaseEnds waits until the tasks of a dead daemon have left the gate.
func (k *kills) leaseEnds() { k.b.eventually(func() bool { return len(k.tasks()) == 0 }) }

// moving moves the device, and closes the channel then.
func (k *kills) moving(all []*exec.Cmd) <-chan struct{} {
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		k.move(all)
	}()
	return moved
}

// TestKills: programs and the daemon are killed at random moments of moves. The tasks of a dead
// program leave the gate within ten wake-ups of the daemon, those of a dead daemon do when their
// lease ends, and programs come back to the next daemon. A test of Linux guests does the same
// there: make test-tags-kills.
func TestKills(t *testing.T) {
	moves := killMoves
	if os.Getenv("TASKGUIDE_LONG") != "" {
		moves = killMovesAll
	}
	b := newBoard(t)
	b.end() // its daemon: this one has its own
	k := &kills{host: newHost(t, b), b: b}
	for i := range k.programs {
		k.programs[i] = k.started("program")
	}
	k.startDaemon()
	t.Cleanup(func() {
		for _, p := range k.all() {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
	random := rand.New(rand.NewPCG(1, 2))
	programs, daemons := 0, 0
	for n := range moves {
		moment := time.Duration(random.Int64N(int64(30 * time.Millisecond)))
		switch victim := random.IntN(killPrograms + 1); {
		case victim < killPrograms:
			k.killProgram(victim, moment)
			programs++
			continue
		case n%2 == 0:
			k.killDaemon(k.leaseEnds, moment)
		default:
			k.killDaemon(func() {}, moment)
		}
		daemons++
	}
	require.LessOrEqual(t, k.wakes, uint32(mostWakes))
	require.NotZero(t, daemons)
	t.Logf("%d moves, %d programs killed, there for up to %d wake-ups more, %d daemons", moves,
		programs, k.wakes, daemons)
}

// TestStaleSlot: a program that has a slot of the daemon before does not take it for its own, when
// the daemon gives it to another program.
func TestStaleSlot(t *testing.T) {
	b := newBoard(t)
	for page := range abi.DevicePages { // all were in use, so the first is used again at once
		b.dev.RAM.Store(guest.PageAt(page)+guest.PageVersionAt, abi.PageVersion)
	}
	b.end()
	b.start()
	stale, err := b.dial().Open("stale")
	require.NoError(t, err)
	before := b.one()
	b.end()
	b.start()
	_, err = b.dial().Open("fresh")
	require.NoError(t, err)
	after := b.one()
	require.Equal(t, [2]int{before.page, before.slot}, [2]int{after.page, after.slot})
	require.False(t, stale.Alive())
	require.ErrorIs(t, stale.Enter(), guest.ErrUntagged)
}
