package device

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"taskguide/vmm/state"
)

// Set is the devices of one machine. Several threads at once may call Access, and any thread Hurry.
// The machine calls the other methods one at a time.
type Set struct {
	// Serial, Tags and ACPI are the devices that others than the guest use. ACPI is nil in a
	// machine that came from a program without it.
	Serial *Serial
	Tags   *Tags
	ACPI   *ACPI

	devices  []Device
	buses    [2][]Window // by Space; fixed once attached
	quiet    bool
	draining bool // some devices take no new requests; not quiet yet
}

// All returns the devices in their order.
func (s *Set) All() iter.Seq[Device] { return slices.Values(s.devices) }

// Catalog returns the sections that the devices' state has and that they read.
func (s *Set) Catalog() state.Catalog {
	var c state.Catalog
	for _, d := range s.devices {
		if k := d.Kind(); k.Version != 0 {
			c = append(c, k)
		}
	}
	return c
}

// Drop takes a device out of a machine that is to be made without it.
func (s *Set) Drop(name string) {
	s.devices = slices.DeleteFunc(s.devices, func(d Device) bool { return d.Kind().Name == name })
}

// Keep drops the devices that a machine from elsewhere does not have, so that its guest sees no new
// ones: those with state that is neither in every machine nor announced.
func (s *Set) Keep(announced []state.Kind) {
	has := append(Base(), announced...)
	kept := make([]Device, 0, len(s.devices))
	for _, d := range s.devices {
		if k := d.Kind(); k.Version == 0 || has.Has(k.Name) {
			kept = append(kept, d)
		}
	}
	s.devices = kept
	if !slices.Contains(kept, Device(s.ACPI)) {
		s.ACPI = nil
	}
}

// Attach puts the devices into a machine, quiesced. It refuses bad or duplicate names, and
// addresses that are already taken.
func (s *Set) Attach(h Board) error {
	if err := s.checkNames(); err != nil {
		return err
	}
	s.quiet = true
	for i, d := range s.devices {
		for _, w := range d.Attach(h) {
			if err := s.Plug(w); err != nil {
				s.close(s.devices[:i+1])
				return fmt.Errorf("device %q: %w", d.Kind().Name, err)
			}
		}
	}
	return nil
}

func (s *Set) checkNames() error {
	seen := make(map[string]bool)
	for _, d := range s.devices {
		k := d.Kind()
		if seen[k.Name] {
			return fmt.Errorf("two devices are called %q", k.Name)
		}
		seen[k.Name] = true
		if k.Version == 0 && !slices.Contains(stateless, k.Name) {
			return fmt.Errorf("device %q has version 0: it would be missing after a move",
				k.Name)
		}
		k.Version = max(k.Version, 1)
		if err := k.Check(); err != nil {
			return fmt.Errorf("device: %w", err)
		}
	}
	return nil
}

// Add adds devices, which come after all others. The machine is not attached yet.
func (s *Set) Add(more ...Device) { s.devices = append(s.devices, more...) }

// Plug adds a window. It refuses one whose addresses are taken. No vCPU runs.
func (s *Set) Plug(w Window) error {
	bus := &s.buses[w.Space]
	for _, o := range *bus {
		if w.Start < o.Start+o.Size && o.Start < w.Start+w.Size {
			return fmt.Errorf("its addresses from %#x on are another device's", w.Start)
		}
	}
	*bus = append(*bus, w)
	return nil
}

// Access passes an access to the device in whose window it begins. Without one, reads return all
// ones.
func (s *Set) Access(space Space, addr uint64, size int, data []byte, write bool) {
	a := Access{Size: size, Data: data, Write: write}
	for i := range s.buses[space] {
		w := &s.buses[space][i]
		if addr >= w.Start && addr-w.Start < w.Size {
			a.Offset = addr - w.Start
			w.Access(a)
			return
		}
	}
	a.Ignore()
}

// Hurry makes all devices let their waiting vCPUs go on, see [Waiter].
func (s *Set) Hurry() {
	for _, d := range s.devices {
		if w, ok := d.(Waiter); ok {
			w.Hurry()
		}
	}
}

// Stay makes all devices take back what they gave away, see [Stayer].
func (s *Set) Stay() {
	for _, d := range s.devices {
		if k, ok := d.(Stayer); ok {
			k.Stay()
		}
	}
}

