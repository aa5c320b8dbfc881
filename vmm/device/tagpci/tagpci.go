package tagpci

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"taskguide/tagging"
	"taskguide/vmm/device"
	"taskguide/vmm/device/pci"
	"taskguide/vmm/state"
)

const (
	name     = "tagpci"
	slot     = 6
	class    = 0xff0000 // none of the others
	revision = 1
)

// Device is the function. It acts only on the port of the machine's [device.Tags].
type Device struct {
	*pci.Function
	host *pci.Host
	tags *device.Tags
	log  *slog.Logger

	board   device.Board
	ram     []byte        // BAR 2
	done    chan struct{} // closed by Close
	counter sync.WaitGroup

	// mu guards the rest. It is held while leases are counted, so that a quiesced device changes
	// nothing. The port's locks are taken with it.
	mu     sync.Mutex
	quiet  bool
	lapsed int       // pages given up of which the log does not know yet
	warned time.Time // when it was told last
}

// warnEvery is how often the log is told of pages that were given up. A guest can have that happen
// all the time.
const warnEvery = time.Minute

// New returns the function, on a bus. tags must be attached before it.
func New(host *pci.Host, tags *device.Tags, log *slog.Logger) *Device {
	return &Device{
		Function: pci.NewFunction(pci.Spec{
			Slot: slot, Vendor: pci.Vendor, Device: tagging.PCIDevice,
			Class: class, Revision: revision,
			BARBytes: tagging.MMIOBytes, RAMBytes: tagging.DeviceBytes,
		}),
		host: host, tags: tags, log: log, quiet: true,
		done: make(chan struct{}),
	}
}

// Kind implements [device.Device].
func (*Device) Kind() state.Kind { return state.Kind{Name: name, Version: 1} }

// Attach implements [device.Device].
func (d *Device) Attach(b device.Board) []device.Window {
	d.board = b
	d.Function.Attach(b)
	d.host.Plug(d.Function)
	d.ram = b.Memory(d.RAMAddress(), tagging.DeviceBytes)
	d.tags.Port.UseDevice(d.ram)
	d.counter.Go(d.countLeases)
	return []device.Window{{
		Space: device.MMIO, Start: d.BARAddress(), Size: tagging.MMIOBytes, Access: d.access,
	}}
}

func (d *Device) access(a device.Access) {
	if d.Decodes() {
		d.tags.Access(a)
	} else {
		a.Ignore()
	}
}

// countLeases counts while there are pages. Without any, it does not wake up.
func (d *Device) countLeases() {
	for {
		select {
		case <-d.done:
			return
		case <-d.tags.Port.PagesCommitted():
		}
		for d.tags.Port.HasDevicePages() {
			select {
			case <-d.done:
				return
			case <-time.After(tagging.LeaseStep):
				d.countOnce()
			}
		}
	}
}

func (d *Device) countOnce() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.quiet {
		return
	}
	d.lapsed += d.tags.Port.CountLeases(d.board.MayWait)
	soon := !d.warned.IsZero() && time.Since(d.warned) < warnEvery
	if d.lapsed == 0 || soon && d.tags.Port.HasDevicePages() { // else nobody counts any more
		return
	}
	d.log.Warn(fmt.Sprintf("tag pages of programs given up: %d: their daemon is gone", d.lapsed))
	d.lapsed, d.warned = 0, time.Now()
}

// Quiesce implements [device.Device].
func (d *Device) Quiesce() { d.setQuiet(true) }

// Resume implements [device.Device].
func (d *Device) Resume() { d.setQuiet(false) }

func (d *Device) setQuiet(v bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = v
}

// Close implements [device.Device]. The RAM stays mapped until the machine is closed, because the
// port still answers questions about its tasks.
func (d *Device) Close() {
	d.Quiesce()
	close(d.done)
	d.counter.Wait()
}

// Save implements [device.Device].
func (d *Device) Save() []byte { return append(d.Function.Save(), d.tags.Port.SaveDevice()...) }

// Fingerprint implements [device.Device].
func (d *Device) Fingerprint() []byte {
	return append(d.Function.Save(), d.tags.Port.FingerprintDevice()...)
}

// Load implements [device.Device].
func (d *Device) Load(_ uint16, data []byte) error {
	own := d.SaveBytes()
	if len(data) < own {
		return fmt.Errorf("state of device %q: %d bytes", name, len(data))
	}
	if err := d.Function.Load(data[:own]); err != nil {
		return fmt.Errorf("state of device %q: %w", name, err)
	}
	if err := d.tags.Port.LoadDevice(data[own:]); err != nil {
		return fmt.Errorf("state of device %q: %w", name, err)
	}
	return nil
}
