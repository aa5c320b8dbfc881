package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog/trace"
	"taskguide/memory"
	"taskguide/migration/policy"
)

// phased is a guest like those of the experiments, but smaller: busy for 2 s, in which it writes
// faster than a link of 125 Mbit/s takes, and calm for 0.6 s.
func phased() Synthetic {
	return Synthetic{
		Name: "phased", Pages: 6 << 20 / memory.PageSize, WorkingSet: 4 << 20 / memory.PageSize,
		Hot: 16, Busy: 2 * time.Second, Calm: 600 * time.Millisecond, Rate: 5000,
		CalmRate: 5000, Packed: memory.PageSize / 4, Interval: 5 * time.Millisecond,
		Length: 13 * time.Second, Seed: 1,
	}
}

// slow is a setting for these guests.
func slow(t *Trace) Setting {
	s := DefaultSetting(t)
	s.BitsPerSecond, s.Compress = 125e6, CompressNone
	return s
}

func generated(t testing.TB, g Synthetic) *Trace {
	t.Helper()
	tr, err := Load(bytes.NewReader(written(t, g)))
	require.NoError(t, err)
	return tr
}

func entrant(t testing.TB, name string, g policy.Guidance) Entrant {
	t.Helper()
	c, err := policy.Parse(name)
	require.NoError(t, err)
	e := Entrant{Order: DefaultOrder(c, g)}
	e.MaxDefer = 4 * time.Second
	return e
}

// moves simulates n moves of an entrant.
func moves(t *testing.T, tr *Trace, e Entrant, n int) []Paired {
	t.Helper()
	var all []Paired
	for _, at := range Moments(tr, n, 1) {
		p, err := slow(tr).Compare(t.Context().Err, tr, []Entrant{e}, at)
		require.NoError(t, err)
		all = append(all, p...)
	}
	return all
}

// runs simulates n moves, without the oracle's.
func runs(t *testing.T, tr *Trace, e Entrant, n int) []Move {
	t.Helper()
	var all []Move
	for _, at := range Moments(tr, n, 1) {
		all = append(all, run(t, slow(tr), tr, e, at))
	}
	return all
}

// recording makes a trace by hand. Every page is populated, and none is zero but those given.
type recording struct {
	pages    int
	interval time.Duration
	last     time.Duration // the last interval; 0: as long as all others
	zero     []int
	writes   [][]int                  // by interval
	tags     map[time.Duration]string // what task 1 does
	packed   map[int]trace.Packed     // by interval
}

func (r recording) load(t *testing.T) *Trace {
	t.Helper()
	var b bytes.Buffer
	w := trace.NewWriter(&b)
	populated, zero := memory.NewBitmap(r.pages), memory.NewBitmap(r.pages)
	populated.Fill()
	for _, page := range r.zero {
		zero.Set(page)
	}
	require.NoError(t, w.Begin(trace.Header{
		Trace: trace.Version, Pages: r.pages, PageBytes: memory.PageSize,
		IntervalUS: r.interval.Microseconds(),
	}))
	require.NoError(t, w.Contents(trace.Contents{
		Populated: trace.NewSet(populated), Zero: trace.NewSet(zero),
	}))
	for i, pages := range r.writes {
		begin, end := time.Duration(i)*r.interval, time.Duration(i+1)*r.interval
		if r.last > 0 && i == len(r.writes)-1 {
			end = begin + r.last
		}
		for at := begin; at < end; at += time.Millisecond {
			if change := r.tags[at]; change != "" {
				depth := 0
				if change == "enter" {
					depth = 1
				}
				event := fmt.Sprintf(
					`{"kind":"tag","tag":{"event":%q,"task":1,"depth":%d}}`, change, depth)
				require.NoError(t, w.Record(trace.Record{
					AtUS: at.Microseconds(), Event: []byte(event),
				}))
			}
		}
		dirty := memory.NewBitmap(r.pages)
		for _, page := range pages {
			dirty.Set(page)
		}
		record := trace.Record{AtUS: end.Microseconds(), Dirty: trace.NewSet(dirty)}
		if packed, ok := r.packed[i]; ok {
			record.Packed = &packed
		}
		require.NoError(t, w.Record(record))
	}
	require.NoError(t, w.Close())
	tr, err := Load(&b) // it has no end, like a trace that was cut off
	require.NoError(t, err)
	return tr
}

// exact is a setting in which only bytes cost time: 4096 a ms.
func exact() Setting {
	return Setting{BitsPerSecond: 8 * 4096 * 1000, Compress: CompressNone, Protection: AtHarvest}
}

func run(t *testing.T, s Setting, tr *Trace, e Entrant, at time.Duration) Move {
	t.Helper()
	m, err := s.Run(t.Context().Err, tr, e.Order, at)
	require.NoError(t, err)
	return m
}

// calmFor is so many intervals without a write.
func calmFor(n int) [][]int { return make([][]int, n) }

