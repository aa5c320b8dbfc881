package virtio

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/vmm/device"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/device/pci"
)

func newBalloon() *Device { return NewBalloon(pci.NewHost(), noLog) }

// reportAt is RAM that a driver of a balloon may report.
const (
	reportAt    = bufferBase + 2<<20
	reportPages = 2048
)

// newReporter starts a driver of a balloon, and gives the RAM that it may report content.
func newReporter(t testing.TB, without uint64) *driver {
	d, _ := newDriver(t, newBalloon())
	d.dev.Resume()
	d.start(balloonQueue, without)
	d.fill()
	d.ram.DropMarked()
	return d
}

func (d *driver) fill() {
	content := make([]byte, reportPages*memory.PageSize)
	for i := range content {
		content[i] = 1
	}
	d.ram.Write(reportAt, content)
}

// zeros returns which pages of what may be reported are zero.
func (d *driver) zeros() (pages []int) {
	for p := range reportPages {
		b, _ := d.ram.Slice(reportAt+uint64(p)*memory.PageSize, memory.PageSize)
		if memory.IsZero(b) {
			pages = append(pages, p)
		}
	}
	return pages
}

// report returns a descriptor for a range of what may be reported, by bytes.
func report(from, n int) desc {
	return desc{gpa: uint64(reportAt + from), bytes: uint32(n), flags: flagWrite}
}

func pagesFrom(first, n int) (pages []int) {
	for p := first; p < first+n; p++ {
		pages = append(pages, p)
	}
	return pages
}

// TestBalloonKeepsTheContract: reports are under way when it is quiesced.
func TestBalloonKeepsTheContract(t *testing.T) {
	devicetest.Run(t, devicetest.Suite{
		New: func() device.Device { return newBalloon() },
		Work: func(m *devicetest.Board) {
			d := driverOf(t, m.Device.(*Device), m.Windows[0], m.RAM())
			d.start(balloonQueue, 0)
			d.fill()
			r := d.queues[balloonReport]
			for i := range balloonQueue {
				r.offer(r.chain(report(i*8*memory.PageSize, 4*memory.PageSize)))
				r.ring()
			}
		},
	})
}

// TestBalloonTakesWhatIsReported: all whole pages in the ranges of a report are given back, in any
// of the queues in which a report may come, and nothing else is.
func TestBalloonTakesWhatIsReported(t *testing.T) {
	const page = memory.PageSize
	for _, c := range []struct {
		name  string
		parts []desc
		want  []int
	}{
		{"a huge page", []desc{report(0, 512*page)}, pagesFrom(0, 512)},
		{"a page", []desc{report(7*page, page)}, []int{7}},
		{"two ranges", []desc{report(9*page, page), report(3*page, 2*page)}, []int{3, 4, 9}},
		{"crooked", []desc{report(5*page-1, 2*page+2)}, []int{5, 6}},
		{"less than a page", []desc{report(5*page+1, page-1)}, nil},
		{"overlapping", []desc{report(0, 4*page), report(2*page, 4*page), report(0, page)},
			pagesFrom(0, 6)},
		{"crooked, in steps", []desc{report(1, reportPages*page-1)},
			pagesFrom(1, reportPages-1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newReporter(t, 0)
			for _, q := range []int{balloonReport, balloonReport3, balloonReport4} {
				require.Zero(t, d.queues[q].do(c.parts...))
				require.Equal(t, c.want, d.zeros())
				d.fill()
			}
			for _, q := range []int{balloonInflate, balloonDeflate} {
				require.Zero(t, d.queues[q].do(c.parts...))
				require.Zero(t, d.queues[q].do(desc{gpa: reportAt, bytes: 256}))
				require.Empty(t, d.zeros(), "the host asked for no page")
			}
		})
	}
}

