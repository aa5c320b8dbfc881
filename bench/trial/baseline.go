package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
)

// Baseline is a measurement beside the same guest that is not a migration: what the host can do at
// best while the guest keeps it as busy as during a migration.
type Baseline string

// Both baselines move BaselineBytes from one buffer of that size to another. All their memory was
// touched before.
const (
	BaselineTCP    Baseline = "tcp"    // over one connection, between two threads
	BaselineMemcpy Baseline = "memcpy" // by one thread
)

// baselineChunk is how many bytes are written to a socket, or copied, at once.
const baselineChunk = 1 << 20

func (site *Site) runBaseline(ctx context.Context, r *Result) (err error) {
	if site.Link != nil {
		return errors.New("baselines are measured on the loopback only")
	}
	dir, err := os.MkdirTemp("", "vmm-bench-")
	if err != nil {
		return fmt.Errorf("make a folder for the trial: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var log heartbeat.Log
	started := make(chan struct{})
	close(started)
	g := r.Spec.Guest
	vm, err := startVMM(site.Binary, dir, "load", Side{}, &log, started,
		"--memory", fmt.Sprint(g.MemoryBytes), "--cpus", fmt.Sprint(g.CPUs), "--cmdline",
		g.Cmdline())
	if err != nil {
		return err
	}
	defer func() {
		vm.end()
		<-vm.done
	}()
	from, to, release, err := baselineBuffers(r.Spec.BaselineBytes)
	if err != nil {
		return err
	}
	defer release()
	alive, cancel := vm.whileAlive(ctx)
	defer cancel()
	if err := awaitBeats(alive, &log, r.Spec); err != nil {
		return vm.explain(err)
	}
	move := map[Baseline]func(to, from []byte) error{
		BaselineTCP: moveTCP, BaselineMemcpy: moveMemcpy,
	}[r.Spec.Baseline]
	if move == nil {
		return fmt.Errorf("baseline %q is unknown", r.Spec.Baseline)
	}
	before, err := cpuSeconds(os.Getpid())
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := move(to, from); err != nil {
		return err
	}
	took := ms(time.Since(begun))
	after, err := cpuSeconds(os.Getpid())
	if err != nil {
		return err
	}
	r.CPU.Source = after - before
	r.GapMS, r.GapBeforeMS = Unknown, Unknown // nothing stood still
	r.Report = migration.Report{
		Status: migration.StatusCompleted, TotalMS: took, BytesWire: r.Spec.BaselineBytes,
		PagesStopCopy: Unknown,
	}
	return nil
}

// baselineBuffers returns buffers outside of Go's heap, so that the collector does not disturb the
// measurement.
func baselineBuffers(bytes int64) (from, to []byte, release func(), err error) {
	var maps [][]byte
	release = func() {
		for _, m := range maps {
			_ = unix.Munmap(m) // nobody else uses it
		}
	}
	for range 2 {
		m, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			release()
			return nil, nil, nil, fmt.Errorf("a buffer of %d bytes: %w", bytes, err)
		}
		maps = append(maps, m)
	}
	for i := range maps[0] { // identical pages would stay in the cache
		if i%64 == 0 {
			maps[0][i] = byte(i >> 6)
		}
	}
	return maps[0], maps[1], release, nil
}

func moveMemcpy(to, from []byte) error {
	for at := 0; at < len(from); at += baselineChunk {
		copy(to[at:], from[at:min(at+baselineChunk, len(from))])
	}
	return nil
}

func moveTCP(to, from []byte) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen on the loopback: %w", err)
	}
	defer ln.Close()
	var both errgroup.Group
	both.Go(func() error {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.ReadFull(conn, to)
		return err
	})
	both.Go(func() error {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		for at := 0; at < len(from); at += baselineChunk {
			if _, err := conn.Write(from[at:min(at+baselineChunk, len(from))]); err != nil {
				return err
			}
		}
		return nil
	})
	return both.Wait()
}
