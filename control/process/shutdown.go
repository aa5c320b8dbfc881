package process

import (
	"fmt"
	"time"

	"taskguide/control"
	"taskguide/vmm"
)

// DefaultShutdownTimeout is how long a guest has to shut down after it is asked.
const DefaultShutdownTimeout = 30 * time.Second

// OnReset says what happens to a VM whose guest asks for a reset.
type OnReset string

const (
	ResetExits   OnReset = "exit"   // it ends
	ResetReboots OnReset = "reboot" // it starts again, with its kernel
)

// hurried is closed by an order to end at once.
func (h *VM) hurried() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hurry
}

// setHurry makes orders to end stop waiting for the guest. mu must be held.
func (h *VM) setHurry() {
	select {
	case <-h.hurry:
	default:
		close(h.hurry)
	}
}

// askGuest asks a guest that was ordered to end to shut down, if it listens. It returns once the
// guest has shut down, its time is over, or an order came to end it at once.
func (h *VM) askGuest(vm machine) {
	hurry := h.hurried()
	select {
	case <-hurry:
		return
	default:
	}
	if h.shutdown == 0 {
		return
	}
	heard, err := vm.PressPowerButton()
	if err != nil {
		h.log.Warn("not asked to shut down", "error", err)
	}
	if !heard {
		return
	}
	h.log.Info(fmt.Sprintf("asked the guest to shut down: it is ended in %v, "+
		"or at once by vmm stop --now", h.shutdown))
	timeout := time.NewTimer(h.shutdown)
	defer timeout.Stop()
	select {
	case <-vm.Done():
	case <-hurry:
	case <-timeout.C:
		h.log.Warn(fmt.Sprintf("the guest did not shut down within %v", h.shutdown))
	}
}

// beginsAgain tells whether a machine that has ended is to be made anew, because its guest asked
// for a reset and nobody asked for its end. Until then the VM has no guest. A migration and a trace
// under way end, because they belong to the guest that was.
func (h *VM) beginsAgain(vm machine) bool {
	exit, _ := vm.Wait()
	if h.onReset != ResetReboots || exit.Reason != vmm.ExitReset {
		return false
	}
	h.mu.Lock()
	if h.stopping {
		h.mu.Unlock()
		return false
	}
	h.vm = nil
	h.setState(control.StateStarting)
	h.mu.Unlock()
	h.settle(errGuestEnded)
	h.stopTrace()
	h.logging.Store(false) // it belonged to the old machine
	return true
}
