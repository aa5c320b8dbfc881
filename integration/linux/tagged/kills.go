package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"time"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

const (
	programs = 3
	patterns = 2
	user     = 1000
	glance   = 5 * time.Millisecond
	// shortest and longest are the times between two kills.
	shortest = 200 * time.Millisecond
	longest  = 2200 * time.Millisecond
	// patience is how long anything may take that must happen.
	patience = 3 * time.Minute
)

// killer runs the daemon and programs, and kills them.
type killer struct {
	random   *rand.Rand
	dev      *guest.Device
	daemon   *exec.Cmd
	programs [programs]*exec.Cmd
	// observer is a task of this program, always inside of its segment, so that its page's lease
	// counts the daemon's wake-ups.
	client   *guest.Client
	observer *guest.Slot
	lease    uint32 // where its lease is
	counts   counts
}

// counts is what has been done and seen.
type counts struct {
	programs, outside int    // programs that were killed, and of them outside of a segment
	wakes             uint32 // most wake-ups after which one was there still
	goneMS            int64  // and the longest time
	daemons, waited   int    // daemons that were killed, and of them those whose leases ended
	leaseMS           int64  // longest time until they had
	leases            int    // leases that ended with no move in between, which leaseMS counts
}

// kills runs until ctx ends.
func kills(ctx context.Context, seed uint64) error {
	folder, err := guest.DeviceFolder()
	if err != nil {
		return err
	}
	k := &killer{random: rand.New(rand.NewPCG(seed, 0))}
	if k.dev, err = guest.OpenDevice(folder); err != nil {
		return err
	}
	for i := range patterns {
		if _, err := asUser("tagged", "pattern", fmt.Sprintf("pattern-%d", i)); err != nil {
			return err
		}
	}
	for i := range k.programs {
		if err := k.startProgram(i); err != nil {
			return err
		}
	}
	if err := k.startDaemon(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(shortest + time.Duration(k.random.Int64N(int64(longest-shortest)))):
		}
		if k.random.IntN(4) == 0 {
			err = k.killDaemon()
		} else {
			err = k.killProgram(k.random.IntN(programs))
		}
		if err != nil {
			fmt.Println("kills: FAULT:", err)
			return err
		}
		fmt.Printf("kills: %+v.\n", k.counts)
	}
	return k.end()
}

// until waits until what is so.
func (k *killer) until(name string, what func() (bool, error)) error {
	for begin := time.Now(); ; time.Sleep(glance) {
		ok, err := what()
		switch {
		case ok || err != nil:
			return err
		case time.Since(begin) > patience:
			return fmt.Errorf("still waiting for %s after %v", name, patience)
		}
	}
}

// asUser starts a program without rights.
func asUser(argv ...string) (*exec.Cmd, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: user, Gid: user},
	}
	return cmd, cmd.Start()
}

func (k *killer) startProgram(i int) (err error) {
	k.programs[i], err = asUser("tagged", "task", fmt.Sprintf("program-%d", i))
	return err
}

