package policy

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestQEMU: bandwidth is that of the last 100 ms of rounds, whatever the engine measured.
func TestQEMU(t *testing.T) {
	p := chosen(t, "qemu:limit=100ms")
	e := Event{
		Kind: KindRound, RAM: 4096, Completed: 3, BytesPerS: 1e12, WirePerS: 1e12,
		Rounds: []Round{
			{N: 1, MS: 1000, BytesWire: 1e9},    // too long ago
			{N: 2, MS: 60, BytesWire: 30 << 20}, // with round 3, 40 MiB in 100 ms
			{N: 3, MS: 40, BytesWire: 10 << 20}, // alone too short
		},
	}
	for pages, want := range map[int]Verb{0: Switchover, 10240: Switchover, 10241: Continue} {
		e.Remaining = pages
		require.Equal(t, want, p.Step(0, e).Verb, "%d pages", pages)
	}
	e.Remaining, e.Queued = 10240, pageSize // a page in the queue is pending, too
	require.Equal(t, Continue, p.Step(0, e).Verb)
	e.Queued, e.Rounds = 0, nil
	require.Equal(t, Continue, p.Step(0, e).Verb, "no bandwidth is known")
	e.Remaining = 0
	require.Equal(t, Switchover, p.Step(0, e).Verb)
}

// TestRampAsNova: the steps of Nova's own example: 3 GB, 400 ms, 10 steps, 30 s for each GB.
func TestRampAsNova(t *testing.T) {
	const pages = 3 << 30 / pageSize
	for s, ms := range map[int]int{
		0: 40, 89: 40, 90: 76, 180: 112, 270: 148, 449: 184, 450: 220, 720: 328, 899: 364,
		900: 400, 100000: 400,
	} {
		got := rampLimit(time.Duration(s)*time.Second, pages, 400*time.Millisecond, 10,
			30*time.Second)
		require.Equal(t, ms, int(got.Milliseconds()), "after %d s", s)
	}
	require.Equal(t, time.Second, rampLimit(0, pages, time.Second, 3, 0), "no delay, no ramp")
	const longest = time.Duration(math.MaxInt64)
	require.Equal(t, longest, rampLimit(0, pages, longest, 3, 0))
	require.Positive(t, rampLimit(0, pages, longest, 1, time.Second))
	p := chosen(t, "ramp:limit=400ms,delay=30s")
	e := Event{Kind: KindRound, RAM: pages, Remaining: 1000, BytesPerS: 1000 * pageSize / 0.25}
	require.Equal(t, Continue, p.Step(539*time.Second, e).Verb, "250 ms do not fit 220")
	require.Equal(t, Switchover, p.Step(540*time.Second, e).Verb, "they fit 256")
	_, err := Parse("ramp:steps=0")
	require.ErrorContains(t, err, "want a whole number from 1")
}

// stalling is a migration whose rounds, each of a second, leave so many pages. The bandwidth is a
// page a ms.
func stalling(lefts ...int) Event {
	e := Event{Kind: KindRound, RAM: 1 << 20, BytesPerS: 1000 * pageSize}
	dirty := 100000
	for i, n := range lefts {
		e.Rounds = append(e.Rounds, Round{N: i + 1, MS: 1000, DirtyPages: int64(dirty)})
		dirty = n
	}
	e.Completed, e.Remaining = len(lefts), dirty
	return e
}

// TestStall: it is content with a local minimum once what is left shrinks no more.
func TestStall(t *testing.T) {
	p := chosen(t, "stall:limit=1s,window=3s")
	ask := func(lefts ...int) Action { return p.Step(0, stalling(lefts...)) }
	is := func(want Verb, gaveUp bool, lefts ...int) {
		t.Helper()
		a := ask(lefts...)
		require.Equal(t, want, a.Verb, "%v: %s", lefts, a.Reason)
		require.Equal(t, gaveUp, a.GaveUp)
	}
	is(Switchover, false, 9000, 5000, 1000) // as downtime
	is(Continue, false, 9000, 5000, 3000, 2000, 1500, 1400, 1300, 1200, 1100)
	// Round 5 shows a plateau: for 3 s nothing has left clearly less than 1300. Round 6 knows.
	is(Continue, false, 9000, 1300, 1400, 1500, 1300)
	is(Switchover, false, 9000, 1300, 1400, 1500, 1400, 1250)
	is(Continue, false, 9000, 1300, 1400, 1500, 1400, 1450)
	is(Switchover, false, 9000, 1300, 1400, 1500, 1400, 1450, 1350) // 4 % above the best
	is(Continue, false, 9000, 1300, 1400, 1500, 1400, 1450, 1353)
	// None comes: 3 s after the stall it is relaxed to the best since.
	is(Continue, false, 9000, 1300, 1400, 1500, 1400, 1480, 1470)
	is(Switchover, false, 9000, 1300, 1400, 1500, 1400, 1480, 1470, 1460)
	// More than one and a half times the limit: it gives up, and has given up from then on.
	is(Continue, false, 9000, 2300, 2400, 2500, 2400, 2450)
	is(Switchover, true, 9000, 2300, 2400, 2500, 2400, 2250)
	is(Switchover, true, 9000, 2300, 2400, 2500, 2400, 2250, 9999)
	// Without a bandwidth no downtime is known, so none is tolerable.
	e := stalling(9000, 1300, 1400, 1500, 1400, 1250)
	e.BytesPerS = 0
	require.True(t, p.Step(0, e).GaveUp)
}

