package stockkvm

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Pair is two hosts on a network of their own.
type Pair struct{ Hosts [2]*Host }

// The addresses of a pair's hosts on their network.
var pairAddresses = [2]string{"10.77.0.1", "10.77.0.2"}

// Address is the address of host 0 or 1 on the pair's network.
func (p *Pair) Address(host int) string { return pairAddresses[host] }

// StartPair boots two hosts from the same initramfs, the second once the first is up:
// their uptimes and TSCs differ by that much. change, unless nil, may change each
// host's configuration first.
func (r *Rig) StartPair(ctx context.Context, initramfs string, change func(host int, cfg *HostConfig)) (*Pair, error) {
	a, b, err := Wire()
	if err != nil {
		return nil, err
	}
	// QEMU has its own copies once it is started.
	defer a.Close()
	defer b.Close()
	p := &Pair{}
	tscKHz := 0
	for i, end := range []*os.File{a, b} {
		cfg, err := r.HostConfig(fmt.Sprintf("pair-%d", i), initramfs)
		if err != nil {
			p.Close()
			return nil, err
		}
		cfg.Network, cfg.Address = end, pairAddresses[i]+"/24"
		cfg.MAC = fmt.Sprintf("52:54:00:77:00:%02x", i+1)
		cfg.MemoryMiB = 1024
		cfg.TSCKHz = tscKHz
		if change != nil {
			change(i, &cfg)
		}
		if p.Hosts[i], err = StartHost(ctx, cfg); err != nil {
			p.Close()
			return nil, fmt.Errorf("host %d of a pair: %w", i, err)
		}
		tscKHz = p.Hosts[i].Hello().TSCKHz
	}
	return p, nil
}

// SetClocks gives both hosts the same wall clock and returns by how much they may still
// differ.
func (p *Pair) SetClocks(ctx context.Context) (time.Duration, error) {
	var sum time.Duration
	for i, h := range p.Hosts {
		offset, uncertainty, err := h.SetClock(ctx)
		if err != nil {
			return 0, fmt.Errorf("clock of host %d: %w", i, err)
		}
		sum += offset.Abs() + uncertainty
	}
	return sum, nil
}

// Close ends both hosts.
func (p *Pair) Close() {
	for _, h := range p.Hosts {
		if h != nil {
			h.Close()
		}
	}
}
