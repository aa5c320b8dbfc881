package migration

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/migration/peer"
	"taskguide/transport"
)

// bigMachine is a machine with much RAM that nobody has touched.
type bigMachine struct {
	*fakeMachine
	big *memory.RAM
	log dirtylog.Tracker
}

func (b bigMachine) RAM() *memory.RAM          { return b.big }
func (b bigMachine) Tracker() dirtylog.Tracker { return b.log }

// flatLog reports pages as KVM does: a call for each slot fills a whole flat bitmap. The time to
// fill it is KVM's share and counted apart; looking through it is the tracker's work, and counts.
type flatLog struct {
	fakeTracker
	dirty []int
	slot  int // pages
	flat  []uint64
	kvm   time.Duration
	marks *memory.Marks
}

func (l *flatLog) Harvest(dirty *memory.Bitmap) (int, error) {
	n := 0
	for first := 0; first < dirty.Len(); first += l.slot {
		flat := l.flat[:min(l.slot, dirty.Len()-first)/64]
		begin := time.Now()
		clear(flat)
		for _, p := range l.dirty {
			if p >= first && p < first+l.slot {
				flat[(p-first)/64] |= 1 << (p % 64)
			}
		}
		l.kvm += time.Since(begin)
		n += dirty.AddFlat(first, flat)
	}
	return n + l.marks.TakeInto(dirty), nil
}

func (l *flatLog) Protect(*memory.Bitmap, int, int) error { return nil }

// nowhere takes what is written, at once.
type nowhere struct{ net.Conn }

func (nowhere) Write(b []byte) (int, error)      { return len(b), nil }
func (nowhere) Close() error                     { return nil }
func (nowhere) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkBookkeeping measures what the engine itself adds to the downtime of a large guest with
// 100 dirty pages: last harvest, last round, and the look that nothing is left. KVM's share,
// filling the dirty log's bitmap, is not in ns/op. It is reported as a lower bound: the time to
// write that many bytes. docs/results/bookkeeping.md has the times of real KVMs.
func BenchmarkBookkeeping(b *testing.B) {
	for _, gib := range []int64{64, 1024} {
		for _, manual := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dGiB/on-demand=%v", gib, manual), func(b *testing.B) {
				ram, err := memory.New(gib << 30)
				require.NoError(b, err)
				defer ram.Close()
				m := newFakeMachine(b, idle)
				defer m.ram.Close()
				slot := min(ram.Pages(), 64<<30/memory.PageSize)
				marks := memory.NewMarks(ram.Pages())
				log := &flatLog{slot: slot, flat: make([]uint64, slot/64), marks: marks}
				log.onDemand = manual
				p, err := Params{Destination: "tcp:x:1", Compress: CompressNone}.WithDefaults()
				require.NoError(b, err)
				s := newSource(bigMachine{m, ram, log}, p, nil, peer.Config{})
				for channel := range 2 {
					s.peer.Put(channel, transport.NewConn(nowhere{}))
				}
				require.NoError(b, s.openStream(context.Background()))
				for i := range 100 {
					log.dirty = append(log.dirty, i*(ram.Pages()/100))
				}
				s.closeRound(Round{N: 1}) // round 1 accounts for holes
				b.ResetTimer()
				begin := time.Now()
				for range b.N {
					if _, _, err := s.stream.TakeDirty(); err != nil {
						b.Fatal(err)
					}
					r, err := s.sendRound(context.Background(), PhaseStopCopy)
					if err != nil || r.DirtyPages != 100 || s.stream.Pending().Count() != 0 {
						b.Fatal(err, r)
					}
				}
				elapsed := time.Since(begin)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(ms(elapsed-log.kvm)/float64(b.N), "own-ms/op")
				b.ReportMetric(ms(log.kvm)/float64(b.N), "fill-ms/op")
			})
		}
	}
}
