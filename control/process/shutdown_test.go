package process

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/migration"
	"taskguide/vmm"
)

// PressPowerButton calls onPress, which says whether the guest noticed. nil: nobody listens.
func (m *fakeMachine) PressPowerButton() (bool, error) {
	if !m.Running() || m.onPress == nil {
		return false, nil
	}
	return m.onPress()
}

const testShutdown = deadline / 2

var bySIGTERM = bySignal(syscall.SIGTERM)

// TestAskedToShutDown: which guests are asked, and what ends the wait. Time is virtual.
func TestAskedToShutDown(t *testing.T) {
	order := func(o order, mode control.StopMode) func(b *rig) {
		return func(b *rig) { require.NoError(b.t, b.obey(o, mode)) }
	}
	for name, c := range map[string]struct {
		first  func(b *rig)
		then   func(b *rig) // a second later; nil: nothing
		listen func(b *rig) (bool, error)
		takes  time.Duration
		exit   vmm.ExitReason
		how    control.Ending
	}{
		"nobody listens": {
			first: order(byCommand, control.StopSafe),
			exit:  vmm.ExitStopped, how: control.EndStop,
		},
		"it cannot be asked": {
			first:  order(byCommand, control.StopSafe),
			listen: func(*rig) (bool, error) { return false, errors.New("on purpose") },
			exit:   vmm.ExitStopped, how: control.EndStop,
		},
		"it shuts down": {
			first: order(bySIGTERM, control.StopSafe),
			listen: func(b *rig) (bool, error) {
				time.AfterFunc(5*time.Second, func() {
					b.machine.end(vmm.Exit{Reason: vmm.ExitPowerOff})
				})
				return true, nil
			},
			takes: 5 * time.Second, exit: vmm.ExitPowerOff, how: control.EndSignal,
		},
		"it resets": {
			first: order(bySIGTERM, control.StopSafe),
			listen: func(b *rig) (bool, error) {
				time.AfterFunc(5*time.Second, func() {
					b.machine.end(vmm.Exit{Reason: vmm.ExitReset})
				})
				return true, nil
			},
			takes: 5 * time.Second, exit: vmm.ExitReset, how: control.EndSignal,
		},
		"it does nothing": {
			first: order(byCommand, control.StopSafe), listen: hears,
			takes: testShutdown, exit: vmm.ExitStopped, how: control.EndStop,
		},
		"now": {
			first: order(byCommand, control.StopNow), listen: hears,
			exit: vmm.ExitStopped, how: control.EndStop,
		},
		"by force": {
			first: order(byCommand, control.StopForced), listen: hears,
			exit: vmm.ExitStopped, how: control.EndStop,
		},
		"now, later": {
			first: order(byCommand, control.StopSafe), listen: hears,
			then:  order(byCommand, control.StopNow),
			takes: time.Second, exit: vmm.ExitStopped, how: control.EndStop,
		},
		"asked twice": {
			first: order(byCommand, control.StopSafe), listen: hears,
			then:  order(byCommand, control.StopSafe),
			takes: testShutdown, exit: vmm.ExitStopped, how: control.EndStop,
		},
		"a first signal after a command": {
			first: order(byCommand, control.StopSafe), listen: hears,
			then:  order(bySIGTERM, control.StopSafe),
			takes: testShutdown, exit: vmm.ExitStopped, how: control.EndStop,
		},
		"a second signal": {
			first: order(bySIGTERM, control.StopSafe), listen: hears,
			then:  order(bySIGTERM, control.StopSafe),
			takes: time.Second, exit: vmm.ExitStopped, how: control.EndSignal,
		},
		"a signal that ends at once": {
			first: order(bySIGTERM, control.StopSafe), listen: hears,
			then:  order(bySignal(syscall.SIGINT), urgency(syscall.SIGINT)),
			takes: time.Second, exit: vmm.ExitStopped, how: control.EndSignal,
		},
		"paused": {
			first: func(b *rig) {
				require.NoError(b.t, b.Pause())
				require.NoError(b.t, b.Stop(control.StopSafe))
			},
			listen: hears, exit: vmm.ExitStopped, how: control.EndStop,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newRig(t)
				b.shutdown = testShutdown
				if c.listen != nil {
					b.machine.onPress = func() (bool, error) { return c.listen(b) }
				}
				require.NoError(t, b.start(b.machine))
				go func() { b.ended <- b.live(b.machine) }()
				begin := time.Now()
				c.first(b)
				if c.then != nil {
					time.Sleep(time.Second)
					require.True(t, b.Info().Stopping)
					c.then(b)
				}
				e := b.end()
				require.Equal(t, c.takes, time.Since(begin))
				require.Equal(t, c.exit, e.exit.Reason)
				require.Equal(t, c.how, e.how)
			})
		})
	}
}

