package vmm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A machine comes to a stand in three steps, so that storage that hangs holds neither a lock nor,
// as long as possible, a vCPU:
//
//	Drain     the devices begin nothing new and finish what they have begun; vCPUs run on
//	Park      the vCPUs stop
//	Quiesce   the devices stop altogether, which finds nothing to wait for after Drain
//
// Only Drain, and Quiesce without it, wait for the host. Both end with a context. Resume undoes all
// three, and Undrain the first.

// ErrHostBusy says that devices wait for the host, and for which of its files.
var ErrHostBusy = errors.New("the host has not finished what devices asked for")

// patience is how long the host has to finish what devices asked for, when nobody says how long.
const patience = 5 * time.Second

func hostPatience() (context.Context, context.CancelFunc) {
	return waitFor(context.Background(), patience)
}

func waitFor(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("waited for %v", d))
}

// Drain makes the devices begin nothing new, and returns once what they have begun is done and its
// pages are marked. vCPUs run meanwhile and afterwards. It returns ErrHostBusy if ctx ends before.
// In any case the devices begin nothing until Resume or Undrain.
func (vm *VM) Drain(ctx context.Context) error {
	vm.mu.Lock()
	if vm.ended {
		vm.mu.Unlock()
		return ErrEnded
	}
	idle := vm.devices.Drain()
	vm.mu.Unlock()
	return vm.awaitIdle(ctx, idle)
}

// Undrain undoes Drain, unless the machine stands still or is about to: then Resume does it.
func (vm *VM) Undrain() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if !vm.hold.Load() && !vm.ended {
		vm.devices.Resume()
	}
}

// Busy names what the host has not done yet for the devices, in words for people. It is empty if
// that is nothing.
func (vm *VM) Busy() string {
	var busy []string
	if b := vm.devices.Busy(); b != "" {
		busy = append(busy, b)
	}
	for _, d := range vm.disks {
		if d.Syncing() {
			busy = append(busy, "fdatasync of disk "+d.Path)
		}
	}
	return strings.Join(busy, ", ")
}

// Park asks the vCPUs to stop, and returns once no vCPU runs and none has an access half done.
// Devices may still work. It returns ErrEnded and ErrRunning as Pause does.
func (vm *VM) Park() error {
	vm.RequestPause()
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.awaitParked()
}

// Quiesce follows a request to pause: it returns once vCPUs and devices stand still. If ctx ends
// before the devices do, it returns ErrHostBusy, and the vCPUs stay stopped.
func (vm *VM) Quiesce(ctx context.Context) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.awaitStill(ctx)
}

// awaitParked waits until all vCPUs are parked. vm.mu is held, but another goroutine may resume the
// machine during the wait.
//
// It checks each time whether the machine stands still. A stored answer could be stale after a
// pause and a resume that overtake each other.
func (vm *VM) awaitParked() error {
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

// awaitStill waits until all vCPUs are parked, and quiesces the devices. vm.mu is held, but not
// while the devices are waited for.
func (vm *VM) awaitStill(ctx context.Context) error {
	for {
		if err := vm.awaitParked(); err != nil {
			return err
		}
		idle := vm.devices.Drain()
		if allClosed(idle) {
			vm.devices.Quiesce()
			return nil
		}
		vm.mu.Unlock()
		err := vm.awaitIdle(ctx, idle)
		vm.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// awaitIdle waits for drained devices. They are also done when the machine is resumed, so a caller
// that needs them idle looks again.
func (vm *VM) awaitIdle(ctx context.Context, idle []<-chan struct{}) error {
	for _, c := range idle {
		select {
		case <-c:
		case <-vm.over:
			return ErrEnded
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: %w", ErrHostBusy, vm.devices.Busy(), context.Cause(ctx))
		}
	}
	return nil
}

func allClosed(all []<-chan struct{}) bool {
	for _, c := range all {
		select {
		case <-c:
		default:
			return false
		}
	}
	return true
}
