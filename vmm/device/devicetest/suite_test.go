package devicetest

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
	"taskguide/vmm/state"
)

// latch is a device that stores the last byte written to it.
type latch struct {
	breaks
	board device.Board
	mu    sync.Mutex
	last  byte
	end   uint64 // of the accesses
}

// breaks are ways in which a latch breaks the contract.
type breaks struct {
	atAttach, atSave, atLoad func(device.Board)

	forgets bool // what it loads
	blind   bool // its fingerprint is empty
}

const latchBytes = 4096

func (l *latch) Kind() state.Kind { return state.Kind{Name: "latch", Version: 1} }

func (l *latch) Attach(b device.Board) []device.Window {
	l.board = b
	l.broken(l.atAttach)
	return []device.Window{{Space: device.MMIO, Size: latchBytes, Access: l.access}}
}

func (l *latch) access(a device.Access) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = max(l.end, a.Offset+uint64(a.Size))
	for i := range a.Data {
		if a.Write {
			l.last = a.Data[i]
		} else {
			a.Data[i] = l.last
		}
	}
}

func (l *latch) broken(f func(device.Board)) {
	if f != nil {
		f(l.board)
	}
}

func (l *latch) Quiesce() {}
func (l *latch) Resume()  {}
func (l *latch) Close()   {}

func (l *latch) Save() []byte {
	l.broken(l.atSave)
	return []byte{l.last}
}

func (l *latch) Load(_ uint16, data []byte) error {
	l.broken(l.atLoad)
	if len(data) != 1 {
		return state.ErrInvalid
	}
	if !l.forgets {
		l.last = data[0]
	}
	return nil
}

func (l *latch) Fingerprint() []byte {
	if l.blind {
		return nil
	}
	return []byte{l.last}
}

// TestSuiteHoldsToEachPromise: a device that breaks one promise fails the check of that one.
func TestSuiteHoldsToEachPromise(t *testing.T) {
	write := func(b device.Board) { b.RAM().Write(1<<20, []byte{1}) }
	drive := func(b device.Board) { b.SetIRQ(5, true) }
	for name, c := range map[string]struct {
		broken breaks
		want   []string
	}{
		"nothing":           {breaks{}, nil},
		"writes, attached":  {breaks{atAttach: write}, []string{"begins quiesced"}},
		"drives, attached":  {breaks{atAttach: drive}, []string{"begins quiesced", "state moves"}},
		"writes, saved":     {breaks{atSave: write}, []string{"state moves"}},
		"drives, saved":     {breaks{atSave: drive}, []string{"state moves"}},
		"writes, loaded":    {breaks{atLoad: write}, []string{"state moves"}},
		"drives, loaded":    {breaks{atLoad: drive}, []string{"state moves"}},
		"forgets":           {breaks{forgets: true}, []string{"state moves"}},
		"hides what it has": {breaks{blind: true}, []string{"state moves"}},
	} {
		t.Run(name, func(t *testing.T) {
			broken := func() device.Device { return &latch{breaks: c.broken} }
			require.Equal(t, c.want, Failures(Suite{New: broken}))
		})
	}
}

// TestEveryAccess: accesses reach beyond a window's end, as a guest's do.
func TestEveryAccess(t *testing.T) {
	l := &latch{}
	m, err := NewBoard(l)
	require.NoError(t, err)
	defer m.Close()
	everyAccess(m)
	require.EqualValues(t, latchBytes-1+8, l.end)
}