// TestIdleGuest: nothing is written, so the times follow from the bytes alone.
func TestIdleGuest(t *testing.T) {
	tr := recording{pages: 1000, interval: time.Second, writes: calmFor(10)}.load(t)
	s := exact()
	s.RTT = 10 * time.Millisecond
	s.Costs = Costs{
		Setup: 100 * time.Millisecond, Pause: 3 * time.Millisecond, Handover: 5 * time.Millisecond,
	}
	m := run(t, s, tr, entrant(t, "downtime", policy.GuidanceOff), 0)
	require.True(t, m.Moved())
	require.EqualValues(t, 1000, m.PagesSent)
	require.Zero(t, m.PagesStopCopy)
	require.InDelta(t, 3+5+3*10, m.DowntimeMS, 0.001)
	require.InDelta(t, 100+3*10+1000+10+m.DowntimeMS, m.TotalMS, 10, "tables and headers are 1 %")
	require.Equal(t, 2, m.Rounds)
	require.Equal(t, "none", entrantGuidance(t, s, tr))
	s.Ack = time.Millisecond // a relay
	relayed := run(t, s, tr, entrant(t, "downtime", policy.GuidanceOff), 0)
	require.InDelta(t, m.DowntimeMS, relayed.DowntimeMS, 0.001)
	require.InDelta(t, m.TotalMS-2*9, relayed.TotalMS, 0.001,
		"a round waits for its last byte, and a connection for its handshake")
}

// entrantGuidance is what guidance comes to for a guest without tags.
func entrantGuidance(t *testing.T, s Setting, tr *Trace) string {
	return run(t, s, tr, entrant(t, "downtime", policy.GuidanceSwitchover), 0).Guidance
}

// TestZeroPages cost no more than their entries in tables.
func TestZeroPages(t *testing.T) {
	r := recording{pages: 1000, interval: time.Second, writes: calmFor(10)}
	for page := 500; page < 1000; page++ {
		r.zero = append(r.zero, page)
	}
	r.writes[0] = []int{999} // and then it is no zero page any more
	m := run(t, exact(), r.load(t), entrant(t, "downtime", policy.GuidanceOff), time.Second)
	require.EqualValues(t, 501, m.PagesSent)
	require.EqualValues(t, 499, m.PagesZero)
	require.InDelta(t, 501*memory.PageSize, m.BytesWire, 2000)
	require.InDelta(t, 501, m.TotalMS, 2)
	r.writes = calmFor(200)
	r.interval = 10 * time.Millisecond
	r.writes[9] = []int{600}
	m = run(t, exact(), r.load(t), entrant(t, "downtime", policy.GuidanceOff), 85*time.Millisecond)
	require.EqualValues(t, 502, m.PagesSent, "written before its turn in round 1, and sent again")
	require.EqualValues(t, 499, m.PagesZero)
}

// TestCompression: pages cost what the samples compress to, if that pays.
func TestCompression(t *testing.T) {
	g := phased()
	g.Rate, g.CalmRate = 0, 0
	tr := generated(t, g)
	e := entrant(t, "downtime", policy.GuidanceOff)
	bytes := map[Compress]int64{}
	for _, c := range []Compress{CompressNone, CompressZstd, CompressAuto} {
		s := slow(tr)
		s.Compress = c
		bytes[c] = run(t, s, tr, e, 0).BytesWire
	}
	require.InDelta(t, g.WorkingSet*memory.PageSize, bytes[CompressNone], 1e5)
	require.InDelta(t, g.WorkingSet*memory.PageSize/4, bytes[CompressZstd], 1e5)
	// The engine has no trial of a compressor in the first 50 ms.
	plain := 0.05 * 125e6 / 8 * 0.75
	require.InDelta(t, float64(bytes[CompressZstd])+plain, bytes[CompressAuto], 1e5)
	fast := slow(tr)
	fast.BitsPerSecond, fast.Compress = 100e9, CompressAuto
	require.Equal(t, bytes[CompressNone]/1e5, run(t, fast, tr, e, 0).BytesWire/1e5,
		"packing would take longer")
}

// TestSkip: a page that was seen to be dirty again before its turn is left to the next round. The
// pages take a millisecond each, and the log is looked at each 20 ms.
func TestSkip(t *testing.T) {
	r := recording{pages: 200, interval: 10 * time.Millisecond, writes: calmFor(200)}
	// In the middle of round 1, between two looks, pages are written: some that were sent, some
	// whose turn is before the next look, and some whose turn is later. Frames are of 16 pages.
	r.writes[5] = []int{10, 11, 52, 55, 64, 151, 152}
	tr := r.load(t)
	off := run(t, exact(), tr, entrant(t, "xen:skip=off", policy.GuidanceOff), 0)
	require.Zero(t, off.PagesSkipped)
	require.EqualValues(t, 200+7, off.PagesSent)
	on := run(t, exact(), tr, entrant(t, "xen", policy.GuidanceOff), 0)
	require.EqualValues(t, 3, on.PagesSkipped, "the look at 60 ms comes too late for 52 and 55")
	require.EqualValues(t, 200-3+7, on.PagesSent)
}

// TestProtectionOnDemand: a page that is written before its protection is sent once.
func TestProtectionOnDemand(t *testing.T) {
	r := recording{pages: 4096, interval: 10 * time.Millisecond, writes: calmFor(1000)}
	// Page 5 is sent by then; 900 is protected and not sent yet; the turn of 2000 is later.
	r.writes[50] = []int{5, 900, 2000}
	tr := r.load(t)
	s := exact()
	sent := func(p Protection, name string) int64 {
		s.Protection = p
		return run(t, s, tr, entrant(t, name, policy.GuidanceOff), 0).PagesSent
	}
	require.EqualValues(t, 4099, sent(AtHarvest, "downtime"))
	require.EqualValues(t, 4098, sent(OnDemand, "downtime"))
	require.EqualValues(t, 4099, sent(OnDemand, "downtime:protect=round"))
}

