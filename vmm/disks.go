package vmm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"taskguide/vmm/device/virtio"
	"taskguide/vmm/state"
)

// A machine's disks are files of the host, and their ownership moves with the guest: a machine owns
// its disks from its start, or its arrival, until it releases them for another machine. To go on
// after that it must take them again. Package virtio says what ownership means.

// Disk says which file is a disk, and how it is used.
type Disk = virtio.DiskConfig

// ErrDisks is returned for disks that are not the guest's.
var ErrDisks = errors.New("disks do not fit the guest")

// openDisks opens a machine's disks.
func openDisks(files []Disk, log *slog.Logger) ([]*virtio.Disk, error) {
	if len(files) > virtio.MaxDisks {
		return nil, fmt.Errorf("%d disks: a machine has at most %d", len(files), virtio.MaxDisks)
	}
	var disks []*virtio.Disk
	for _, c := range files {
		d, err := virtio.OpenDisk(c, log)
		if err == nil {
			disks = append(disks, d)
			err = firstTime(disks)
		}
		if err != nil {
			closeDisks(disks)
			return nil, err
		}
	}
	return disks, nil
}

// firstTime returns an error if the last disk is one of those before it. Without this check its
// locks would look as if another process had it.
func firstTime(disks []*virtio.Disk) error {
	last := len(disks) - 1
	for _, before := range disks[:last] {
		if err := disks[last].Twice(before); err != nil {
			return err
		}
	}
	return nil
}

func closeDisks(disks []*virtio.Disk) {
	var together sync.WaitGroup // each may wait for its host
	for _, d := range disks {
		together.Go(d.Close)
	}
	together.Wait()
}

// ownDisks takes disks, all of them or none.
func ownDisks(ctx context.Context, disks []*virtio.Disk) error {
	for i, d := range disks {
		if err := d.Own(ctx); err != nil {
			back, stop := hostPatience() // ctx may have ended
			defer stop()
			return errors.Join(err, releaseDisks(back, disks[:i]))
		}
	}
	return nil
}

// owned tells whether all disks are owned here.
func owned(disks []*virtio.Disk) bool {
	for _, d := range disks {
		if !d.Owned() {
			return false
		}
	}
	return true
}

// withDisks calls f with vm.mu held, once the machine has its disks. After an error of it f was not
// called. The host may hang, so vm.mu is not held while the disks are taken: the machine can be
// looked at, and ended.
func (vm *VM) withDisks(ctx context.Context, f func() error) error {
	for {
		err := vm.takeDisks(ctx)
		vm.mu.Lock()
		if vm.ended {
			err = ErrEnded
		}
		if err != nil || owned(vm.disks) {
			if err == nil {
				err = f()
			}
			vm.mu.Unlock()
			return err
		}
		vm.mu.Unlock() // they were released again
	}
}

// takeDisks takes disks that were released. The host has a while for that, unless ctx or the
// machine ends.
func (vm *VM) takeDisks(ctx context.Context) error {
	if owned(vm.disks) {
		return nil
	}
	ctx, stop := waitFor(ctx, vm.patience)
	defer stop()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		select {
		case <-vm.over:
			end(ErrEnded)
		case <-ctx.Done():
		}
	}()
	return ownDisks(ctx, vm.disks)
}

// syncDisks makes what was written durable.
func syncDisks(ctx context.Context, disks []*virtio.Disk) error {
	var g errgroup.Group
	for _, d := range disks {
		g.Go(func() error { return d.Sync(ctx) })
	}
	return g.Wait()
}

// releaseDisks makes what was written durable and lets disks go, all of them or none.
func releaseDisks(ctx context.Context, disks []*virtio.Disk) error {
	if err := syncDisks(ctx, disks); err != nil {
		return err
	}
	for i, d := range disks {
		if err := d.Release(ctx); err != nil {
			back, stop := hostPatience() // ctx may have ended
			defer stop()
			return errors.Join(err, ownDisks(back, disks[:i+1]))
		}
	}
	return nil
}

// SyncDisks makes durable what the guest has written so far, while it runs, so that less is left to
// ReleaseDisks. If ctx ends before, the host goes on with it in the background.
func (vm *VM) SyncDisks(ctx context.Context) error { return syncDisks(ctx, vm.disks) }

// ReleaseDisks makes durable what the guest of a paused machine wrote to its disks, and releases
// them, so that the machine at the other end can take them. [VM.Resume] and [VM.TakeDisks] take
// them back; neither may be called meanwhile. After an error, and if ctx ends before the host is
// done, the disks stay here.
//
// A machine may have stood still without its disks since another one had them. It must get them
// back first, unchanged, or it would pass RAM on that is out of date.
func (vm *VM) ReleaseDisks(ctx context.Context) error {
	if err := vm.still(func() error { return nil }); err != nil {
		return err
	}
	// vm.mu is not held, because the host may hang.
	err := ownDisks(ctx, vm.disks)
	if err == nil {
		err = releaseDisks(ctx, vm.disks)
	}
	if err != nil {
		return fmt.Errorf("release the disks: %w", err)
	}
	return nil
}

// identities returns the descriptions of disks for a destination.
func identities(disks []*virtio.Disk) []virtio.DiskIdentity {
	var all []virtio.DiskIdentity
	for _, d := range disks {
		all = append(all, d.Identity())
	}
	return all
}

// openSameDisks opens the disks of a guest that will arrive. They are owned only once it runs here.
func openSameDisks(files []Disk, source *machineConfig, log *slog.Logger) ([]*virtio.Disk, error) {
	if len(source.Disks) > virtio.MaxDisks {
		return nil, fmt.Errorf("%w: it has %d, more than any machine", ErrDisks, len(source.Disks))
	}
	if len(files) != len(source.Disks) {
		return nil, fmt.Errorf("%w: it has %d and %d were given: use vmm run --incoming%s",
			ErrDisks, len(source.Disks), len(files), backendFlags(source))
	}
	disks, err := openDisks(files, log)
	if err != nil {
		return nil, err
	}
	for i, d := range disks {
		if err := d.Is(source.Disks[i]); err != nil {
			closeDisks(disks)
			return nil, fmt.Errorf("%w: %w", ErrDisks, err)
		}
	}
	return disks, nil
}

// diskFlags returns the command line's flags that a guest's disks need.
func diskFlags(source []virtio.DiskIdentity) string {
	var b strings.Builder
	for _, d := range source {
		b.WriteString(" --disk FILE")
		if d.ReadOnly {
			b.WriteString(",readonly")
		}
		if d.Proof == 0 {
			b.WriteString(",lock=none")
		}
	}
	return b.String()
}

// diskKinds returns the sections of all disks that a machine may have.
func diskKinds() state.Catalog {
	var c state.Catalog
	for n := range virtio.MaxDisks {
		c = append(c, virtio.BlockKind(n))
	}
	return c
}

// TakeDisks takes back the disks of a machine that stands still, after it released them for another
// machine that never ran, and whatever else its devices gave away with their state. It returns an
// error once ctx has ended, and if the host hangs for a while.
func (vm *VM) TakeDisks(ctx context.Context) error {
	return vm.withDisks(ctx, func() error {
		vm.devices.Stay()
		return nil
	})
}
