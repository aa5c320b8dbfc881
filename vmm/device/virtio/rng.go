package virtio

import (
	"crypto/rand"
	"log/slog"

	"taskguide/memory"
	"taskguide/vmm/device/pci"
)

const (
	slotRNG   = 1
	idRNG     = 4
	classRNG  = 0x00ff00 // none of the others
	rngQueue  = 64
	rngAtOnce = 64 << 10 // most bytes for one chain
)

// rng gives its driver random bytes of the host.
type rng struct{ ram *memory.Guest }

// NewRNG returns a source of random numbers on a bus.
func NewRNG(host *pci.Host, log *slog.Logger) *Device {
	return newDevice(host, spec{
		name: "rng", slot: slotRNG, id: idRNG, class: classRNG, sizes: []uint16{rngQueue},
	}, &rng{}, log)
}

func (r *rng) start(ram *memory.Guest) { r.ram = ram }

// serve fills the ranges of a chain, or only their beginning if they are large, because it must not
// take long.
func (r *rng) serve(req request) {
	n := min(req.writeBytes, rngAtOnce)
	if n == 0 {
		req.done(0, broken("a request for random bytes has no room for any"))
		return
	}
	ranges, _ := cut(req.writable, n)
	r.ram.FillRanges(ranges, func(dst [][]byte) {
		for _, b := range dst {
			_, _ = rand.Read(b) // it never fails
		}
	})
	req.done(uint32(n), nil)
}

func (*rng) close() {}