// TestRoundsAreSnapshots: each round sends what was written during the one before.
func TestRoundsAreSnapshots(t *testing.T) {
	r := recording{pages: 200, interval: 10 * time.Millisecond, writes: calmFor(200)}
	for i := range 20 {
		for page := range 60 {
			r.writes[i] = append(r.writes[i], page)
		}
	}
	// Round 1 takes 200 ms, in which 60 pages are written; then the guest is idle.
	m := run(t, exact(), r.load(t), entrant(t, "downtime:limit=10ms", policy.GuidanceOff), 0)
	require.EqualValues(t, 260, m.PagesSent)
	require.Zero(t, m.PagesStopCopy)
	// With a limit of a second it is content after round 1, but goes on with a round that shrinks
	// the rest, unless it is told not to polish.
	m = run(t, exact(), r.load(t), entrant(t, "downtime:limit=1s", policy.GuidanceOff), 0)
	require.Zero(t, m.PagesStopCopy)
	e := entrant(t, "downtime:limit=1s,polish=off", policy.GuidanceOff)
	m = run(t, exact(), r.load(t), e, 0)
	require.EqualValues(t, 60, m.PagesStopCopy)
	require.InDelta(t, 60, m.DowntimeMS, 2)
}

// TestPagesOfThePause: what the guest writes while its vCPUs come to a stand goes with the last
// pages, for which the pause has left enough tokens.
func TestPagesOfThePause(t *testing.T) {
	r := recording{pages: 100, interval: 10 * time.Millisecond, writes: calmFor(400)}
	r.writes[11] = []int{3, 4, 5}
	s := exact()
	s.Costs.Pause = 30 * time.Millisecond
	m := run(t, s, r.load(t), entrant(t, "downtime", policy.GuidanceOff), 0)
	require.EqualValues(t, 3, m.PagesStopCopy)
	require.InDelta(t, 30, m.DowntimeMS, 0.1)
}

// TestProcessors: a guest and pages that have to share processors are both slower, and each of them
// has what the other leaves. The guest's phases go on by the clock.
func TestProcessors(t *testing.T) {
	sent := func(bits int64, processors int, receive time.Duration) (pages int64, ms float64) {
		r := recording{
			pages: 1000, interval: 10 * time.Millisecond, writes: calmFor(1000),
			tags: map[time.Duration]string{600 * time.Millisecond: "enter"},
		}
		for i := range 20 { // each of 400 pages once, in the first 200 ms
			for page := range 20 {
				r.writes[i] = append(r.writes[i], 20*i+page)
			}
		}
		s := Setting{BitsPerSecond: bits, Compress: CompressNone, Protection: AtHarvest}
		s.Costs = Costs{Page: time.Millisecond, Receive: receive, Processors: processors}
		m := run(t, s, r.load(t), entrant(t, "downtime", policy.GuidanceSwitchover), 0)
		require.True(t, m.SwitchOpen)
		return m.PagesSent - 1000, m.TotalMS
	}
	const none, half = 0, 8 * 4096 * 500 // bit/s: a page takes no time, or twice its processor's
	for _, c := range []struct {
		bits       int64
		processors int
		receive    time.Duration
		pages      int64
		total      float64 // ms
	}{
		{none, 0, time.Millisecond, 400, 1400}, // round 1, and then what was written
		{none, 4, time.Millisecond, 400, 1400},
		{none, 2, 0, 400, 1400 / 0.85}, // the sender has what the guest leaves
		{none, 2, time.Millisecond, 285, 1285 / 0.569},
		{none, 1, 0, 189, 1189 / 0.378},
		{half, 2, time.Millisecond, 340, 2 * 1340}, // the guest has what the ends leave
		{half, 1, 0, 189, 1189 / 0.378},            // and the link does not matter any more
	} {
		pages, total := sent(c.bits, c.processors, c.receive)
		require.InDelta(t, c.pages, pages, 5, "%+v", c)
		require.InDelta(t, c.total, total, 15, "%+v", c)
	}
}

// TestProcessorsWithoutGuest: in the standstill, the guest takes no processor from its pages.
func TestProcessorsWithoutGuest(t *testing.T) {
	r := recording{pages: 100, interval: 10 * time.Millisecond, writes: calmFor(400)}
	for page := range 50 {
		r.writes[28] = append(r.writes[28], page)
	}
	s := Setting{Compress: CompressNone, Protection: AtHarvest}
	s.Costs = Costs{Page: time.Millisecond, Pause: 50 * time.Millisecond, Processors: 1}
	m := run(t, s, r.load(t), entrant(t, "downtime", policy.GuidanceOff), 0)
	require.EqualValues(t, 50, m.PagesStopCopy)
	require.InDelta(t, 50+50/0.85, m.DowntimeMS, 1)
	require.InDelta(t, 100/0.378+50+50/0.85, m.TotalMS, 1)
}

