package devicetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"taskguide/vmm/device"
	"taskguide/vmm/state"
)

// Suite is a device to be tested.
type Suite struct {
	// New makes a fresh device.
	New func() device.Device
	// Work makes a resumed device do its work, by accessing registers as a guest does. nil stands
	// for accesses of all kinds.
	Work func(m *Board)
	// Outside, unless nil, does to the device what others than the guest do: input, or an
	// operator's questions. It is called at any time, even while the device is quiesced.
	Outside func(m *Board)
}

// Run tests a device.
func Run(t *testing.T, s Suite) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.run(s); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Failures returns the names of the checks that a device does not pass. It is for devices that are
// broken on purpose.
func Failures(s Suite) []string {
	var failed []string
	for _, c := range checks {
		if c.run(s) != nil {
			failed = append(failed, c.name)
		}
	}
	return failed
}

// checks are the promises of [device.Device].
var checks = []struct {
	name string
	run  func(Suite) error
}{
	{"names and addresses", Suite.checkNames},
	{"begins quiesced", Suite.checkBeginning},
	{"quiesced does nothing", Suite.checkQuiesce},
	{"drained begins nothing", Suite.checkDrain},
	{"writes mark themselves", Suite.checkMarks},
	{"state moves", Suite.checkState},
	{"state of others is judged", Suite.checkForeignState},
	{"any access", Suite.checkAccesses},
	{"closed does nothing", Suite.checkClose},
}

const (
	rounds = 5
	// observed is how long a device that must do nothing is watched.
	observed = 5 * time.Millisecond
)

// with runs f on a board with a fresh device.
func (s Suite) with(f func(m *Board) error) error {
	m, err := NewBoard(s.New())
	if err != nil {
		return err
	}
	defer m.Close()
	return f(m)
}

func (s Suite) work(m *Board) {
	if s.Work != nil {
		s.Work(m)
	} else {
		everyAccess(m)
	}
	s.outside(m)
}

func (s Suite) outside(m *Board) {
	if s.Outside != nil {
		s.Outside(m)
	}
}

// watch returns an error if a device that must do nothing does something, whatever comes from
// outside.
func (s Suite) watch(m *Board) error {
	before := m.look()
	s.outside(m)
	time.Sleep(observed)
	return m.look().changed(before)
}

func (s Suite) checkNames() error {
	return s.with(func(m *Board) error {
		k := m.Device.Kind()
		k.Version = max(k.Version, 1)
		if err := k.Check(); err != nil {
			return err
		}
		for _, w := range m.Windows {
			if w.Size == 0 || w.Start+w.Size < w.Start || w.Access == nil || w.Space > device.MMIO {
				return fmt.Errorf("window of %d bytes at %#x", w.Size, w.Start)
			}
		}
		return nil
	})
}

func (s Suite) checkBeginning() error {
	return s.with(func(m *Board) error {
		if err := m.look().changed(look{fingerprint: m.Device.Fingerprint()}); err != nil {
			return fmt.Errorf("as it was attached: %w", err)
		}
		return s.watch(m)
	})
}

