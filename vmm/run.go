package vmm

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ExitReason says how a machine ended.
type ExitReason string

const (
	ExitGuest   ExitReason = "guest"   // the guest wrote its status to the exit port
	ExitReset   ExitReason = "reset"   // the guest asked for a reset
	ExitCrash   ExitReason = "crash"   // the guest crashed: triple fault
	ExitStopped ExitReason = "stopped" // Stop was called
	ExitError   ExitReason = "error"   // KVM could not go on; the error says why
)

// Exit is how a machine ended.
type Exit struct {
	Reason ExitReason
	Status uint8 // what the guest wrote to the exit port, with ExitGuest
}

// Running tells whether the vCPUs run: not from the moment a pause was requested,
// nor after the machine ended.
func (vm *VM) Running() bool { return !vm.hold.Load() && !vm.ending.Load() }

// RequestPause asks the vCPUs to stop and returns at once. It may be called by a
// vCPU's own thread while it handles an access: that vCPU goes no further than the
// end of this access. It waits for no lock that such a thread could hold.
//
// A vCPU that waits for a slow console stops too: what it wanted to write is queued
// beyond the queue's limit.
func (vm *VM) RequestPause() {
	vm.hold.Store(true)
	vm.console.hurry()
	vm.kick()
}

// Pause returns once no vCPU runs and none has an access half done. To pause a
// paused machine is no error. A vCPU's own thread must not call it.
//
// The time it takes is that of a signal to each vCPU and of the Go scheduler to let
// the vCPUs' goroutines notice. A goroutine that comes out of KVM_RUN needs one of
// GOMAXPROCS processors: a program that keeps all of them busy with other work
// should set GOMAXPROCS to the number of CPUs plus that of vCPUs, or a pause can
// take milliseconds.
func (vm *VM) Pause() error {
	vm.RequestPause()
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.awaitStill()
}

// Resume lets the vCPUs run. To resume a running machine is no error.
func (vm *VM) Resume() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.ended {
		return ErrEnded
	}
	if vm.parked == vm.CPUs() {
		vm.tellPaused()
	}
	vm.hold.Store(false)
	vm.serial.release()
	vm.mayRun.Broadcast()
	vm.allStill.Broadcast()
	return nil
}

// tellPaused lets KVM tell a guest with kvmclock that it stood still, so that its
// watchdogs do not bark.
func (vm *VM) tellPaused() {
	for _, c := range vm.vcpus {
		// EINVAL: this guest does not use kvmclock.
		_, _ = ioctl(c.fd, kvmKVMClockCtrl, 0)
	}
}

// Run starts a machine that was moved here, after LoadState, or leaves it paused.
// Either way its guest can tell by EPOCH that it moved. A machine that was booted
// here is started with Resume.
func (vm *VM) Run(paused bool) error {
	vm.tags.Moved()
	if paused {
		return nil
	}
	return vm.Resume()
}

// still calls f while the machine stands still and cannot be resumed.
func (vm *VM) still(f func() error) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if err := vm.awaitStill(); err != nil {
		return err
	}
	return f()
}

// awaitStill waits until all vCPUs are parked, with the machine locked. Somebody
// else may resume the machine meanwhile.
func (vm *VM) awaitStill() error {
	for vm.parked < vm.CPUs() && !vm.ended && vm.hold.Load() {
		vm.allStill.Wait()
	}
	switch {
	case vm.ended:
		return ErrEnded
	case !vm.hold.Load():
		return ErrRunning
	}
	return nil
}

// Stop ends the machine. It does not wait for that: see Wait.
func (vm *VM) Stop() { vm.end(Exit{Reason: ExitStopped}, nil) }

// Wait returns once the machine has ended and its console has been written out as
// far as its writer takes it. The error is not nil with ExitError and ExitCrash.
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
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.ended {
		return
	}
	vm.ended, vm.exit, vm.exitErr = true, exit, err
	vm.ending.Store(true)
	vm.console.hurry()
	vm.allStill.Broadcast()
	vm.mayRun.Broadcast()
	vm.kick()
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
	c.nameThread()
	for {
		if c.vm.ending.Load() {
			return
		}
		if c.vm.hold.Load() {
			if err := c.finishAccess(); err != nil {
				c.fail(err)
				return
			}
			c.park()
			continue
		}
		if err := c.runOnce(); err != nil {
			c.fail(err)
			return
		}
	}
}

// nameThread tells the vCPUs' threads from the others to top -H, and to whoever accounts for their time.
func (c *vcpu) nameThread() {
	// Without a name, a vCPU runs as well.
	_ = os.WriteFile("/proc/thread-self/comm", fmt.Appendf(nil, "vcpu %d", c.id), 0)
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
		// A kick, or any other signal to this thread. The flag is cleared before hold and
		// ending are looked at again: who sets one of those after that look sets
		// immediate_exit too, and KVM_RUN comes back at once.
		c.run.clearImmediateExit()
		return nil
	case unix.EAGAIN:
		// A vCPU that waits for its INIT and SIPI.
		return nil
	}
	return fmt.Errorf("KVM_RUN: %w", err)
}

// finishAccess completes the port or memory access that the last exit was for. KVM
// does so at the next KVM_RUN, before it looks at immediate_exit; until then
// registers and instruction pointer are those from before the access, and a machine
// that is saved like that would repeat it. An access may exit again, a string
// instruction for its next part for instance.
func (c *vcpu) finishAccess() error {
	for {
		c.run.setImmediateExit()
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
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), kvmRun, 0)
	c.inside.Store(false)
	if errno != 0 {
		return errno
	}
	return nil
}

// park stands still until the machine is resumed or ends.
func (c *vcpu) park() {
	vm := c.vm
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.parked++
	if vm.parked == vm.CPUs() {
		// From here on the machine's state must not change: input waits.
		vm.serial.hold()
		vm.allStill.Broadcast()
	}
	for vm.hold.Load() && !vm.ended {
		vm.mayRun.Wait()
	}
	vm.parked--
	// Cleared before hold is looked at again, see runOnce.
	c.run.clearImmediateExit()
}

// kick gets a vCPU out of the guest, or keeps it from entering. Whoever calls it has
// set hold or ending before.
//
// immediate_exit covers a vCPU that has looked at hold just before it was set and is
// about to enter; the signal covers one that is inside and has read immediate_exit
// already. Such a one has said before that it is inside, so it is not missed here.
func (c *vcpu) kick() {
	c.run.setImmediateExit()
	if !c.inside.Load() {
		return
	}
	// SIGURG is the signal that the Go runtime handles at any time and ignores. Should
	// the thread have ended, and its id be another's, that thread ignores it too.
	_ = unix.Tgkill(unix.Getpid(), int(c.tid.Load()), unix.SIGURG)
}