// TestProcessorsConverge: a guest that writes faster than the link takes, and is slowed down.
func TestProcessorsConverge(t *testing.T) {
	g := phased()
	g.Busy, g.Calm, g.Rate = 12*time.Second, time.Second, 12000
	tr := generated(t, g)
	s := DefaultSetting(tr)
	s.BitsPerSecond, s.Compress = 8*memory.PageSize*9000, CompressNone
	s.Costs.Page, s.Costs.Receive = 50*time.Microsecond, 0
	e := entrant(t, "xen", policy.GuidanceOff)
	full := run(t, s, tr, e, 0)
	s.Costs.Processors = 1
	slowed := run(t, s, tr, e, 0)
	require.Greater(t, full.DowntimeMS, 40.0)
	require.Less(t, slowed.DowntimeMS, full.DowntimeMS/4)
}

// TestShares of processors between vCPUs, sender and receiver.
func TestShares(t *testing.T) {
	for _, c := range []struct {
		processors, vcpus    int
		alone, send, receive float64 // ms
		guest, takes         float64
	}{
		{0, 8, 10, 10, 10, 1, 10},
		{5, 2, 10, 10, 10, 1, 10},
		{4, 2, 10, 10, 10, 1, 20 / 1.85},
		{4, 3, 10, 10, 10, 3.85 / 5.75 * 1.25, 10 * 5.75 / 3.85},
		{2, 4, 10, 10, 0, 1.85 / 6 * 1.25, 10 * 6 / 1.85},
		{2, 4, 10, 1, 1, 1.65 / 4, 10},
		{2, 1, 10, 10, 40, 1.85 / 6.25 * 1.25, 10 * 6.25 / 1.85},
		{2, 0, 10, 10, 10, 1, 20 / 1.85}, // no guest
		{1, 1, 10, 0, 0, 1, 10},
		{1, 1, 0, 10, 0, 1, 0},
		{1, mostProcessors, 10, 1e-6, 0, leastSpeed, 10},
	} {
		of := func(ms float64) time.Duration { return time.Duration(ms * 1e6) }
		guest, takes := Costs{Processors: c.processors}.shares(c.vcpus, of(c.alone),
			parcel{send: of(c.send), receive: of(c.receive)})
		require.InDelta(t, c.guest, guest, 1e-6, "%+v", c)
		require.InDelta(t, c.takes, ms(takes), 1e-4, "%+v", c)
	}
}

// TestLimitedBy: what takes longer for what the guest writes most, and waits for a processor count.
func TestLimitedBy(t *testing.T) {
	tr := &Trace{
		cpus: 1, contents: []content{{1, time.Microsecond}, {0.1, 10 * time.Microsecond}},
		intervals: []interval{
			{content: 1, writes: make([]write, 100)}, {content: 0, writes: make([]write, 10)},
		},
	}
	s := Setting{BitsPerSecond: 1e9, Compress: CompressNone, Costs: DefaultCosts()}
	s.Costs.Pack = time.Microsecond
	require.Equal(t, LimitLink, s.LimitedBy(tr), "32 us a page, and 2 us of a processor")
	s.BitsPerSecond = 0
	require.Equal(t, LimitProcessors, s.LimitedBy(tr))
	s.BitsPerSecond, s.Compress = 1e9, CompressAuto
	require.Equal(t, LimitProcessors, s.LimitedBy(tr), "10 us a page, and 3 us of the link")
	tr.intervals[0].hot, tr.intervals[1].hot = nil, make([]uint32, 1000)
	require.Equal(t, LimitLink, s.LimitedBy(tr), "most do not compress")
	require.Equal(t, LimitLink, s.LimitedBy(&Trace{}), "nothing is known of it")

	tr.contents[0] = content{0.6, 16 * time.Microsecond}
	s.Costs.Pack = 16 * time.Microsecond
	require.Equal(t, LimitLink, s.LimitedBy(tr), "20 us of the link")
	s.Costs.Processors = 2
	require.Equal(t, LimitProcessors, s.LimitedBy(tr), "and 16 us, but the guest needs one, too")
}

// TestContends: a page that the link takes slowly leaves the guest its processor.
func TestContends(t *testing.T) {
	tr := &Trace{cpus: 1, contents: []content{{0.1, 10 * time.Microsecond}}}
	s := Setting{BitsPerSecond: 1e9, Compress: CompressNone, Costs: DefaultCosts()}
	for processors, contends := range []bool{false, true, false, false} {
		s.Costs.Processors = processors
		require.Equal(t, contends, s.contends(tr), "%d", processors)
	}
	s.Compress, s.Costs.Processors = CompressAuto, 2
	require.True(t, s.contends(tr), "packing keeps the sender busy")
	tr.contents[0].share = 0.9 // no gain
	require.False(t, s.contends(tr))
	tr.cpus = 2
	require.True(t, s.contends(tr))
}

