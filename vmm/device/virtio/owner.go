package virtio

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A disk has at most one owner at any time. The owner holds a lock on the file's first byte, and
// releases it before another may take it. It is an OFD lock, which belongs to this opening of the
// file: it ends with the process, however that ends, and reaches other hosts if the file system
// carries locks.
const lockByte = 0

// errInUse is returned for a disk that another process owns.
var errInUse = errors.New("in use: another process has locked it; end that first")

// Own takes the disk. It returns an error if another process owns the disk, or if the disk changed
// since it was released: then another guest has gone on with it, and what the guest here knows of
// it is out of date. After an error, and so if ctx ends before the host has answered, the disk is
// not owned.
func (d *Disk) Own(ctx context.Context) error {
	if d.Owned() {
		return nil // even if a sync of a release that was given up still hangs
	}
	err := d.ask(ctx, func() error { return d.own(ctx) })
	if d.Owned() {
		return nil // it was taken just before ctx ended
	}
	return d.wrap(err)
}

// Owned tells whether the disk is owned here.
func (d *Disk) Owned() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.owned
}

// own takes the disk; in its turn. One lock orders its last step, the end of ctx and a look at
// owned. So whoever has given up on it and sees that the disk is not owned can rely on that.
func (d *Disk) own(ctx context.Context) error {
	if d.Owned() {
		return nil
	}
	if err := d.take(); err != nil {
		return err
	}
	d.mu.Lock()
	err := context.Cause(ctx)
	if d.closed {
		err = os.ErrClosed
	}
	d.owned = err == nil
	d.mu.Unlock()
	if err != nil {
		_ = d.lock(lockByte, unix.F_UNLCK)
		return err
	}
	d.left = nil
	return nil
}

func (d *Disk) take() error {
	if err := d.before(OpOwn); err != nil {
		return err
	}
	if err := d.lock(lockByte, d.lockKind()); err != nil {
		return err
	}
	err := d.unchanged()
	if err != nil {
		_ = d.lock(lockByte, unix.F_UNLCK)
		return err
	}
	// Others may have written the file since it was opened, so its cache is dropped. This host's
	// file system keeps only pages that it knows to be right.
	_ = unix.Fadvise(d.fd, 0, 0, unix.FADV_DONTNEED)
	return nil
}

// unchanged returns an error if the file is not as it was when it was released, or its size has
// changed.
func (d *Disk) unchanged() error {
	now, err := d.look()
	if err != nil {
		return err
	}
	switch was := d.left; {
	case now.bytes != d.bytes:
		return fmt.Errorf("it has %d bytes now, and had %d", now.bytes, d.bytes)
	case was != nil && *was != now:
		return errors.New("it changed since the guest stood still here: " +
			"the guest must not go on with it")
	}
	return nil
}

// Sync makes durable what was written so far, if that is not yet so. Requests may come meanwhile.
// If it fails, the disk cannot be released until a flush has told its guest. If ctx ends before the
// host is done, that goes on in the background.
func (d *Disk) Sync(ctx context.Context) error {
	if d.ReadOnly || !d.Owned() {
		return nil
	}
	if err := d.ask(ctx, d.makeDurable); err != nil {
		return d.wrap(fmt.Errorf("make it durable: %w", err))
	}
	return nil
}

// Syncing tells whether the host is making the disk durable.
func (d *Disk) Syncing() bool { return d.syncing.Load() > 0 }

func (d *Disk) makeDurable() error {
	d.reports.Lock()
	defer d.reports.Unlock()
	d.mu.Lock()
	err := d.owed
	d.mu.Unlock()
	if err == nil && (d.unsynced.Load() || d.syncing.Load() > 0) {
		if err = d.sync(); err != nil {
			d.mu.Lock()
			d.owed = err
			d.mu.Unlock()
		}
	}
	if err != nil {
		return fmt.Errorf("%w: the guest learns of it when it flushes", err)
	}
	return nil
}

// Release makes durable what was written, and releases the disk. No request is in flight. If the
// disk cannot be made durable, or ctx ends before it is, it stays owned.
func (d *Disk) Release(ctx context.Context) error {
	if err := d.Sync(ctx); err != nil {
		return err
	}
	return d.wrap(d.ask(ctx, func() error { return d.release(ctx) }))
}

