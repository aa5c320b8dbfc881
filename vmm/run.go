package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"taskguide/vmm/kvm"
)

// ExitReason says how a machine ended.
type ExitReason string

const (
	ExitGuest    ExitReason = "guest"    // the guest wrote its status to the exit port
	ExitPowerOff ExitReason = "poweroff" // the guest switched the machine off
	ExitReset    ExitReason = "reset"    // the guest asked for a reset
	ExitCrash    ExitReason = "crash"    // the guest crashed: triple fault
	ExitStopped  ExitReason = "stopped"  // Stop was called
	ExitError    ExitReason = "error"    // KVM could not go on; the error says why
)

// Exit is how a machine ended.
type Exit struct {
	Reason ExitReason
	Status uint8 // what the guest wrote to the exit port, with ExitGuest
}

// Running tells whether the vCPUs run. It is false from the moment a pause was requested, and after
// the machine ended.
func (vm *VM) Running() bool { return !vm.hold.Load() && !vm.ending.Load() }

// RequestPause asks the vCPUs to stop and returns at once. A vCPU's own thread may call it while it
// handles an access; that vCPU then stops at the end of this access. It waits for no lock that a
// vCPU's thread could hold.
//
// A vCPU that waits for a device in an access, as for a slow console, stops too.
func (vm *VM) RequestPause() {
	vm.hold.Store(true)
	vm.devices.Hurry()
	vm.kick()
}

// Pause returns once no vCPU runs, none has an access half done, and no device writes RAM, changes
// its state or raises an interrupt. So RAM and state stay as they are until Resume. Pausing a
// paused machine does nothing. A vCPU's own thread must not call it. It returns ErrEnded for a
// machine that has ended, and ErrRunning if the machine was resumed meanwhile.
//
// The vCPUs run until the devices have finished what they ask of the host. If the host hangs, Pause
// returns an error after a while, and a machine that ran goes on running.
//
// It takes the time of a signal to each vCPU, and of the Go scheduler to run the vCPUs' goroutines.
// A goroutine that comes out of KVM_RUN needs one of GOMAXPROCS processors. A program that keeps
// them busy with other work should set GOMAXPROCS to one more than its busy goroutines, or a pause
// can take milliseconds.
func (vm *VM) Pause() error {
	ctx, stop := waitFor(context.Background(), vm.patience)
	defer stop()
	if err := vm.Drain(ctx); err != nil {
		vm.Undrain()
		return err
	}
	vm.RequestPause()
	// A machine that was paused all the time and is being resumed may not be drained.
	return vm.Quiesce(ctx)
}

// Resume lets the vCPUs run. Resuming a running machine does nothing. If somebody else owns the
// machine's disks by now, or the host hangs when they are to be taken, it returns an error and the
// machine stays paused; it may be resumed later.
func (vm *VM) Resume() error { return vm.withDisks(context.Background(), vm.resume) }

// resume resumes a machine that has its disks; vm.mu is held.
func (vm *VM) resume() error {
	if vm.parked == vm.CPUs() {
		vm.tellPaused()
	}
	vm.devices.Resume()
	vm.hold.Store(false)
	vm.mayRun.Broadcast()
	vm.allStill.Broadcast()
	return nil
}

// tellPaused lets KVM tell a guest with kvmclock that it stood still, so that its
// watchdogs do not bark.
func (vm *VM) tellPaused() {
	for _, c := range vm.vcpus {
		// The error is EINVAL if this guest does not use kvmclock.
		_, _ = kvm.KVMClockCtrl.Do(c.fd, 0)
	}
}

// Run starts a machine that was moved here, after LoadState, or leaves it paused. In both cases its
// guest can tell from EPOCH that it moved, and the machine owns its disks. Start a machine that was
// booted here with Resume. After an error the machine owns no disk.
func (vm *VM) Run(paused bool) error {
	if err := vm.TakeDisks(context.Background()); err != nil {
		return err
	}
	vm.Tags().Moved()
	if paused {
		return nil
	}
	return vm.Resume()
}

// still calls f while the machine stands still and cannot be resumed.
func (vm *VM) still(f func() error) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if err := vm.awaitStill(context.Background()); err != nil {
		return err
	}
	return f()
}

// Stop ends the machine. It does not wait for that: see Wait.
func (vm *VM) Stop() { vm.end(Exit{Reason: ExitStopped}, nil) }

// Wait returns once the machine has ended and its console has been written out as far as its writer
// takes it. The error is set with ExitError and ExitCrash only.
func (vm *VM) Wait() (Exit, error) {
	<-vm.done
	return vm.exit, vm.exitErr
}

// Done is closed once the machine has ended.
func (vm *VM) Done() <-chan struct{} { return vm.done }

// Discard ends and frees a machine that never ran.
func (vm *VM) Discard() { _ = vm.Close() }

// end ends the machine; the first call decides how. Any thread may call it, a
// vCPU's own too.
func (vm *VM) end(exit Exit, err error) {
	if vm.endFirst(exit, err) {
		vm.kick() // not under mu, which comes after life
	}
}