// TestGuided: with guidance, no stop-and-copy begins at a closed gate unless it is forced.
func TestGuided(t *testing.T) {
	tr := generated(t, phased())
	require.Equal(t, 1, tr.Tasks())
	for _, name := range []string{"xen", "downtime:limit=20ms", "qemu:limit=20ms"} {
		closed := 0
		for _, m := range runs(t, tr, entrant(t, name, policy.GuidanceOff), 10) {
			if !m.SwitchOpen {
				closed++
			}
		}
		for _, g := range []policy.Guidance{policy.GuidanceSwitchover, policy.GuidanceSuspend} {
			for _, m := range runs(t, tr, entrant(t, name, g), 10) {
				require.True(t, m.Moved(), m.Error)
				require.False(t, m.Forced)
				require.True(t, m.SwitchOpen, "%s %s: %+v", name, g, m)
				require.Equal(t, string(g), m.Guidance)
			}
		}
		if name == "xen" {
			require.Greater(t, closed, 2, "unguided, some begin in a busy phase")
		}
	}
}

// TestGuidanceHelps a rule that gives up in the middle of a busy phase.
func TestGuidanceHelps(t *testing.T) {
	tr := generated(t, phased())
	off, on := entrant(t, "xen", policy.GuidanceOff), entrant(t, "xen", policy.GuidanceSwitchover)
	without, with := Summarize(off, moves(t, tr, off, 10)), Summarize(on, moves(t, tr, on, 10))
	require.Greater(t, without.DowntimeMS.Max, 5*with.DowntimeMS.Max)
	require.Greater(t, without.Tenfold, with.Tenfold)
	require.Less(t, with.RegretDowntimeMS.P50, 5.0)
}

// TestAtExit: a policy that is satisfied in the middle of a round switches over at the EXIT, rather
// than let the gate close.
func TestAtExit(t *testing.T) {
	r := recording{
		pages: 100, interval: 10 * time.Millisecond, writes: calmFor(400),
		tags: map[time.Duration]string{0: "enter", 250 * time.Millisecond: "exit"},
	}
	for page := range 80 { // rounds end at 100, 180 and 260 ms, and too much is left after two
		r.writes[5] = append(r.writes[5], page)
		r.writes[17] = append(r.writes[17], page)
		r.writes[27] = append(r.writes[27], page)
	}
	r.writes[25] = []int{90, 91} // what the guest does at once after its EXIT
	tr := r.load(t)
	e := entrant(t, "downtime:limit=30ms", policy.GuidanceSwitchover)
	m := run(t, exact(), tr, e, 0)
	require.Contains(t, m.Reason, "EXIT")
	require.True(t, m.SwitchOpen)
	require.False(t, m.Forced)
	require.InDelta(t, 250+m.DowntimeMS, m.TotalMS, 0.001, "it stands still from the EXIT on")
	require.InDelta(t, 10, m.DowntimeMS, 2, "the rest of the frame that was begun")
	require.Zero(t, m.PagesStopCopy)
	e.AtExit = false
	m = run(t, exact(), tr, e, 0)
	require.NotContains(t, m.Reason, "EXIT")
	require.Greater(t, m.TotalMS, 3000.0, "the gate opens when the trace begins again")
}

// TestRetraction: a switchover is taken back if the gate closes while the vCPUs come to a stand.
func TestRetraction(t *testing.T) {
	tr := recording{
		pages: 100, interval: 10 * time.Millisecond, writes: calmFor(400),
		tags: map[time.Duration]string{0: "enter", 110 * time.Millisecond: "exit"},
	}.load(t)
	e := entrant(t, "downtime", policy.GuidanceSwitchover)
	e.AtExit = false
	s := exact()
	s.Costs.Pause = 30 * time.Millisecond
	m := run(t, s, tr, e, 0)
	require.Equal(t, 1, m.Retractions)
	require.True(t, m.SwitchOpen)
	require.Greater(t, m.TotalMS, 3800.0, "the gate opens when the trace begins again")
	e.AtExit = true
	m = run(t, s, tr, e, 0)
	require.Zero(t, m.Retractions, "the vCPU is held at its EXIT")
	require.Contains(t, m.Reason, "held at the segment's EXIT")
}

// TestRoundTripsCount against the limit of a downtime, as they do in the engine.
func TestRoundTripsCount(t *testing.T) {
	r := recording{pages: 400, interval: 10 * time.Millisecond, writes: calmFor(400)}
	for page := range 200 {
		r.writes[30] = append(r.writes[30], page)
	}
	e := entrant(t, "downtime:limit=300ms,polish=off", policy.GuidanceOff)
	s := exact()
	require.EqualValues(t, 200, run(t, s, r.load(t), e, 0).PagesStopCopy)
	s.RTT = 60 * time.Millisecond
	require.Zero(t, run(t, s, r.load(t), e, 0).PagesStopCopy)
}

// closedFor is a guest whose task never enters a segment.
func closedFor(t *testing.T) *Trace {
	return recording{
		pages: 100, interval: 10 * time.Millisecond, writes: calmFor(400),
		tags: map[time.Duration]string{0: "exit", time.Millisecond: "register"},
	}.load(t)
}

// TestDeferral: guidance defers a move for as long as it may.
func TestDeferral(t *testing.T) {
	tr := closedFor(t)
	for _, g := range []policy.Guidance{
		policy.GuidanceSwitchover, policy.GuidanceStart, policy.GuidanceSuspend,
	} {
		e := entrant(t, "downtime", g)
		e.MaxDefer = 700 * time.Millisecond
		m := run(t, exact(), tr, e, 10*time.Millisecond)
		require.True(t, m.Moved())
		require.True(t, m.Forced, "%s", g)
		require.InDelta(t, 700, m.WaitedMS+m.SuspendedMS, 20, "%s", g)
		require.Greater(t, m.TotalMS, 700.0)
		e.OnTimeout = policy.TimeoutCancel
		m = run(t, exact(), tr, e, 10*time.Millisecond)
		require.ErrorContains(t, errText(m.Error), policy.ErrDeferred.Error())
	}
	m := run(t, exact(), tr, entrant(t, "downtime", policy.GuidanceOff), 10*time.Millisecond)
	require.False(t, m.SwitchOpen)
	require.Zero(t, m.WaitedMS)
}

