package device_test

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/state"
)

// TestStandardDevicesKeepTheContract: each device passes the suite.
func TestStandardDevicesKeepTheContract(t *testing.T) {
	for name, s := range map[string]devicetest.Suite{
		"serial": {
			New: func() device.Device { return device.NewSerial(device.Console{}) },
			Work: func(m *devicetest.Board) {
				// Enables its interrupts.
				m.Access(0, device.Access{Offset: 1, Size: 1, Data: []byte{3}, Write: true})
				m.Access(0, device.Access{Offset: 0, Size: 1, Data: []byte("out"), Write: true})
				m.Access(0, device.Access{Offset: 0, Size: 1, Data: make([]byte, 3)})
			},
			Outside: func(m *devicetest.Board) { m.Device.(*device.Serial).Input([]byte("in")) },
		},
		"tags": {
			New: func() device.Device { return &device.Tags{} }, Work: useTags, Outside: migrate,
		},
		"exit":  {New: func() device.Device { return &device.Exit{} }},
		"i8042": {New: func() device.Device { return &device.I8042{} }},
		"cmos":  {New: func() device.Device { return &device.CMOS{} }},
		"acpi": {
			New:     func() device.Device { return &device.ACPI{} },
			Outside: func(m *devicetest.Board) { m.Device.(*device.ACPI).Press() },
		},
	} {
		t.Run(name, func(t *testing.T) { devicetest.Run(t, s) })
	}
}

// useTags makes a tag page, which the port writes to when a migration comes and goes.
func useTags(m *devicetest.Board) {
	const gpa = 2 << 20
	write := func(register uint64, v uint32) {
		data := binary.LittleEndian.AppendUint32(nil, v)
		m.Access(1, device.Access{Offset: register, Size: 4, Data: data, Write: true})
	}
	m.RAM().StoreUint32(gpa, tagging.PageMagic)
	m.RAM().StoreUint32(gpa+4, tagging.PageVersion)
	write(tagging.RegPageLo, gpa)
	write(tagging.RegPageHi, 0)
	write(tagging.RegRegister, 7)
	write(tagging.RegEnter, 7)
}

// migrate makes a migration come and go.
func migrate(m *devicetest.Board) {
	port := m.Device.(*device.Tags).Port
	port.Detach()
	port.Attach(tagging.All, idle{})
}

// idle is a listener.
type idle struct{}

func (idle) GateOpened()       {}
func (idle) GateClosing() bool { return false }
func (idle) GateClosed()       {}

// bare is a device of a name and an address, without more.
type bare struct {
	device.Stateless
	kind    state.Kind
	windows []device.Window
}

func (b bare) Kind() state.Kind                    { return b.kind }
func (b bare) Attach(device.Board) []device.Window { return b.windows }

