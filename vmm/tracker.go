package vmm

import (
	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/vmm/kvm"
)

// tracker adds to KVM's dirty log the pages that this process itself writes.
type tracker struct {
	dirtylog.Tracker
	guest *memory.Guest
}

// Start drops the marks from before. Otherwise the first harvest would report every page that any
// device has ever written or released.
func (t *tracker) Start() error {
	t.guest.DropMarked()
	return t.Tracker.Start()
}

// Harvest adds the pages marked since the last harvest.
func (t *tracker) Harvest(dirty *memory.Bitmap) (int, error) {
	n, err := t.Tracker.Harvest(dirty)
	return n + t.guest.TakeMarked(dirty), err
}

// chooseTracker settles how writes are tracked. It must come before the vCPUs are made, because
// rings must be enabled before them.
func (vm *VM) chooseTracker(opts Options) error {
	want := opts.DirtyLog
	if want == "" {
		want = dirtylog.KindGetDirtyLog
	}
	kind, err := dirtylog.Choose(want, dirtylog.Offered(vm.kvmFD))
	if err != nil {
		return err
	}
	vm.kind = kind
	if kind == dirtylog.KindRing {
		return dirtylog.EnableRing(vm.fd, opts.ring())
	}
	return nil
}

// ring is the size of each vCPU's ring in bytes.
func (o Options) ring() int {
	if o.ringBytes != 0 {
		return o.ringBytes
	}
	return dirtylog.RingBytes
}

// createTracker makes the tracker that was chosen.
func (vm *VM) createTracker(opts Options) error {
	var t dirtylog.Tracker
	switch vm.kind {
	case dirtylog.KindRing:
		var fds []kvm.FD
		for _, c := range vm.vcpus {
			fds = append(fds, c.fd)
		}
		ring, err := dirtylog.NewRing(vm.fd, fds, opts.ring(), vm.slots)
		if err != nil {
			return err
		}
		vm.ring, t = ring, ring
	case dirtylog.KindManualProtect:
		t = dirtylog.NewManualProtect(vm.fd, vm.slots)
	default:
		t = dirtylog.NewGetDirtyLog(vm.fd, vm.slots)
	}
	vm.tracker = &tracker{t, vm.guest}
	return nil
}