// Drain drains all devices that may have to wait for the host, see [Drainer]. It returns at once,
// with what to wait for. vCPUs may run. Quiesced devices have nothing to do.
func (s *Set) Drain() []<-chan struct{} {
	if s.quiet {
		return nil
	}
	s.draining = true
	var idle []<-chan struct{}
	for _, d := range s.devices {
		if r, ok := d.(Drainer); ok {
			idle = append(idle, r.Drain())
		}
	}
	return idle
}

// Busy names what the devices still wait for, in words for people. Any thread may call it.
func (s *Set) Busy() string {
	var busy []string
	for _, d := range s.devices {
		if r, ok := d.(Drainer); ok {
			if b := r.Busy(); b != "" {
				busy = append(busy, b)
			}
		}
	}
	return strings.Join(busy, ", ")
}

// Quiet tells whether the devices are quiesced.
func (s *Set) Quiet() bool { return s.quiet }

// Quiesce quiesces the devices, unless they are already quiesced. They must be drained. No vCPU
// runs.
func (s *Set) Quiesce() {
	if s.quiet {
		return
	}
	for i := len(s.devices) - 1; i >= 0; i-- {
		s.devices[i].Quiesce()
	}
	s.quiet, s.draining = true, false
}

// Resume lets the devices work, unless they already do. No vCPU runs yet, unless the devices were
// only drained.
func (s *Set) Resume() {
	for _, d := range s.devices {
		if _, drains := d.(Drainer); s.quiet || s.draining && drains {
			d.Resume()
		}
	}
	s.quiet, s.draining = false, false
}

// Close ends the devices. Those that still wait for the host after patience are ended in the
// background once the host answers. The channel is closed once all devices are ended: until then
// RAM must stay. No vCPU runs.
func (s *Set) Close(patience time.Duration) (ended <-chan struct{}) {
	idle := s.Drain()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for _, c := range idle {
		select {
		case <-c:
		case <-timeout.C:
			timeout.Reset(0) // the others have no more time
		}
	}
	var late []Device
	var together sync.WaitGroup // a disk may wait for its host, and the others need not wait for it
	for _, d := range slices.Backward(s.devices) {
		r, drains := d.(Drainer)
		switch {
		case !drains:
			d.Close()
		case r.Busy() != "":
			late = append(late, d)
		default:
			together.Go(d.Close)
		}
	}
	together.Wait()
	done := make(chan struct{})
	if len(late) == 0 {
		// Not in the background: the caller tells by the channel whether something is late.
		close(done)
		return done
	}
	var closing sync.WaitGroup
	for _, d := range late {
		closing.Go(d.Close)
	}
	go func() {
		closing.Wait()
		close(done)
	}()
	return done
}

func (s *Set) close(devices []Device) {
	for i := len(devices) - 1; i >= 0; i-- {
		devices[i].Close()
	}
}

// Save returns the state of the quiesced devices.
func (s *Set) Save() []state.Section { return s.sections(Device.Save) }

// Fingerprint returns what the guest can see of that state, for the devices that a destination must
// have.
func (s *Set) Fingerprint() []state.Section {
	var mandatory []state.Section
	for _, f := range s.sections(Device.Fingerprint) {
		if !f.Optional {
			f.Version = 1 // all versions are equal, see Device.Fingerprint
			mandatory = append(mandatory, f)
		}
	}
	return mandatory
}

func (s *Set) sections(data func(Device) []byte) []state.Section {
	var sections []state.Section
	for _, d := range s.devices {
		if k := d.Kind(); k.Version != 0 {
			sections = append(sections, state.Section{
				Name: k.Name, VCPU: state.Machine,
				Version: k.Version, Optional: k.Optional, Data: data(d),
			})
		}
	}
	return sections
}

// Load loads what Save returned into the quiesced devices. A device whose optional section is
// missing stays as it is.
func (s *Set) Load(sections []state.Section) error {
	for _, d := range s.devices {
		for i := range sections {
			if sections[i].Name != d.Kind().Name {
				continue
			}
			if err := d.Load(sections[i].Version, sections[i].Data); err != nil {
				return err
			}
		}
	}
	return nil
}
