package trial

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/peer/qemu"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
)

// stalled is a heartbeat that tells of pauses.
func stalled(task, second int, writes uint64, stalls string) heartbeat.Beat {
	b := beat(task, second, writes, 0)
	b.Fields["stalls"] = stalls
	return b
}

// TestFelt: pauses count for the part of a trial in whose seconds they were, over all tasks. The
// first heartbeat tells of a time that nobody knows.
func TestFelt(t *testing.T) {
	var beats []heartbeat.Beat
	for second, stalls := range []string{
		"1:999", "4:2", "4:1,8:1", // before the request
		"1024:3", "2048:1", // at the source, and the first at the destination
		"16:1", "-",
	} {
		for task := range 2 {
			beats = append(beats, stalled(task, second+1, uint64(1000*second), stalls))
		}
	}
	r := Result{Spec: Spec{Guest: Guest{CPUs: 2}}}
	r.readBeats(beats, span{asked: 6, moved: 8})
	require.Equal(t, &Felt{
		Before: FeltSpan{4, heartbeat.Stalls{4: 6, 8: 2}},
		Around: FeltSpan{4, heartbeat.Stalls{1024: 6, 2048: 2}},
		After:  FeltSpan{4, heartbeat.Stalls{16: 2}},
	}, r.Felt)
	require.Equal(t, 2.0, r.Felt.Around.PerSecond(time.Millisecond))
	require.Equal(t, 0.5, r.Felt.Around.PerSecond(3*time.Millisecond))
	require.Zero(t, FeltSpan{}.PerSecond(0))

	r = Result{Spec: Spec{QEMU: &qemu.Migration{}}}
	r.readBeats(beats, span{asked: 6, moved: 8})
	require.Nil(t, r.Felt, "its clock stands still for the downtime")
	r = Result{}
	r.readBeats([]heartbeat.Beat{beat(0, 1, 1, 0), beat(0, 2, 2, 0)}, span{asked: 1, moved: 1})
	require.Nil(t, r.Felt, "an older guest does not count")
}

// TestClockStood: a gap that is shorter than QEMU's downtime is by a clock that stood still, and
// then nothing counts that the guest says of its move.
func TestClockStood(t *testing.T) {
	of := func(gap float64) Result {
		r := Result{
			Spec:    Spec{QEMU: &qemu.Migration{}, Guest: Guest{Busy: time.Second}},
			Report:  migration.Report{DowntimeMS: 290, TotalMS: 1000},
			Latency: &Latency{},
		}
		pause := time.Duration(gap * float64(time.Millisecond))
		r.readBeats([]heartbeat.Beat{
			beat(0, 1, 10, 0), beat(0, 2, 20, time.Millisecond), beat(0, 3, 25, pause),
		}, span{asked: 2, moved: 2})
		return r
	}
	for gap, stood := range map[float64]bool{3: true, 288: true, 289.5: false, 297: false} {
		r := of(gap)
		require.Equal(t, stood, r.ClockStood(), gap)
		require.InDelta(t, gap, r.GapMS, 1e-9)
		require.InDelta(t, 1, r.GapBeforeMS, 1e-9)
	}
	r := of(3)
	r.ForgetClock()
	require.True(t, r.ClockStood())
	require.Equal(t, []float64{Unknown, Unknown, Unknown},
		[]float64{r.GapMS, r.GapBeforeMS, r.Work.Brownout})
	require.Nil(t, r.Latency)
	require.InDelta(t, 10, r.Work.BeforePerS, 1e-9, "the clock went on then")
	ours := of(3)
	ours.Spec.QEMU = nil
	require.False(t, ours.ClockStood(), "what is shorter is the guest's, not its clock's")
}

// TestSlow: a second is one of a brownout if less than 90 % of the work before was done in it.
func TestSlow(t *testing.T) {
	phased := Guest{Busy: time.Second, Cool: time.Second}
	for name, test := range map[string]struct {
		around, after []uint64 // work of each second; before the request it is about 100
		guest         Guest
		want          *Slow
	}{
		"never":          {[]uint64{100, 90}, []uint64{100, 100, 100}, Guest{}, &Slow{0, 0, true}},
		"until it moved": {[]uint64{50, 89}, []uint64{100, 95, 99}, Guest{}, &Slow{2000, 0, true}},
		"a second more":  {[]uint64{50, 89}, []uint64{80, 99}, Guest{}, &Slow{3000, 1000, true}},
		"and one later": {
			[]uint64{99, 89}, []uint64{80, 99, 80}, Guest{}, &Slow{3000, 3000, false},
		},
		"for ever": {[]uint64{50, 89}, []uint64{80, 80}, Guest{}, &Slow{4000, 2000, false}},
		"phases":   {[]uint64{50, 89}, []uint64{80, 80}, phased, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var beats []heartbeat.Beat
			sum := uint64(0)
			work := append([]uint64{0, 99, 101}, append(test.around, test.after...)...)
			for second, n := range work {
				sum += n
				beats = append(beats, beat(0, second+1, sum, 0))
			}
			r := Result{Spec: Spec{Guest: test.guest, BeatsBefore: 2}}
			r.readBeats(beats, span{asked: 3, moved: 4})
			require.Equal(t, test.want, r.Slow)
		})
	}
}

// TestHeard: the pauses between dots, with the switch among those around the migration.
func TestHeard(t *testing.T) {
	begin := time.Now()
	at := func(all ...int) (times []time.Time) {
		for _, ms := range all {
			times = append(times, begin.Add(time.Duration(ms)*time.Millisecond))
		}
		return times
	}
	r := Result{Spec: Spec{Guest: Guest{Dots: time.Millisecond}}}
	r.readHeard(at(0, 2, 4, 8), at(40, 42, 43), begin.Add(3*time.Millisecond))
	require.Equal(t, &Felt{
		Before: FeltSpan{0.004, heartbeat.Stalls{1024: 2}},
		Around: FeltSpan{0.036, heartbeat.Stalls{2048: 1, 16384: 1}},
		After:  FeltSpan{0.003, heartbeat.Stalls{1024: 1, 512: 1}},
	}, r.Heard)
	for _, requested := range []int{-5, 50} { // before or after all that was heard
		r.readHeard(at(0, 2, 4, 8), at(40, 42), at(requested)[0])
		require.EqualValues(t, 1, r.Heard.Around.Stalls.AtLeast(16*time.Millisecond))
	}
	r = Result{}
	r.readHeard(at(0, 2, 4, 8), at(40, 42), begin)
	require.Nil(t, r.Heard, "the guest prints no dots")
	r.Spec.Guest.Dots = time.Millisecond
	r.readHeard(at(0), at(40, 42), begin)
	require.Nil(t, r.Heard)
}
