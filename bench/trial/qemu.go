package trial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/bench/peer/qemu"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
)

// runQEMU is a move of the peer. QEMU has no tag port, so the point of the cycle is found by
// heartbeats, as for a guest that does not tag.
func (site *Site) runQEMU(ctx context.Context, r *Result) (err error) {
	m := *r.Spec.QEMU
	if site.Link == nil {
		m.BytesPerSecond = r.Spec.Params.BitsPerSecond / 8
	} // otherwise the link limits it, and better
	m.DowntimeLimit = r.Spec.Params.DowntimeLimit
	dir, err := os.MkdirTemp("", "vmm-bench-")
	if err != nil {
		return fmt.Errorf("make a folder for the trial: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	opts, err := site.optionsOf(ctx, r.Spec.Guest, dir)
	if err != nil {
		return err
	}
	source, err := startQEMU(ctx, opts, site.Link.Source())
	if err != nil {
		return err
	}
	defer source.Close()
	opts.Incoming = true
	destination, err := startQEMU(ctx, opts, site.Link.Destination())
	if err != nil {
		return err
	}
	defer destination.Close()
	ctx, cancel := whileBothRun(ctx, source, destination)
	defer func() {
		if err != nil {
			err = errors.Join(source.Err(), destination.Err(), err)
		}
		cancel()
	}()
	address, err := destination.Listen(ctx, site.Link.Destination().listenAddress(), m)
	if err != nil {
		return err
	}
	address, endRelay, err := site.relayTo(address, r.Spec.RTT)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, endRelay()) }()
	if err := awaitBeats(ctx, source.Console, r.Spec); err != nil {
		return err
	}
	cycle := r.Spec.Guest.Cycle()
	sleep(ctx,
		untilOffset(time.Now(), cycleAt(running(source.Console.Beats())), r.Spec.Offset, cycle))
	requested := time.Now()
	asked := len(running(source.Console.Beats()))
	r.Request = Request{Anchor: "heartbeats", Offset: offsetByBeats(running(source.Console.Beats()),
		time.Now(), cycle)}
	sent, err := site.Link.sentBytes()
	if err != nil {
		return err
	}
	if err := r.migrateQEMU(ctx, source, destination, address, m); err != nil {
		return err
	}
	if err := r.watchQEMU(ctx, source, destination, asked, requested); err != nil {
		return err
	}
	// QEMU is done once everything is in its socket. Only now has all of it crossed the link.
	sentAfter, err := site.Link.sentBytes()
	r.LinkBytes = sentAfter - sent
	return err
}

// optionsOf returns the options for a guest, whose disk or network is made in dir.
func (site *Site) optionsOf(ctx context.Context, g Guest, dir string) (qemu.Options, error) {
	opts := qemu.Options{
		Binary: site.QEMU, Kernel: site.Kernel, Cmdline: g.Cmdline(), CPUs: g.CPUs,
		MemoryBytes: g.MemoryBytes,
	}
	if g.Prefault {
		opts.Preallocate = runtime.NumCPU()
	}
	if g.Card {
		socket, err := mirror(ctx, dir)
		opts.Machine = qemu.PC // microvm has no PCI
		opts.Args = []string{
			"-netdev", "stream,id=net,server=off,addr.type=unix,addr.path=" + socket,
			"-device", "virtio-net-pci,netdev=net",
		}
		return opts, err
	}
	if g.DiskBytes == 0 {
		return opts, nil
	}
	disk, err := makeDisk(dir, g)
	opts.Machine = qemu.PC // microvm has no PCI
	opts.Args = []string{
		"-drive", "if=none,id=disk,format=raw," + cacheOf(disk) + ",file=" + disk,
		"-object", "iothread,id=io", "-device", "virtio-blk-pci,drive=disk,iothread=io",
	}
	return opts, err
}

// cacheOf returns QEMU's options that do as vmm's cache=auto does.
func cacheOf(disk string) string {
	file, err := os.OpenFile(disk, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return "cache=writeback"
	}
	file.Close()
	return "cache=none,aio=native"
}

