package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"taskguide/control"
)

// boot returns the flags of a vmm run that boots the guest at a host, without disks and cards.
func (g Guest) boot(at *Host) ([]string, error) {
	args := []string{
		"--memory", fmt.Sprint(g.MemoryBytes), "--cpus", fmt.Sprint(g.CPUs), "--cmdline",
		g.Cmdline(),
	}
	kernel, err := at.bring(g.Kernel)
	if err != nil {
		return nil, err
	}
	if kernel != "" {
		args = append(args, "--kernel", kernel)
	}
	if g.Tracker != "" {
		args = append(args, "--dirty-log", g.Tracker)
	}
	return args, nil
}

// machine returns the flags of a guest's files: those of the source, and of them what the
// destination needs, too. Disks are copied into dir, and other files to the host of the source.
func (g Guest) machine(dir string, at *Host) (source, destination []string, err error) {
	for _, f := range [][2]string{{"--kernel", g.Kernel}, {"--initrd", g.Initrd}} {
		path, err := at.bring(f[1])
		if err != nil {
			return nil, nil, err
		}
		if path != "" {
			source = append(source, f[0], path)
		}
	}
	for i, from := range g.Disks {
		to := filepath.Join(dir, fmt.Sprintf("disk%d.img", i))
		if err := copyFile(to, from); err != nil {
			return nil, nil, fmt.Errorf("copy the guest's disk: %w", err)
		}
		destination = append(destination, "--disk", to)
	}
	return append(source, destination...), destination, nil
}

// devices returns the flags of a disk and a card that the bench makes, for both ends.
func (g Guest) devices(ctx context.Context, dir string) (flags []string, err error) {
	if g.DiskBytes > 0 {
		disk, err := makeDisk(dir, g)
		if err != nil {
			return nil, err
		}
		flags = append(flags, "--disk", disk)
	}
	if g.Card {
		socket, err := mirror(ctx, dir)
		if err != nil {
			return nil, err
		}
		flags = append(flags, "--net", "unix:"+socket)
	}
	return flags, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// silentSecond is what a point of the cycle is a part of for a guest without heartbeats.
const silentSecond = time.Second

// awaitReady waits until a guest without heartbeats may be moved.
func (s *stage) awaitReady(ctx context.Context) error {
	if err := s.guest.WaitText(ctx, s.spec.Guest.Ready); err != nil {
		return fmt.Errorf("waiting for the guest to print %q: %w", s.spec.Guest.Ready, err)
	}
	sleep(ctx, time.Duration(s.spec.Offset*float64(silentSecond)))
	return ctx.Err()
}

// watchSilent follows a guest without heartbeats for a second. It may end by itself, with status 0.
func (s *stage) watchSilent(ctx context.Context) error {
	s.result.GapMS, s.result.GapBeforeMS = Unknown, Unknown
	select {
	case <-s.destination.done:
		return s.destination.succeed(ctx)
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(silentSecond):
	}
	_, err := s.destination.await(ctx, "running", func(vm control.VM) bool {
		return vm.State == control.StateRunning
	})
	return err
}