// checkQuiesce checks that nothing happens in a pause, and that the device goes on after it.
func (s Suite) checkQuiesce() error {
	return s.with(func(m *Board) error {
		for range rounds {
			m.Device.Resume()
			s.work(m)
			m.Device.Quiesce()
			if err := s.watch(m); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkDrain drains a device that can be drained. Then it is as quiet as a quiesced one, and goes
// on when that is undone.
func (s Suite) checkDrain() error {
	return s.with(func(m *Board) error {
		r, ok := m.Device.(device.Drainer)
		if !ok {
			return nil
		}
		for range rounds {
			m.Device.Resume()
			s.work(m)
			<-r.Drain()
			if r.Busy() != "" {
				return errors.New("it is idle and busy at the same time")
			}
			if err := s.watch(m); err != nil {
				return err
			}
		}
		m.Device.Quiesce()
		return nil
	})
}

func (s Suite) checkMarks() error {
	return s.with(func(m *Board) error {
		for range rounds {
			m.Device.Resume()
			s.work(m)
			m.Device.Quiesce()
			if l := m.look(); len(l.unmarked) > 0 {
				return fmt.Errorf("it wrote to page %d and did not mark it", l.unmarked[0])
			}
		}
		return nil
	})
}

// checkState moves the device's state into fresh devices. They must look equal to the guest, and
// the device itself must go on as if nothing had happened.
func (s Suite) checkState() error {
	return s.with(func(m *Board) error {
		k := m.Device.Kind()
		if k.Version == 0 {
			return nil
		}
		for range rounds {
			m.Device.Resume()
			s.work(m)
			m.Device.Quiesce()
			if err := s.move(m, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// move loads the device's state into a fresh device, and makes that work.
func (s Suite) move(m *Board, k state.Kind) error {
	before := m.look()
	want, saved := m.Device.Fingerprint(), m.Device.Save()
	if err := m.look().changed(before); err != nil {
		return fmt.Errorf("as it was saved: %w", err)
	}
	switch {
	case len(saved) > state.MaxData:
		return fmt.Errorf("its state has %d bytes, want at most %d", len(saved), state.MaxData)
	case len(saved) > 0 && len(want) == 0 && !k.Optional:
		return errors.New("it has state that the guest relies on, and no fingerprint of it")
	}
	return s.with(func(to *Board) error {
		copy(to.ram.Bytes(), m.ram.Bytes())
		to.look()
		if err := to.Device.Load(k.Version, saved); err != nil {
			return fmt.Errorf("its own state: %w", err)
		}
		if got := to.Device.Fingerprint(); !bytes.Equal(want, got) {
			return fmt.Errorf("fingerprint %x, after a move %x", want, got)
		}
		if to.irqs.Load() != 0 {
			return errors.New("it raised an interrupt as it was loaded")
		}
		if l := to.look(); len(l.written)+l.marked > 0 {
			return errors.New("it wrote to RAM as it was loaded")
		}
		if err := s.watch(to); err != nil {
			return fmt.Errorf("after it was loaded: %w", err)
		}
		to.Device.Resume()
		s.work(to)
		to.Device.Quiesce()
		return nil
	})
}

// checkForeignState checks that damaged state is refused or makes a device that works, without a
// panic.
func (s Suite) checkForeignState() error {
	return s.with(func(m *Board) error {
		k := m.Device.Kind()
		if k.Version == 0 {
			return nil
		}
		m.Device.Resume()
		s.work(m)
		m.Device.Quiesce()
		saved := m.Device.Save()
		step := max(1, len(saved)/16)
		for at := 0; at < len(saved); at += step {
			damaged := bytes.Clone(saved)
			damaged[at] ^= 0xff
			for _, data := range [][]byte{saved[:at], damaged} {
				if err := s.loadForeign(k, data); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (s Suite) loadForeign(k state.Kind, data []byte) error {
	return s.with(func(m *Board) error {
		if m.Device.Load(k.Version, data) != nil {
			return nil
		}
		// A device that accepted a state can save it.
		return s.with(func(to *Board) error {
			if err := to.Device.Load(k.Version, m.Device.Save()); err != nil {
				return fmt.Errorf("it accepted a state and returned one that it refuses: %w", err)
			}
			return nil
		})
	})
}

func (s Suite) checkAccesses() error {
	return s.with(func(m *Board) error {
		m.Device.Resume()
		var vcpus sync.WaitGroup
		for range 2 {
			vcpus.Go(func() { everyAccess(m) })
		}
		vcpus.Wait()
		m.Device.Quiesce()
		return s.watch(m)
	})
}

// everyAccess accesses each window at its beginning, at its end and in between, in all sizes, as
// plain and as string instructions.
func everyAccess(m *Board) {
	for i, w := range m.Windows {
		for offset := uint64(0); offset < w.Size; offset += max(1, w.Size/64) {
			for _, size := range []int{1, 2, 4, 8} {
				accessAt(m, i, offset, size)
			}
		}
		for _, size := range []int{1, 2, 4, 8} {
			accessAt(m, i, w.Size-1, size)
		}
	}
}

func accessAt(m *Board, window int, offset uint64, size int) {
	for _, count := range []int{0, 1, 3} {
		for v := range byte(3) {
			data := bytes.Repeat([]byte{v}, size*count)
			a := device.Access{Offset: offset, Size: size, Data: data, Write: true}
			m.Access(window, a)
			a.Write = false
			m.Access(window, a)
		}
	}
}

func (s Suite) checkClose() error {
	// Close of a device that never worked.
	if err := s.with(func(*Board) error { return nil }); err != nil {
		return err
	}
	return s.with(func(m *Board) error {
		m.Device.Resume()
		s.work(m)
		m.closeDevice()
		return s.watch(m)
	})
}