// makeDisk makes a guest's disk.
func makeDisk(dir string, g Guest) (path string, err error) {
	path = filepath.Join(dir, "disk.img")
	if err = os.WriteFile(path, nil, 0o600); err == nil {
		err = os.Truncate(path, g.DiskBytes)
	}
	if err != nil {
		err = fmt.Errorf("make the guest's disk: %w", err)
	}
	return path, err
}

func startQEMU(ctx context.Context, opts qemu.Options, side Side) (*qemu.VM, error) {
	var vm *qemu.VM
	err := side.do(func() (err error) {
		vm, err = qemu.Start(ctx, opts)
		return err
	})
	return vm, err
}

func (r *Result) migrateQEMU(
	ctx context.Context, source, destination *qemu.VM, address string, m qemu.Migration,
) error {
	var used [2][2]float64
	measure := func(when int) error {
		for i, vm := range []*qemu.VM{source, destination} {
			var err error
			if used[when][i], err = cpuSeconds(vm.Pid()); err != nil {
				return err
			}
		}
		return nil
	}
	if err := measure(0); err != nil {
		return err
	}
	guest, err := newGuestMeter(source.Pid())
	if err != nil {
		return err
	}
	stats, err := source.Migrate(ctx, address, m, nil)
	r.CPU.Guest = guest.stop()
	if err != nil {
		return err
	}
	if err := measure(1); err != nil {
		return err
	}
	r.CPU.Source, r.CPU.Destination = used[1][0]-used[0][0], used[1][1]-used[0][1]
	r.Report = reportOf(stats, m, r.Spec.Guest.MemoryBytes)
	return nil
}

// reportOf converts QEMU's account into ours. Its times are whole milliseconds.
func reportOf(s qemu.Stats, m qemu.Migration, ramBytes int64) migration.Report {
	r := migration.Report{
		Status: migration.StatusCompleted, Phase: migration.PhaseDone,
		TotalMS: float64(s.TotalMs), SetupMS: float64(s.SetupMs), DowntimeMS: float64(s.DowntimeMs),
		RAMBytes: ramBytes, BytesWire: s.RAM.TransferredBytes,
		PagesSent: s.RAM.NormalPages, PagesZero: s.RAM.ZeroPages,
		BytesPages:    (s.RAM.NormalPages + s.RAM.ZeroPages) * 4096,
		PagesStopCopy: Unknown,
		Rounds:        make([]migration.Round, s.RAM.Rounds),
	}
	if m.Compression != "" && m.Compression != qemu.NoCompression {
		r.BytesWire = Unknown // multifd counts before it compresses
	}
	return r
}

// whileBothRun returns a context that also ends with either QEMU.
func whileBothRun(ctx context.Context, vms ...*qemu.VM) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	for _, vm := range vms {
		go func() {
			select {
			case <-vm.Exited():
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return ctx, cancel
}

// watchQEMU waits for the heartbeats at the destination. Each QEMU has its own console, and a line
// may begin at one and end at the other, so the two are joined into one text.
func (r *Result) watchQEMU(
	ctx context.Context, source, destination *qemu.VM, asked int, requested time.Time,
) error {
	want := max(1, r.Spec.BeatsAfter)
	for n := 0; ; n++ {
		if _, err := destination.Console.WaitBeats(ctx, n); err != nil {
			return err
		}
		var whole heartbeat.Log
		fmt.Fprint(&whole, source.Console.String()+destination.Console.String())
		if line := whole.Corrupt(); line != "" {
			return errors.Join(heartbeat.ErrCorrupt, errors.New(line))
		}
		s := span{asked: asked, moved: len(running(source.Console.Beats()))}
		beats := running(whole.Beats())
		if allComplete(byTask(beats, s), want) {
			r.readBeats(beats, s)
			if r.ClockStood() {
				r.ForgetClock()
			}
			r.readSilences(source.Watch, destination.Watch, requested)
			r.readHeard(source.Watch.Times(), destination.Watch.Times(), requested)
			return nil
		}
	}
}