type errText string

func (e errText) Error() string { return string(e) }

// TestTakenBack: a standstill that lasts longer than it may is taken back, three times at most.
func TestTakenBack(t *testing.T) {
	tr := recording{pages: 100, interval: 10 * time.Millisecond, writes: calmFor(400)}.load(t)
	s := exact()
	s.Costs.Handover = 2 * time.Second
	m := run(t, s, tr, entrant(t, "downtime:limit=10ms", policy.GuidanceOff), 0)
	require.Equal(t, 3, m.TakenBack)
	require.Contains(t, m.Error, "3 switchovers were taken back")
	require.Zero(t, m.DowntimeMS)
	// Rounds of 100 ms, and then the second for which the guest stood still, three times.
	require.InDelta(t, 100+3*1000, m.TotalMS, 50)
	m = run(t, s, tr, entrant(t, "xen", policy.GuidanceOff), 0)
	require.InDelta(t, 2000, m.DowntimeMS, 1, "its limit is three seconds")
}

// TestTakenBackLink: the link is free once a switchover was taken back, whatever its last round
// still had to send.
func TestTakenBackLink(t *testing.T) {
	r := recording{pages: 3000, interval: 10 * time.Millisecond, writes: calmFor(1000)}
	for page := range 2500 { // while the vCPUs come to a stand
		r.writes[304] = append(r.writes[304], page)
	}
	s := exact()
	s.Costs.Pause = 100 * time.Millisecond
	m := run(t, s, r.load(t), entrant(t, "downtime:limit=10ms", policy.GuidanceOff), 0)
	require.Equal(t, 1, m.TakenBack)
	require.True(t, m.Moved(), m.Error)
	// Round 1, the second for which the guest stood still, the same pages again, and the pause.
	require.InDelta(t, 3000+1000+2500+100, m.TotalMS, 50)
}

// TestNeverConverges: a policy that never gives up ends after a while of virtual time.
func TestNeverConverges(t *testing.T) {
	r := recording{pages: 100, interval: 30 * time.Millisecond, writes: calmFor(2)}
	for i := range r.writes {
		for page := range 100 {
			r.writes[i] = append(r.writes[i], page)
		}
	}
	m := run(t, exact(), r.load(t), entrant(t, "downtime:limit=10ms", policy.GuidanceOff), 0)
	require.Equal(t, errEndless.Error(), m.Error)
	require.False(t, m.Moved())

	// Ctrl-C does not have to wait for that.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e := entrant(t, "downtime:limit=10ms", policy.GuidanceOff)
	m, err := exact().Run(ctx.Err, r.load(t), e.Order, 0)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, m.Rounds)
	m, err = exact().Best(ctx.Err, r.load(t), e.Order, 0)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, m.Rounds)
}

// TestLongDeferral: a move is not given up for as long as its order lets it wait.
func TestLongDeferral(t *testing.T) {
	tr := closedFor(t)
	e := entrant(t, "downtime", policy.GuidanceSwitchover)
	e.MaxDefer = 20 * time.Minute
	m := run(t, exact(), tr, e, 10*time.Millisecond)
	require.True(t, m.Moved(), m.Error)
	require.True(t, m.Forced)
	require.Greater(t, m.TotalMS, 20*60e3)
	w := walk{inUse: 1, link: newLink(exact(), tr), sampled: time.Minute}
	require.Equal(t, leastPatience+time.Minute, w.patience())
	w.o.MaxDefer = math.MaxInt64
	require.Greater(t, w.patience(), longest, "it does not overflow")
}

// TestPatience is ten times what all pages take, on the link or on a processor.
func TestPatience(t *testing.T) {
	tr := closedFor(t)
	patience := func(s Setting, pages int) time.Duration {
		o := entrant(t, "downtime", policy.GuidanceOff).Order
		o.MaxDefer = 0
		w := newWalk(s, tr, o, nil, 0)
		w.inUse = pages
		return w.patience()
	}
	const many = 1e6
	costs := Costs{Page: time.Millisecond, Stage: time.Millisecond, Pack: 9 * time.Millisecond}
	require.Equal(t, leastPatience, patience(Setting{Compress: CompressNone}, many))
	link := Setting{BitsPerSecond: 8 * memory.PageSize * 200, Compress: CompressNone, Costs: costs}
	require.InDelta(t, 10*5000, patience(link, many).Seconds(), 500, "200 a second")
	raw := Setting{Compress: CompressNone, Costs: costs}
	require.InDelta(t, 10*1000, patience(raw, many).Seconds(), 1)
	raw.Costs.Processors = 1
	require.InDelta(t, 10*1000*2.25/0.85, patience(raw, many).Seconds(), 1, "beside the guest")
	packed := Setting{Compress: CompressZstd, Costs: costs}
	require.InDelta(t, 10*10000, patience(packed, many).Seconds(), 1)
	link.BitsPerSecond = 8
	require.Equal(t, longest, patience(link, 1<<30), "it does not overflow")
}