// startDaemon starts one, and waits until all programs are tagged again.
func (k *killer) startDaemon() error {
	k.daemon = exec.Command("vmm-tag", "daemon", "--group", "user")
	k.daemon.Stderr = os.Stderr
	if err := k.daemon.Start(); err != nil {
		return err
	}
	if k.client != nil {
		_ = k.client.Close()
	}
	err := k.until("the daemon", func() (bool, error) {
		var err error
		k.client, err = guest.Dial(guest.Socket)
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	if k.observer, err = k.client.Open("observer"); err != nil {
		return err
	}
	if err := k.observer.Enter(); err != nil {
		return err
	}
	k.lease = 0
	for page := range abi.DevicePages {
		for n := range abi.PageSlots {
			if k.named(guest.SlotAt(page, n), "observer") {
				k.lease = guest.PageAt(page) + guest.PageLeaseAt
			}
		}
	}
	if k.lease == 0 {
		return errors.New("the observer has no slot")
	}
	return k.until("all programs", func() (bool, error) {
		for i := range k.programs {
			t, err := k.task(i)
			if t == nil || err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// named tells whether a used slot has this name, or one that begins like it.
func (k *killer) named(slot uint32, name string) bool {
	ram := k.dev.RAM
	first := uint32(name[0]) | uint32(name[1])<<8 | uint32(name[2])<<16 | uint32(name[3])<<24
	return ram.Load(slot+guest.SlotFlagsAt) == abi.SlotUsed &&
		ram.Load(slot+guest.SlotNameAt) == first
}

// task returns the task of a program, or nil if it has none yet.
func (k *killer) task(i int) (*guest.TaskStatus, error) {
	a, err := k.client.Ask(guest.Request{Op: "status"})
	if err != nil {
		return nil, err
	}
	for _, t := range a.Status.Tasks {
		if t.PID == k.programs[i].Process.Pid {
			return &t, nil
		}
	}
	return nil, nil
}

// killProgram kills a program, three times in four outside of its segment, and waits until the host
// has forgotten its task.
func (k *killer) killProgram(i int) error {
	var t *guest.TaskStatus
	anywhere := k.random.IntN(4) == 0
	err := k.until("a program's moment", func() (bool, error) {
		var err error
		t, err = k.task(i)
		return t != nil && (anywhere || t.Depth == 0), err
	})
	if err != nil {
		return err
	}
	from, begin := k.dev.RAM.Load(k.lease), time.Now()
	if err := k.killed(k.programs[i]); err != nil {
		return err
	}
	k.counts.programs++
	if t.Depth == 0 {
		k.counts.outside++
	}
	// The daemon writes UNREGISTER before it tells that the task is gone.
	var wakes uint32
	err = k.until("the end of a task", func() (bool, error) {
		passed := k.dev.RAM.Load(k.lease) - from
		t, err := k.task(i)
		if t != nil {
			wakes = passed
		}
		return t == nil, err
	})
	if err != nil {
		return err
	}
	k.counts.wakes = max(k.counts.wakes, wakes)
	k.counts.goneMS = max(k.counts.goneMS, time.Since(begin).Milliseconds())
	if wakes > 10 {
		fmt.Printf("kills: FAULT: a dead program held the gate for %d wake-ups\n", wakes)
	}
	return k.startProgram(i)
}

func (k *killer) killed(cmd *exec.Cmd) error {
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	_ = cmd.Wait()
	return nil
}

// killDaemon kills the daemon, and starts another: two times in three once the leases of the first
// have ended, and else at once.
func (k *killer) killDaemon() error {
	moved, begin := k.dev.Read(abi.RegEpoch), time.Now()
	if err := k.killed(k.daemon); err != nil {
		return err
	}
	k.counts.daemons++
	if k.random.IntN(3) > 0 {
		err := k.until("the end of the leases", func() (bool, error) {
			return k.dev.Read(abi.RegPages) == 0, nil
		})
		if err != nil {
			return err
		}
		k.counts.waited++
		if k.dev.Read(abi.RegEpoch) == moved { // a move begins the leases anew
			k.counts.leases++
			k.counts.leaseMS = max(k.counts.leaseMS, time.Since(begin).Milliseconds())
		}
		for page := range abi.DevicePages {
			if k.dev.RAM.Load(guest.PageAt(page)+guest.PageMagicAt) == abi.PageMagic {
				fmt.Printf("kills: FAULT: page %d has its magic without a lease\n", page)
			}
		}
	}
	for i, p := range k.programs {
		if err := p.Process.Signal(syscall.Signal(0)); err != nil {
			fmt.Printf("kills: FAULT: program %d died with the daemon: %v\n", i, err)
		}
	}
	return k.startDaemon()
}

// end kills all programs. Then no task is left but the observer.
func (k *killer) end() error {
	for _, p := range k.programs {
		if err := k.killed(p); err != nil {
			return err
		}
	}
	err := k.until("the last task", func() (bool, error) {
		a, err := k.client.Ask(guest.Request{Op: "status"})
		return err == nil && len(a.Status.Tasks) == 1, err
	})
	fmt.Printf("kills: ended, error=%v.\n", err)
	return err
}