// endFirst tells whether the machine had not ended before.
func (vm *VM) endFirst(exit Exit, err error) bool {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.ended {
		return false
	}
	vm.ended, vm.exit, vm.exitErr = true, exit, err
	vm.ending.Store(true)
	close(vm.over)
	vm.devices.Hurry()
	vm.allStill.Broadcast()
	vm.mayRun.Broadcast()
	return true
}

// kick gets all vCPUs out of the guest. A machine that was closed has none.
func (vm *VM) kick() {
	vm.life.RLock()
	defer vm.life.RUnlock()
	for _, c := range vm.vcpus {
		c.kick()
	}
}

// errLeave makes a vCPU leave its loop: the machine has ended.
var errLeave = errors.New("leave")

// loop is a vCPU's life, on a thread of its own: run the guest, handle what it exits
// with, stand still when asked to.
//
//	         hold                 hold lifted
//	run ----------------> parked -------------> run
//	 |  access completed    |
//	 +----------------------+--> left, once the machine ends
func (c *vcpu) loop() {
	// The thread is never unlocked and ends with the goroutine.
	runtime.LockOSThread()
	defer c.vm.threads.Done()
	c.tid.Store(int32(unix.Gettid()))
	nameThread(fmt.Sprintf("vcpu %d", c.id))
	preferLatency()
	for {
		if c.vm.ending.Load() {
			return
		}
		// hold is read once per turn, so that a vCPU that parks has finished its access.
		hold := c.vm.hold.Load()
		if hold || c.errand.Load() != nil {
			if err := c.finishAccess(); err != nil {
				c.fail(err)
				return
			}
			c.runErrand()
		}
		if hold {
			c.park()
			continue
		}
		if err := c.runOnce(); err != nil {
			c.fail(err)
			return
		}
	}
}

// nameThread names the calling thread, so that top -H and others who account for CPU time can tell
// a guest's threads from the rest.
func nameThread(name string) {
	// A thread without a name works too, so an error is ignored.
	_ = os.WriteFile("/proc/thread-self/comm", []byte(name), 0)
}

func (c *vcpu) fail(err error) {
	if err != errLeave {
		c.vm.end(Exit{Reason: ExitError}, fmt.Errorf("vCPU %d: %w", c.id, err))
	}
}

// runOnce enters the guest and handles one exit.
func (c *vcpu) runOnce() error {
	err := c.enter()
	switch err {
	case nil:
		return c.handleExit()
	case unix.EINTR:
		// This was a kick, or any other signal to this thread. The flag is cleared before hold and
		// ending are read again. A caller that sets one of them after that read also sets
		// immediate_exit, and KVM_RUN comes back at once.
		c.run.ClearImmediateExit()
		return nil
	case unix.EAGAIN:
		// The vCPU waits for its INIT and SIPI.
		return nil
	}
	return fmt.Errorf("KVM_RUN: %w", err)
}

// finishAccess completes the port or memory access of the last exit. KVM does that at the next
// KVM_RUN, before it looks at immediate_exit. Until then registers and instruction pointer are
// those from before the access, so a machine saved in this state would repeat it. An access may
// exit again, as a string instruction does for its next part.
func (c *vcpu) finishAccess() error {
	for {
		c.run.SetImmediateExit()
		switch err := c.enter(); err {
		case unix.EINTR:
			return nil
		case nil:
			if err := c.handleExit(); err != nil {
				return err
			}
		case unix.EAGAIN:
		default:
			return fmt.Errorf("KVM_RUN to complete an access: %w", err)
		}
	}
}

// enter is KVM_RUN, once.
func (c *vcpu) enter() error {
	c.inside.Store(true)
	err := c.fd.Run()
	c.inside.Store(false)
	return err
}

// park stands still until the machine is resumed or ends.
func (c *vcpu) park() {
	vm := c.vm
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.parked++
	if vm.parked == vm.CPUs() {
		vm.allStill.Broadcast()
	}
	for c.runErrand(); vm.hold.Load() && !vm.ended; c.runErrand() {
		vm.mayRun.Wait()
	}
	vm.parked--
	// The flag is cleared before hold is read again, see runOnce.
	c.run.ClearImmediateExit()
}

// kick gets a vCPU out of the guest, or keeps it from entering. The caller must have set hold,
// ending or an errand before.
//
// immediate_exit covers a vCPU that has read hold just before it was set and is about to enter. The
// signal covers one that is inside and has already read immediate_exit. That vCPU has set inside
// before, so kick does not miss it.
func (c *vcpu) kick() {
	c.run.SetImmediateExit()
	if !c.inside.Load() {
		return
	}
	// The Go runtime handles and ignores SIGURG at any time. If the thread has ended and another
	// thread has its id now, that one ignores the signal too.
	_ = unix.Tgkill(unix.Getpid(), int(c.tid.Load()), unix.SIGURG)
}