// TestLongSampling: a policy that looks at the guest for longer than most moves take has as much
// time as others after that, and Ctrl-C does not have to wait for it.
func TestLongSampling(t *testing.T) {
	// Each sample is of one lap, so there is no cycle. Round 1 is in the busy part, so another one
	// follows.
	r := recording{pages: 100, interval: 10 * time.Millisecond, writes: calmFor(100)}
	for i := range 20 {
		for page := range 60 {
			r.writes[i] = append(r.writes[i], page)
		}
	}
	tr := r.load(t)
	e := entrant(t, "cycle:samples=1024,interval=1s,limit=10ms", policy.GuidanceOff)
	m := run(t, exact(), tr, e, 50*time.Millisecond)
	require.Equal(t, 1024, m.Samples)
	require.Greater(t, m.TotalMS, 1024e3)
	require.Greater(t, m.Rounds, 2)
	require.True(t, m.Moved(), m.Error)

	calls := 0
	m, err := exact().Run(func() error {
		if calls++; calls > 100 {
			return context.Canceled
		}
		return nil
	}, tr, e.Order, 0)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, m.Rounds)
	require.Less(t, m.Samples, 128)
}

// TestSame: the same trace, order and moment give the same move.
func TestSame(t *testing.T) {
	tr := generated(t, phased())
	for _, name := range policy.Names() {
		for _, g := range []policy.Guidance{policy.GuidanceOff, policy.GuidanceSwitchover} {
			e := entrant(t, name, g)
			if name == "cycle" {
				e.Policy, _ = policy.Parse("cycle:interval=25ms")
			}
			first := runs(t, tr, e, 3)
			require.Equal(t, first, runs(t, tr, e, 3))
			for _, m := range first {
				require.True(t, m.Moved(), "%s: %s", name, m.Error)
				require.Equal(t, name == "cycle", m.Samples >= 128)
			}
		}
	}
}

// led is a program in a test.
type led struct {
	rule   policy.StopRule
	asked  map[policy.Kind]int
	told   int
	closed bool
	fails  int // at this question, 0: never
}

func (l *led) Ask(now time.Duration, e policy.Event) (*policy.Action, error) {
	l.asked[e.Kind]++
	if l.fails--; l.fails == 0 {
		return nil, errors.New("it is gone")
	}
	a := l.rule.Step(now, e)
	return &a, nil
}

func (l *led) Tell(time.Duration, policy.Event) { l.told++ }
func (l *led) Close()                           { l.closed = true }

// starter is a program that is asked at the start alone.
type starter struct{ *led }

func (s starter) Ask(now time.Duration, e policy.Event) (*policy.Action, error) {
	if e.Kind == policy.KindStart {
		a := policy.Action{Verb: policy.Abort, Reason: "not today"}
		return &a, nil
	}
	return nil, nil
}

// TestProgram: a program leads as a policy does, and the default one takes its place if it fails.
func TestProgram(t *testing.T) {
	tr := generated(t, phased())
	e := entrant(t, "exec:/some/program", policy.GuidanceSwitchover)
	l := &led{asked: map[policy.Kind]int{}}
	l.rule = func(_ time.Duration, e policy.Event) policy.Action {
		if e.Remaining < 100 {
			return policy.Action{Verb: policy.Switchover, Reason: "few"}
		}
		return policy.Action{}
	}
	e.Lead = func() (Leader, error) { return l, nil }
	for _, at := range Moments(tr, 5, 1) {
		m := run(t, slow(tr), tr, e, at)
		require.True(t, m.Moved(), m.Error)
		require.Contains(t, m.Reason, "few")
		require.True(t, m.SwitchOpen)
		require.Empty(t, m.PolicyError)
	}
	require.True(t, l.closed)
	require.Equal(t, 5, l.asked[policy.KindStart], "once a move")
	require.Positive(t, l.asked[policy.KindRound])
	require.Positive(t, l.told, "of the gate")

	l.fails = 3
	m := run(t, slow(tr), tr, e, 0)
	require.Equal(t, "it is gone", m.PolicyError)
	require.NotContains(t, m.Reason, "few")
	require.True(t, m.Moved())

	l.rule = func(time.Duration, policy.Event) policy.Action { return policy.Action{} }
	idle := recording{pages: 100, interval: time.Second, writes: calmFor(3)}.load(t)
	m = run(t, exact(), idle, e, 0)
	require.Contains(t, m.PolicyError, "it has led for 10m0s")
	require.Greater(t, m.TotalMS, 600e3)
	require.True(t, m.Moved())

	e.Lead = func() (Leader, error) { return starter{l}, nil }
	m = run(t, exact(), idle, e, 0)
	require.Contains(t, m.Error, "not today", "at the start, before a page is sent")
	require.Zero(t, m.PagesSent)

	e.Lead = func() (Leader, error) { return nil, errors.New("no such program") }
	_, err := slow(tr).Run(t.Context().Err, tr, e.Order, 0)
	require.ErrorContains(t, err, "no such program")
}