// TestBalloonAnswersLast: when a report is answered, its pages are gone and marked. From then on
// the guest may write them, and the last pages of a migration are sent.
func TestBalloonAnswersLast(t *testing.T) {
	d := newReporter(t, 0)
	marked := memory.NewBitmap(memory.MinSize / memory.PageSize)
	answered := 0
	d.dev.backend.serve(request{
		chain: chain{
			writable:   []memory.Range{{GPA: reportAt, Bytes: 100 * memory.PageSize}},
			writeBytes: 100 * memory.PageSize,
		},
		queue: balloonReport, features: balloonReporting,
		done: func(written uint32, err error) {
			answered++
			require.NoError(t, err)
			require.Zero(t, written)
			require.Equal(t, pagesFrom(0, 100), d.zeros())
			d.ram.TakeMarked(marked) // queues that begin may mark pages of theirs meanwhile
			require.Equal(t, 100, marked.CountRange(reportAt/memory.PageSize, 100))
		},
	})
	require.Equal(t, 1, answered)
}

// TestBalloonDoesNotKeepAMachineWaiting: what is reported while the device is to be quiet is
// answered, and stays.
func TestBalloonDoesNotKeepAMachineWaiting(t *testing.T) {
	d := newReporter(t, 0)
	d.dev.Quiesce()
	answered := false
	d.dev.backend.serve(request{
		chain: chain{
			writable:   []memory.Range{{GPA: reportAt, Bytes: memory.PageSize}},
			writeBytes: memory.PageSize,
		},
		queue: balloonReport, features: balloonReporting,
		done: func(_ uint32, err error) { answered = err == nil },
	})
	require.True(t, answered)
	require.Empty(t, d.zeros())
	marked := memory.NewBitmap(memory.MinSize / memory.PageSize)
	d.ram.TakeMarked(marked) // queues that begin may mark pages of theirs meanwhile
	require.Zero(t, marked.CountRange(reportAt/memory.PageSize, 1))
}

// TestBalloonWithoutReporting: a driver that did not agree to reports keeps its memory.
func TestBalloonWithoutReporting(t *testing.T) {
	d := newReporter(t, balloonReporting)
	require.Zero(t, d.queues[balloonReport].do(report(0, 8*memory.PageSize)))
	require.Empty(t, d.zeros())
}

// TestBalloonAsksForNothing: what a driver reads of it.
func TestBalloonAsksForNothing(t *testing.T) {
	d := newReporter(t, 0)
	require.Zero(t, d.read(barConfig, 4), "pages to take")
	d.write(barConfig+4, 4, 5) // pages that the driver says it has given
	require.Zero(t, d.read(barConfig, 4))
}

// TestHostileReports: a report that makes no sense breaks the device, and takes nothing away. One
// of the queue's own pages harms the guest alone.
func TestHostileReports(t *testing.T) {
	for name, parts := range map[string][]desc{
		"of nothing":     {{gpa: reportAt, bytes: 8}},
		"not RAM":        {report(0, 4096), {gpa: 0xd0000000, bytes: 4096, flags: flagWrite}},
		"beyond RAM":     {{gpa: memory.MinSize - 4096, bytes: 8192, flags: flagWrite}},
		"3 GiB":          {{gpa: reportAt, bytes: 3 << 30, flags: flagWrite}},
		"around the end": {{gpa: 1<<64 - 4096, bytes: 8192, flags: flagWrite}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newReporter(t, 0)
			r := d.queues[balloonReport]
			r.offer(r.chain(parts...))
			r.ring()
			d.awaitBroken()
			require.Empty(t, d.zeros())
			require.Zero(t, r.given())
		})
	}
	t.Run("its own queue", func(t *testing.T) {
		d := newReporter(t, 0)
		r := d.queues[balloonReport]
		r.offer(r.chain(desc{gpa: r.base, bytes: ringStride, flags: flagWrite}))
		r.ring()
		d.awaitBroken() // the index in the ring has jumped to 0
		d.start(balloonQueue, 0)
		require.Zero(t, d.queues[balloonReport].do(report(0, memory.PageSize)))
		require.Equal(t, []int{0}, d.zeros())
	})
}
