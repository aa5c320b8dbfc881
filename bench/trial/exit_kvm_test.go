package trial

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration"
)

// BenchmarkExit is the latency of an exit while a migration runs at full speed. It measures the
// exits by which a guest prints by the guest's own clock, and the guest's console by an outside
// one.
func BenchmarkExit(b *testing.B) {
	guest := Guest{
		Program: "workload=phased ws=256M fill=random", Busy: time.Second, MemoryBytes: 512 << 20,
		CPUs: 1, Prefault: true, Dots: time.Millisecond,
	}
	var calm, exit, outside float64
	for range b.N {
		r := site.Run(b.Context(), Spec{
			ID: "exit", Guest: guest, Params: migration.Params{Guidance: migration.GuidanceOff},
		})
		require.Empty(b, r.Error)
		require.NotNil(b, r.Silences)
		calm, exit = calm+r.ExitBeforeMS, exit+r.ExitMS
		outside += r.Silences.RoundsMS
	}
	n := float64(b.N)
	b.ReportMetric(calm/n, "ms/longest-exit-before")
	b.ReportMetric(exit/n, "ms/longest-exit")
	b.ReportMetric(outside/n, "ms/longest-silence")
}