// TestStallAsksNoMoreForFewer: at random histories it says yes to fewer pages than it says yes to,
// and who has given up has given up.
func TestStallAsksNoMoreForFewer(t *testing.T) {
	p := chosen(t, "stall:limit=100ms,window=3s")
	verbs := make(map[Verb]int)
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var lefts []int
		gaveUp := false
		for range 25 {
			lefts = append(lefts, 101+rnd.IntN(120))
			said := Continue
			e := stalling(lefts...)
			for e.Remaining = 300; e.Remaining >= 0; e.Remaining -= 3 {
				a := p.Step(0, e)
				if (said == Switchover || gaveUp) && a.Verb != Switchover {
					t.Fatalf("%v, %d: %+v", lefts, e.Remaining, a)
				}
				said = a.Verb
			}
			a := p.Step(0, stalling(lefts...))
			verbs[a.Verb]++
			gaveUp = a.GaveUp
		}
	}
	require.Greater(t, verbs[Continue], 500)
	require.Greater(t, verbs[Switchover], 500)
}

// sampled feeds a cycle policy the rates of a guest, and returns when it begins round 1.
func sampled(t *testing.T, p Policy, rate func(time.Duration) float64) time.Duration {
	a := p.Step(0, Event{Kind: KindStart})
	for range 100000 {
		if a.Verb != Wait {
			require.Equal(t, Continue, a.Verb)
			return a.Until
		}
		now := a.Until
		if a = p.Step(now, Event{Kind: KindSample, DirtyPerS: rate(now)}); a.Verb == Continue {
			return now
		}
		require.Greater(t, a.Until, now, "or it would spin")
	}
	t.Fatal("it samples for ever")
	return 0
}

// TestCycle: it begins round 1 at the beginning of a calm, wherever in the cycle it was asked.
func TestCycle(t *testing.T) {
	const interval = 100 * time.Millisecond
	for _, g := range []struct{ busy, calm time.Duration }{
		{4 * time.Second, time.Second}, {time.Second, time.Second},
		{700 * time.Millisecond, 2 * time.Second},
		{3100 * time.Millisecond, 900 * time.Millisecond},
		{2300 * time.Millisecond, 1700 * time.Millisecond},
	} {
		whole := g.busy + g.calm
		for offset := time.Duration(0); offset < whole; offset += whole / 37 {
			rnd := rand.New(rand.NewPCG(uint64(offset), 3))
			inside := func(now time.Duration) time.Duration { return (now + offset) % whole }
			begin := sampled(t, chosen(t, "cycle"), func(now time.Duration) float64 {
				noise := 1000 * rnd.Float64()
				if inside(now) < g.busy {
					return 20000 + 5*noise
				}
				return 500 + noise
			})
			require.GreaterOrEqual(t, begin, 128*interval)
			require.LessOrEqual(t, begin, 128*interval+whole+interval)
			at := inside(begin) - g.busy
			require.True(t, at >= -2*interval && at <= g.calm/4+2*interval,
				"%v busy, %v calm, offset %v: begins %v after the calm's beginning",
				g.busy, g.calm, offset, at)
		}
	}
}

// TestNoCycle: where there is none, the migration begins as soon as the samples are complete.
func TestNoCycle(t *testing.T) {
	for name, rate := range map[string]func(rnd *rand.Rand, now time.Duration) float64{
		"idle":   func(*rand.Rand, time.Duration) float64 { return 0 },
		"steady": func(*rand.Rand, time.Duration) float64 { return 30000 },
		"noise":  func(rnd *rand.Rand, _ time.Duration) float64 { return 30000 * rnd.Float64() },
		"once": func(_ *rand.Rand, now time.Duration) float64 {
			if now < 5*time.Second {
				return 30000
			}
			return 0
		},
	} {
		for seed := range uint64(50) {
			rnd := rand.New(rand.NewPCG(seed, 4))
			begin := sampled(t, chosen(t, "cycle"), func(now time.Duration) float64 {
				return rate(rnd, now)
			})
			require.Equal(t, 12800*time.Millisecond, begin, "%s, seed %d", name, seed)
		}
	}
}

// TestCycleBegins also where samples come late, and asks for no more of them than it may.
func TestCycleWithLateSamples(t *testing.T) {
	p := chosen(t, "cycle:samples=8,interval=10ms")
	a := p.Step(0, Event{Kind: KindStart})
	n := 0
	for a.Verb == Wait {
		n++
		a = p.Step(a.Until+time.Second, Event{Kind: KindSample, DirtyPerS: float64(n % 2)})
	}
	require.LessOrEqual(t, n, 8+8)
	require.Equal(t, Continue, a.Verb)
	for given, want := range map[string]string{
		"cycle:samples=7": "power of two", "cycle:samples=4": "from 8",
		"cycle:samples=8192": "to 4096", "cycle:interval=1ms": "from 5ms",
		"cycle:interval=2h": "to 1h",
	} {
		_, err := Parse(given)
		require.ErrorContains(t, err, want)
	}
}

// TestFFT compares with the definition.
func TestFFT(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 5))
	const n = 64
	var in, re, im []float64
	for range n {
		in = append(in, rnd.NormFloat64())
	}
	re, im = append(re, in...), make([]float64, n)
	fft(re, im)
	for k := range n {
		var wantRe, wantIm float64
		for i, v := range in {
			sin, cos := math.Sincos(-2 * math.Pi * float64(k*i) / n)
			wantRe, wantIm = wantRe+v*cos, wantIm+v*sin
		}
		require.InDelta(t, wantRe, re[k], 1e-9)
		require.InDelta(t, wantIm, im[k], 1e-9)
	}
}
