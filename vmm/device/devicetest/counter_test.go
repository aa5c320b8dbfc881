package devicetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/device"
)

func counterSuite(fault Fault) Suite {
	s := Suite{
		New:  func() device.Device { return NewCounter(fault) },
		Work: func(m *Board) { awaitCount(m, time.Minute) },
	}
	if fault == WritesOn {
		// However busy the host is, it gets to write while it must not. Before its first Resume,
		// it does not even want to.
		s.Outside = func(m *Board) { awaitCount(m, 50*time.Millisecond) }
	}
	return s
}

// awaitCount waits until a counter has counted on.
func awaitCount(m *Board, atMost time.Duration) {
	c := m.Device.(*Counter)
	begin, from := time.Now(), c.Count()
	for c.Count() == from && time.Since(begin) < atMost {
		time.Sleep(time.Millisecond)
	}
}

func TestCounter(t *testing.T) { Run(t, counterSuite(NoFault)) }

// TestSuiteFindsFaults: a device that breaks its contract does not pass.
func TestSuiteFindsFaults(t *testing.T) {
	require.Empty(t, Failures(counterSuite(NoFault)))
	require.Contains(t, Failures(counterSuite(WritesOn)), "quiesced does nothing")
	require.Equal(t, []string{"writes mark themselves"}, Failures(counterSuite(Unmarked)))
}

// TestCounterCheck: the check of the numbers finds one that is missing.
func TestCounterCheck(t *testing.T) {
	c := NewCounter(NoFault)
	m, err := NewBoard(c)
	require.NoError(t, err)
	defer m.Close()
	c.Resume()
	counted := func() bool { return c.Count() > 3*CounterPages }
	require.Eventually(t, counted, time.Minute, time.Millisecond)
	c.Quiesce()
	require.NoError(t, c.Check())
	page, ok := m.ram.PageOf(CounterGPA + 7*4096)
	require.True(t, ok)
	m.ram.Page(page)[0]--
	require.ErrorContains(t, c.Check(), "is lost")
}
