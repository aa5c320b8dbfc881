package migration

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// TestReportsTellAllStandstills: reports have all standstills, however the migration ended.
func TestReportsTellAllStandstills(t *testing.T) {
	t.Run("it could not be run there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.in.onRun = func() { time.Sleep(20 * time.Second) }
			b.in.failRun = errors.New("vCPU on fire")
			s := b.source(Params{})
			r := s.Run(context.Background())
			b.checkStays(s, r)
			require.GreaterOrEqual(t, r.DowntimeMS, 20_000.0)
			require.Len(t, r.Standstills, 1)
			require.Equal(t, r.DowntimeMS, r.Standstills[0].MS)
			require.Contains(t, r.Standstills[0].Ended, "did not run the guest")
			require.Equal(t, r.SwitchoverReason, r.Standstills[0].Why)
		})
	})
	t.Run("cancelled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.in.onLoad = func() { time.Sleep(time.Hour) }
			p := Params{StandstillLimit: NoStandstillLimit}
			s := b.source(p)
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(5*time.Second, func() { cancel(ErrCancelled) })
			r := s.Run(ctx)
			b.checkStays(s, r)
			require.Len(t, r.Standstills, 1)
			require.Equal(t, "cancelled", r.Standstills[0].Ended)
			st := r.Standstills[0]
			require.InDelta(t, 5000, st.AtMS+st.MS, 2, "it runs on at once")
		})
	})
	t.Run("nobody knows", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, busy(0, 5))
			defer b.close()
			b.m.start()
			b.dial = once(tamper(b, nil, func(typ transport.Type) action {
				return cutIf(typ == transport.TypeRunning)
			}))
			s := b.source(Params{})
			r := s.Run(context.Background())
			require.Equal(t, FateUnknown, s.Fate())
			require.Len(t, r.Standstills, 1)
			require.Contains(t, r.Standstills[0].Ended, "unknown")
			require.Equal(t, r.DowntimeMS, r.Standstills[0].MS)
			require.Positive(t, r.DowntimeMS)
			// The user ends the doubt later, and it is still one standstill.
			time.Sleep(time.Minute)
			require.NoError(t, s.Force(context.Background()))
			fate, err := s.Settle(context.Background())
			require.NoError(t, err)
			require.Equal(t, FateStays, fate)
			later := s.Report()
			require.Len(t, later.Standstills, 1)
			require.Greater(t, later.Standstills[0].MS, r.DowntimeMS+59_000)
			require.Contains(t, later.Standstills[0].Ended, "did not run the guest")
		})
	})
}