// TestRefused: what cannot be simulated is refused.
func TestRefused(t *testing.T) {
	tr := closedFor(t)
	e := entrant(t, "exec:/bin/true", policy.GuidanceOff)
	_, err := exact().Run(t.Context().Err, tr, e.Order, 0)
	require.ErrorContains(t, err, "nobody starts the program")
	_, err = exact().Best(t.Context().Err, tr, e.Order, 0)
	require.ErrorContains(t, err, "nobody starts the program")
	_, err = Entrants([]string{"nonsense"}, nil, Order{})
	require.ErrorContains(t, err, "is unknown")
}

// BenchmarkTerabyte moves a guest with 1 TiB of RAM, once for each way to grow. Its dirty rate
// grows with the RAM where that is repeated, so that no rule but one that gives up is satisfied.
func BenchmarkTerabyte(b *testing.B) {
	g := phased()
	g.Pages, g.WorkingSet, g.Rate = 128<<10, 16<<10, 61e3
	tr := generated(b, g)
	for _, how := range []Growth{Untouched, Repeated} {
		for _, rate := range []int64{1e9, 1e11} {
			b.Run(fmt.Sprintf("%s/%.0e", how, float64(rate)), func(b *testing.B) {
				big, err := tr.Grow(1<<28, how)
				require.NoError(b, err)
				s := DefaultSetting(big)
				s.BitsPerSecond = rate
				e := entrant(b, "xen", policy.GuidanceSwitchover)
				for b.Loop() {
					m, err := s.Run(b.Context().Err, big, e.Order, time.Second)
					require.NoError(b, err)
					require.True(b, m.Moved(), m.Error)
				}
			})
		}
	}
}

// TestFullSpeedBetweenFrames: a guest is slowed down while pages keep a processor busy, and not
// while its vCPUs come to a stand.
func TestFullSpeedBetweenFrames(t *testing.T) {
	r := recording{pages: 100, interval: 10 * time.Millisecond, writes: calmFor(400)}
	for page := range 50 { // round 1 is over by then
		r.writes[28] = append(r.writes[28], page)
	}
	s := Setting{Compress: CompressNone, Protection: AtHarvest}
	s.Costs = Costs{Page: time.Millisecond, Pause: 30 * time.Millisecond, Processors: 1}
	m := run(t, s, r.load(t), entrant(t, "downtime", policy.GuidanceOff), 0)
	require.EqualValues(t, 50, m.PagesStopCopy)
}

// TestSlowLaps: a lap of the trace in which the guest was slowed down has not brought all of its
// writes, so the ones after it count, too.
func TestSlowLaps(t *testing.T) {
	r := recording{pages: 1000, interval: 100 * time.Millisecond, writes: calmFor(10)}
	for page := range 101 { // no even number: a slow guest writes others in each lap
		r.writes[page*10/101] = append(r.writes[page*10/101], page)
	}
	s := Setting{Compress: CompressNone, Protection: AtHarvest}
	s.Costs = Costs{Page: time.Millisecond, Processors: 1}
	m := run(t, s, r.load(t), entrant(t, "downtime", policy.GuidanceOff), 0)
	require.Greater(t, m.PagesSent, int64(1000+90), "round 1 takes two laps")
}

// TestStandstillHasNoTrial: the pages of the stop-and-copy go as those before them did, because the
// engine tries no compressor while the guest waits.
func TestStandstillHasNoTrial(t *testing.T) {
	r := recording{pages: 450, interval: 10 * time.Millisecond, writes: calmFor(400)}
	for page := range 250 { // while the vCPUs come to a stand
		r.writes[5] = append(r.writes[5], page)
	}
	tr := r.load(t)
	tr.contents = []content{{share: 0.25}}
	s := exact()
	s.BitsPerSecond, s.Compress = 10*s.BitsPerSecond, CompressAuto // round 1 takes 45 ms
	s.Costs.Pause = 30 * time.Millisecond
	m := run(t, s, tr, entrant(t, "downtime", policy.GuidanceOff), 0)
	require.EqualValues(t, 250, m.PagesStopCopy)
	require.InDelta(t, (450+250)*memory.PageSize, m.BytesWire, 5000)
}

// TestTakenBackCompresses: a switchover that is taken back does not keep the rounds after it from
// compressing.
func TestTakenBackCompresses(t *testing.T) {
	r := recording{pages: 3000, interval: 10 * time.Millisecond, writes: calmFor(1000)}
	for page := 20; page < 3000; page++ { // so that round 1 takes 20 ms
		r.zero = append(r.zero, page)
	}
	for page := range 2500 { // while the vCPUs come to a stand
		r.writes[5] = append(r.writes[5], 20+page)
	}
	tr := r.load(t)
	tr.contents = []content{{share: 0.25}}
	s := exact()
	s.Compress, s.Costs.Pause = CompressAuto, 100*time.Millisecond
	m := run(t, s, tr, entrant(t, "downtime:limit=10ms", policy.GuidanceOff), 0)
	require.Equal(t, 1, m.TakenBack)
	require.True(t, m.Moved(), m.Error)
	// Round 1, the second for which the guest stood still, the 50 ms without a trial that are left,
	// the other pages compressed, and the pause.
	require.InDelta(t, 20+1000+30+(2500-30)/4+100, m.TotalMS, 50)
}
