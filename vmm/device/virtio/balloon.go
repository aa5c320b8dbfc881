package virtio

import (
	"log/slog"
	"sync/atomic"

	"taskguide/memory"
	"taskguide/vmm/device/pci"
	"taskguide/vmm/state"
)

const (
	slotBalloon  = 7
	idBalloon    = 5
	classBalloon = 0x00ff00 // none of the others

	balloonReporting = 1 << 5 // VIRTIO_BALLOON_F_PAGE_REPORTING

	// balloonQueue is the size of each queue. Linux reports 32 ranges at once, and does not report
	// at all if the queue is shorter.
	balloonQueue = 64

	// balloonConfig is the length of struct virtio_balloon_config up to the fields of features that
	// the device does not have. All of it is 0: the host asks for no page.
	balloonConfig = 8

	// balloonStep is how much is given back at once, in bytes. Quiesce waits for as much.
	balloonStep = 4 << 20
)

// The queues of a balloon. In the first two a driver would tell of pages that the host asked for.
//
// The standard numbers the queue for reports 4, and those of two features before it 2 and 3
// (VIRTIO 1.2, section 5.5.2). It also says that a feature's queue exists only with the feature,
// and Linux then moves the following queues up. So a report may come in any of the three.
const (
	balloonInflate = iota
	balloonDeflate
	balloonReport // the first of the three
	balloonReport3
	balloonReport4
	balloonQueues
)

// balloon takes memory that the guest does not use (free page reporting): the driver describes free
// pages by a chain, and uses none of them before the chain is given back. Meanwhile the host takes
// their memory. Afterwards the guest may use them again, without a word.
//
// A page is gone before it is marked as written, and marked before the chain is given back. So a
// migration that has already sent the page learns that it is zero now, and learns of everything
// that the guest writes later from the dirty log.
type balloon struct {
	ram    *memory.Guest
	device *Device
	log    *slog.Logger
	failed atomic.Bool // the log has been told that the host does not take memory
}

// BalloonKind returns the kind of a balloon's state.
func BalloonKind() state.Kind { return state.Kind{Name: "balloon", Version: 1} }

// NewBalloon returns a balloon on a bus. It takes what the guest reports, and asks for nothing.
func NewBalloon(host *pci.Host, log *slog.Logger) *Device {
	b := &balloon{log: log}
	s := spec{
		name: BalloonKind().Name, slot: slotBalloon, id: idBalloon, class: classBalloon,
		features: balloonReporting, config: make([]byte, balloonConfig),
	}
	for range balloonQueues {
		s.sizes = append(s.sizes, balloonQueue)
	}
	b.device = newDevice(host, s, b, log)
	return b.device
}

func (b *balloon) start(ram *memory.Guest) { b.ram = ram }

func (b *balloon) serve(r request) {
	if r.queue >= balloonReport && r.features&balloonReporting != 0 {
		if r.writeBytes == 0 {
			r.done(0, broken("a report of no pages"))
			return
		}
		b.release(r.writable)
	}
	r.done(0, nil)
}

// release gives ranges back to the host. It leaves out the rest once the device is to be quiet:
// that costs memory and nothing else, because the guest counts on no content.
func (b *balloon) release(ranges []memory.Range) {
	for _, r := range ranges {
		for r.Bytes > 0 {
			if b.device.stopping() {
				return
			}
			// A step ends where a page does, unless it is the last one.
			n := min(r.Bytes, balloonStep-int(r.GPA%memory.PageSize))
			if err := b.ram.Release(r.GPA, n); err != nil && !b.failed.Swap(true) {
				b.log.Warn("the host does not take the memory that the guest gives back; "+
					"this is said once", "error", err)
			}
			r.GPA, r.Bytes = r.GPA+uint64(n), r.Bytes-n
		}
	}
}

func (*balloon) close() {}