// hears is a guest that listens and does nothing.
func hears(*rig) (bool, error) { return true, nil }

// TestWithoutTimeNobodyIsAsked: with --shutdown-timeout 0.
func TestWithoutTimeNobodyIsAsked(t *testing.T) {
	b := running(t)
	b.machine.onPress = func() (bool, error) {
		t.Error("it was asked")
		return true, nil
	}
	require.NoError(t, b.Stop(control.StopSafe))
	require.Equal(t, vmm.ExitStopped, b.end().exit.Reason)
}

// TestAskedOnceAMigrationIsOver, because a guest cannot shut down while it is being moved.
func TestAskedOnceAMigrationIsOver(t *testing.T) {
	b := newRig(t)
	b.shutdown = testShutdown
	b.machine.onPress = func() (bool, error) {
		report, err := b.MigrationReport()
		require.NoError(t, err)
		require.Equal(t, migration.StatusCancelled, report.Status)
		b.machine.end(vmm.Exit{Reason: vmm.ExitPowerOff})
		return true, nil
	}
	require.NoError(t, b.start(b.machine))
	go func() { b.ended <- b.live(b.machine) }()
	b.migrate()
	require.NoError(t, b.Stop(control.StopSafe))
	require.Equal(t, vmm.ExitPowerOff, b.end().exit.Reason)
}

// TestReset: the guest starts again if the user wants that, and nobody asked for its end.
func TestReset(t *testing.T) {
	reset := vmm.Exit{Reason: vmm.ExitReset}
	begin := func(mode OnReset) *rig {
		b := newRig(t)
		b.onReset = mode
		require.NoError(t, b.start(b.machine))
		return b
	}
	b := begin(ResetReboots)
	b.migrate()
	b.machine.end(reset)
	require.Equal(t, ending{again: true}, b.live(b.machine))
	require.Equal(t, control.StateStarting, b.Info().State)
	require.Zero(t, b.Info().MemoryBytes, "there is no machine for a while")
	require.False(t, b.Info().Stopping)
	report, err := b.MigrationReport()
	require.NoError(t, err)
	require.ErrorContains(t, errors.New(report.Error), errGuestEnded.Error())
	next := newFakeMachine(t)
	require.NoError(t, b.start(next))
	require.Equal(t, control.StateRunning, b.Info().State)
	require.False(t, b.Info().DirtyLogging)
	require.NoError(t, b.Stop(control.StopSafe))
	require.Equal(t, control.EndStop, b.live(next).how)

	b = begin(ResetExits)
	b.machine.end(reset)
	require.Equal(t, control.EndReset, b.live(b.machine).how)

	for range 20 { // either may be seen first
		b = begin(ResetReboots)
		require.NoError(t, b.Stop(control.StopNow))
		b.machine.end(reset)
		e := b.live(b.machine)
		require.False(t, e.again)
		require.Equal(t, control.EndStop, e.how)
	}

	b = begin(ResetReboots)
	b.logging.Store(true) // as a migration leaves it whose machine has ended
	b.machine.end(reset)
	require.True(t, b.live(b.machine).again)
	require.NoError(t, b.start(newFakeMachine(t)))
	require.False(t, b.Info().DirtyLogging)

	b = begin(ResetReboots)
	b.machine.end(vmm.Exit{Reason: vmm.ExitPowerOff})
	require.Equal(t, control.EndPowerOff, b.live(b.machine).how)
}