// release releases a disk that is durable; in its turn. From its first step on the disk counts as
// not owned, so that whoever wants it back waits until it has been let go.
//
// One lock orders that step, the end of ctx and a look at owned. So once ctx has ended, either the
// disk counts as not owned already, or this release never lets it go. Otherwise a guest that
// resumed after the end of ctx could go on with a disk that is about to be let go.
func (d *Disk) release(ctx context.Context) error {
	d.mu.Lock()
	was, err := d.owned, context.Cause(ctx)
	if err == nil {
		d.owned = false
	}
	d.mu.Unlock()
	if err != nil || !was {
		return err
	}
	now, err := d.look()
	if err != nil {
		return err
	}
	d.left = &now
	return d.lock(lockByte, unix.F_UNLCK)
}

func (d *Disk) stat() (*unix.Statx_t, error) {
	st := new(unix.Statx_t)
	const want = unix.STATX_BASIC_STATS | unix.STATX_DIOALIGN
	if err := unix.Statx(d.fd, "", unix.AT_EMPTY_PATH, want, st); err != nil {
		return nil, err
	}
	return st, nil
}

// lockKind returns the kind of lock: a write lock excludes all others, and a read lock only
// writers.
func (d *Disk) lockKind() int16 {
	if d.ReadOnly {
		return unix.F_RDLCK
	}
	return unix.F_WRLCK
}

// lock locks or unlocks a byte.
func (d *Disk) lock(at int64, kind int16) error {
	if d.Lock == LockNone {
		return nil
	}
	l := unix.Flock_t{Type: kind, Start: at, Len: 1}
	switch err := unix.FcntlFlock(uintptr(d.fd), unix.F_OFD_SETLK, &l); {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return errInUse
	case err != nil:
		return fmt.Errorf("lock it: %w: use lock=none if nobody else has it", err)
	}
	return nil
}

// DiskIdentity is what a destination must know of a disk to have the same one.
type DiskIdentity struct {
	Bytes      int64 `json:"bytes"`
	BlockBytes int   `json:"block_bytes"`
	ReadOnly   bool  `json:"read_only,omitempty"`
	// Proof is the offset of a byte, beyond all data, that the source keeps locked while it has the
	// disk open. A destination that sees this lock has the same file open, and not a copy or
	// another of the source's disks. 0 means that the user vouches for it (lock=none).
	Proof int64 `json:"proof,omitempty"`
}

// proofs is the offset from which proofs are chosen.
const proofs = 1 << 62

// prove locks a byte at an offset that nobody else can guess.
func (d *Disk) prove() error {
	if d.Lock == LockNone {
		return nil
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	d.proof = proofs + int64(le.Uint64(b[:])>>3)
	return d.lock(d.proof, d.lockKind())
}

// Identity returns what a destination must know of the disk.
func (d *Disk) Identity() DiskIdentity {
	return DiskIdentity{
		Bytes: d.bytes, BlockBytes: d.block, ReadOnly: d.ReadOnly, Proof: d.proof,
	}
}

// Is returns an error if the disk is not the source's. The source is not trusted, and has its disk
// open.
func (d *Disk) Is(theirs DiskIdentity) error {
	if err := d.is(theirs); err != nil {
		return d.wrap(err)
	}
	return nil
}

func (d *Disk) is(theirs DiskIdentity) error {
	ours := d.Identity()
	switch {
	case ours.Bytes != theirs.Bytes:
		return fmt.Errorf("it has %d bytes, and the source's %d", ours.Bytes, theirs.Bytes)
	case ours.BlockBytes != theirs.BlockBytes:
		return fmt.Errorf("it has blocks of %d bytes, and the source's of %d",
			ours.BlockBytes, theirs.BlockBytes)
	case ours.ReadOnly != theirs.ReadOnly:
		return errors.New("only one of it and the source's is readonly: give it as there")
	case (d.Lock == LockNone) != (theirs.Proof == 0):
		return errors.New("only one of it and the source's has lock=none: give it as there")
	case d.Lock == LockNone:
		return nil
	case theirs.Proof < proofs:
		return fmt.Errorf("the source's proof is byte %d, which is among the data", theirs.Proof)
	}
	return d.hasLock(theirs.Proof)
}

// hasLock returns an error unless another opening of the file has a byte locked.
func (d *Disk) hasLock(at int64) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
	switch err := unix.FcntlFlock(uintptr(d.fd), unix.F_OFD_GETLK, &l); {
	case err != nil:
		return fmt.Errorf("ask for its locks: %w", err)
	case l.Type == unix.F_UNLCK:
		return errors.New("it is not the source's disk at this place, but another file or a " +
			"copy: give the same files in the same order")
	}
	return nil
}
