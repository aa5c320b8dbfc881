package simprogram

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/sim"
	"taskguide/migration/policy"
	"taskguide/migration/program"
)

// TestOpening: a program is told what the engine would tell it.
func TestOpening(t *testing.T) {
	l := leader{
		order: sim.Order{
			Guidance: policy.GuidanceSwitchover, Limit: 30 * time.Millisecond,
			MaxDefer: 4 * time.Second,
		},
		rate: 1e9,
	}
	want := program.Opening{
		Tasks: 2, Guidance: policy.GuidanceSwitchover, DowntimeLimitMS: 30, MaxDeferMS: 4000,
		PolicyLimitMS: 600000, BitsPerSecond: 1e9,
	}
	require.Equal(t, want, *l.opening(policy.Event{Tasks: 2}))
	want.Tasks, want.Guidance = 0, policy.GuidanceNone
	require.Equal(t, want, *l.opening(policy.Event{}), "nobody guides")
	l.order.Guidance, l.order.Limit = policy.GuidanceOff, 0
	want.Guidance, want.DowntimeLimitMS = policy.GuidanceOff, ms(policy.DefaultLimit)
	require.Equal(t, want, *l.opening(policy.Event{}))
}
