package vmm

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"taskguide/vmm/device/virtio"
	"taskguide/vmm/state"
)

// A machine's network cards are connected to what this host has. They are connected before the
// guest arrives, so that it is refused where something is missing, but nothing is sent or received
// before it runs here.

// Net says what a network card is connected to.
type Net = virtio.NetConfig

// ErrNets is returned for network cards that are not the guest's.
var ErrNets = errors.New("network cards do not fit the guest")

// openNets connects a machine's cards.
func openNets(cards []Net, log *slog.Logger) ([]*virtio.Net, error) {
	if len(cards) > virtio.MaxNets {
		return nil, fmt.Errorf("%d network cards: a machine has at most %d", len(cards),
			virtio.MaxNets)
	}
	var nets []*virtio.Net
	for _, c := range cards {
		n, err := virtio.OpenNet(c, log)
		if err != nil {
			closeNets(nets)
			return nil, err
		}
		nets = append(nets, n)
	}
	return nets, nil
}

// WithAddresses returns the cards of a new machine, with random addresses for those that have none.
func WithAddresses(cards []Net) []Net {
	cards = slices.Clone(cards)
	for i := range cards {
		if cards[i].MAC == (virtio.MAC{}) {
			cards[i].MAC = virtio.RandomMAC()
		}
	}
	return cards
}

// CheckNets returns an error if a new machine with so many vCPUs cannot have the cards. Each vCPU
// drives one pair of a card's queues at a time, so more pairs than vCPUs have no use.
func CheckNets(cards []Net, cpus int) error {
	for _, c := range cards {
		if c.Queues > cpus {
			return fmt.Errorf("network card %s:%s: %d pairs of queues, and the machine has "+
				"%d vCPUs: give queues=%d or less, or more --cpus", c.Backend, c.Name, c.Queues,
				cpus, cpus)
		}
	}
	return nil
}

// openNewNets connects the cards of a new machine.
func openNewNets(cards []Net, cpus int, log *slog.Logger) ([]*virtio.Net, error) {
	if err := CheckNets(cards, cpus); err != nil {
		return nil, err
	}
	cards = WithAddresses(cards)
	seen := make(map[virtio.MAC]bool)
	for _, c := range cards {
		if seen[c.MAC] {
			return nil, fmt.Errorf("two network cards with the address %s", c.MAC)
		}
		seen[c.MAC] = true
	}
	return openNets(cards, log)
}

func closeNets(nets []*virtio.Net) {
	for _, n := range nets {
		n.Close()
	}
}

// netIdentities returns the descriptions of cards for a destination.
func netIdentities(nets []*virtio.Net) []virtio.NetIdentity {
	var all []virtio.NetIdentity
	for _, n := range nets {
		all = append(all, n.Identity())
	}
	return all
}

// openSameNets connects the cards of a guest that will arrive.
func openSameNets(cards []Net, source *machineConfig, log *slog.Logger) ([]*virtio.Net, error) {
	if len(source.Nets) > virtio.MaxNets {
		return nil, fmt.Errorf("%w: it has %d, more than any machine", ErrNets, len(source.Nets))
	}
	if len(cards) != len(source.Nets) {
		return nil, fmt.Errorf("%w: it has %d and %d were given: use vmm run --incoming%s",
			ErrNets, len(source.Nets), len(cards), backendFlags(source))
	}
	nets, err := openNets(cards, log)
	if err != nil {
		return nil, err
	}
	for i, n := range nets {
		if err := n.Become(source.Nets[i]); err != nil {
			closeNets(nets)
			return nil, fmt.Errorf("%w: %w", ErrNets, err)
		}
	}
	return nets, nil
}

// backendFlags returns the command line's flags that a guest's disks and cards need.
func backendFlags(source *machineConfig) string {
	flags := diskFlags(source.Disks) + netFlags(source.Nets) + vsockFlag(source.Vsock)
	if flags == "" {
		return " without --disk, --net and --vsock"
	}
	return flags
}

// netFlags returns the flags that a guest's cards need.
func netFlags(source []virtio.NetIdentity) string {
	var b strings.Builder
	for _, n := range source {
		switch {
		case n.Pairs > 1:
			fmt.Fprintf(&b, " --net tap:IFNAME,queues=%d", n.Pairs)
		case n.Offloads():
			b.WriteString(" --net tap:IFNAME")
		default:
			b.WriteString(" --net unix:PATH")
		}
	}
	return b.String()
}

// netKinds returns the sections of all cards that a machine may have.
func netKinds() state.Catalog {
	var c state.Catalog
	for n := range virtio.MaxNets {
		c = append(c, virtio.NetKind(n))
	}
	return c
}

// backends are what of this host a machine's devices use.
type backends struct {
	disks []*virtio.Disk
	nets  []*virtio.Net
	vsock *virtio.Vsock // nil: none
}

// openBackends opens the backends of a new machine, which owns its disks.
func openBackends(cpus int, opts Options) (backends, error) {
	var b backends
	var err error
	if b.disks, err = openDisks(opts.Disks, opts.log()); err == nil {
		ctx, stop := hostPatience()
		defer stop()
		err = ownDisks(ctx, b.disks)
	}
	if err == nil {
		b.nets, err = openNewNets(opts.Nets, cpus, opts.log())
	}
	if err == nil && opts.Vsock != nil {
		b.vsock, err = virtio.OpenVsock(*opts.Vsock)
	}
	if err != nil {
		b.close()
		return backends{}, err
	}
	return b, nil
}

// openSameBackends opens the backends of a guest that will arrive.
func openSameBackends(source *machineConfig, opts Options) (backends, error) {
	var b backends
	var err error
	if b.disks, err = openSameDisks(opts.Disks, source, opts.log()); err == nil {
		b.nets, err = openSameNets(opts.Nets, source, opts.log())
	}
	if err == nil {
		b.vsock, err = openSameVsock(opts.Vsock, source)
	}
	if err != nil {
		b.close()
		return backends{}, err
	}
	return b, nil
}

func (b *backends) close() {
	closeDisks(b.disks)
	closeNets(b.nets)
	if b.vsock != nil {
		b.vsock.Close()
	}
}