// TestSetRefusesWhatIsTaken: no two devices have a name or an address in common.
func TestSetRefusesWhatIsTaken(t *testing.T) {
	ports := func(start, size uint64) []device.Window {
		return []device.Window{{
			Space: device.Ports, Start: start, Size: size, Access: device.Access.Ignore,
		}}
	}
	x := state.Kind{Name: "x", Version: 1}
	for _, c := range []struct {
		name string
		d    bare
		want string
	}{
		{"name taken", bare{kind: state.Kind{Name: "serial", Version: 1}}, `are called "serial"`},
		{"no name", bare{kind: state.Kind{Version: 1}}, "name \"\""},
		{"long name", bare{kind: state.Kind{Name: "ninebytes", Version: 1}}, "9 bytes"},
		{"no version", bare{kind: state.Kind{Name: "x"}}, `"x" has version 0`},
		{"bad versions", bare{kind: state.Kind{Name: "x", Version: 1, Oldest: 2}}, "2 to 1"},
		{"same address", bare{kind: x, windows: ports(0x3f8, 8)}, `device "x"`},
		{"overlap below", bare{kind: x, windows: ports(0x3f0, 9)}, "0x3f0"},
		{"overlap above", bare{kind: x, windows: ports(0x3ff, 9)}, "0x3ff"},
		{"between others", bare{kind: x, windows: ports(0x400, 9)}, ""},
		{"in the other space", bare{kind: x, windows: []device.Window{
			{Space: device.MMIO, Start: 0x3f8, Size: 8, Access: device.Access.Ignore},
		}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := devicetest.NewBoard(&device.CMOS{})
			require.NoError(t, err)
			defer m.Close()
			s := device.New(device.Console{}, c.d)
			err = s.Attach(m)
			if c.want == "" {
				require.NoError(t, err)
				s.Close(time.Minute)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestSetKeepsWhatTheMachineHas: a machine from elsewhere gets no device that its guest has not
// seen.
func TestSetKeepsWhatTheMachineHas(t *testing.T) {
	names := func(c state.Catalog) (names []string) {
		for _, k := range c {
			names = append(names, k.Name)
		}
		return names
	}
	more := []device.Device{
		bare{kind: state.Kind{Name: "a", Version: 2}},
		bare{kind: state.Kind{Name: "b", Version: 1}},
	}
	s := device.New(device.Console{}, more...)
	require.Equal(t, []string{"serial", "tags", "acpi", "a", "b"}, names(s.Catalog()))
	s.Keep([]state.Kind{{Name: "b", Version: 1}})
	require.Equal(t, []string{"serial", "tags", "b"}, names(s.Catalog()))
	require.Nil(t, s.ACPI, "nobody presses a button that is not there")
	s.Keep(nil)
	require.Equal(t, []string{"serial", "tags"}, names(s.Catalog()))
}

// ordered records the calls of the set.
type ordered struct {
	bare
	calls *[]string
}

func (o ordered) note(call string) { *o.calls = append(*o.calls, call+" "+o.kind.Name) }

func (o ordered) Quiesce()                      { o.note("quiesce") }
func (o ordered) Resume()                       { o.note("resume") }
func (o ordered) Close()                        { o.note("close") }
func (o ordered) Load(v uint16, _ []byte) error { o.note("load"); return nil }

// TestOrder: devices are resumed in order and quiesced in reverse, once each.
func TestOrder(t *testing.T) {
	var calls []string
	s := device.New(device.Console{},
		ordered{bare{kind: state.Kind{Name: "a", Version: 1}}, &calls},
		ordered{bare{kind: state.Kind{Name: "b", Version: 1, Optional: true}}, &calls})
	m, err := devicetest.NewBoard(&device.CMOS{})
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, s.Attach(m))
	s.Quiesce() // as they begin
	sections := s.Save()
	require.Len(t, sections, 5)
	require.NoError(t, s.Load(sections))
	s.Resume()
	s.Resume()
	s.Quiesce()
	s.Quiesce()
	require.Len(t, s.Fingerprint(), 4, "a destination may lack an optional device")
	select {
	case <-s.Close(time.Minute):
	default:
		t.Fatal("with nothing to wait for, the end looks like that of a device that hangs")
	}
	require.Equal(t, []string{
		"load a", "load b", "resume a", "resume b", "quiesce b", "quiesce a", "close b", "close a",
	}, calls)
}

// TestNobodyAnswers: where there is no device, reads give all ones.
func TestNobodyAnswers(t *testing.T) {
	s := device.New(device.Console{})
	m, err := devicetest.NewBoard(&device.CMOS{})
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, s.Attach(m))
	defer s.Close(time.Minute)
	data := []byte{1, 2}
	s.Access(device.Ports, 0x80, 2, data, true)
	require.Equal(t, []byte{1, 2}, data)
	s.Access(device.MMIO, 0x80, 2, data, false)
	require.Equal(t, []byte{0xff, 0xff}, data)
	s.Access(device.Ports, 0x71, 2, data, false)
	require.Equal(t, []byte{0, 0}, data, "the CMOS clock's second port")
}

// grown is a device whose state has had several versions.
type grown struct {
	bare
	loaded *uint16
}

func (g grown) Load(v uint16, _ []byte) error { *g.loaded = v; return nil }

// TestOlderStateIsLoaded: a device is told which of its versions it is given.
func TestOlderStateIsLoaded(t *testing.T) {
	var loaded uint16
	kind := state.Kind{Name: "grown", Version: 3, Oldest: 2}
	s := device.New(device.Console{}, grown{bare{kind: kind}, &loaded})
	older := state.Section{Name: "grown", VCPU: state.Machine, Version: 2}
	read, err := s.Catalog().Admit(state.Kind{Name: older.Name, Version: older.Version})
	require.NoError(t, err)
	require.True(t, read)
	require.NoError(t, s.Load([]state.Section{older}))
	require.EqualValues(t, 2, loaded)
}

// storage is a device whose end waits for its host.
type storage struct {
	device.Device
	wait time.Duration
}

func (s storage) Drain() <-chan struct{} {
	idle := make(chan struct{})
	close(idle)
	return idle
}
func (s storage) Busy() string { return "" }
func (s storage) Close()       { time.Sleep(s.wait) }

// TestDevicesEndTogether: many devices that wait for a host that hangs wait at the same time.
func TestDevicesEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s device.Set
		for range 16 {
			s.Add(storage{wait: time.Second})
		}
		begin := time.Now()
		<-s.Close(5 * time.Second)
		require.Equal(t, time.Second, time.Since(begin))
	})
}
