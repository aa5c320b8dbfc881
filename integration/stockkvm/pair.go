package stockkvm

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Pair is two hosts on their own network.
type Pair struct{ Hosts [2]*Host }

// PairNames are the names of a pair's hosts, by which they know each other.
var PairNames = [2]string{"a", "b"}

// The addresses of a pair's hosts on their network.
var pairAddresses = [2]string{"10.77.0.1", "10.77.0.2"}

// Address is the address of host 0 or 1 on the pair's network.
func (p *Pair) Address(host int) string { return pairAddresses[host] }

// PairHosts is the file that tells each host of a pair the addresses of both.
func PairHosts() File {
	text := "127.0.0.1 localhost\n"
	for i, name := range PairNames {
		text += pairAddresses[i] + " " + name + "\n"
	}
	return Content("/etc/hosts", 0o644, []byte(text))
}

// pairMemoryMiB is the memory of each host of a pair, unless its configuration sets another.
const pairMemoryMiB = 1024

// StartPair boots two hosts from the same initramfs. Unless nil, change may first change each
// host's configuration.
func (r *Rig) StartPair(
	ctx context.Context, initramfs string, change func(host int, cfg *HostConfig),
) (*Pair, error) {
	var configs [2]HostConfig
	for i, name := range PairNames {
		cfg, err := r.HostConfig("pair-"+name, initramfs)
		if err != nil {
			return nil, err
		}
		cfg.MemoryMiB = pairMemoryMiB
		if change != nil {
			change(i, &cfg)
		}
		configs[i] = cfg
	}
	return StartPairOf(ctx, configs)
}

// StartPairOf boots two hosts and joins them by a network. The second one boots once the first is
// up, so their uptimes and TSCs differ by that time.
func StartPairOf(ctx context.Context, configs [2]HostConfig) (*Pair, error) {
	a, b, err := Wire()
	if err != nil {
		return nil, err
	}
	// QEMU has its own copies once it has started.
	defer a.Close()
	defer b.Close()
	p := &Pair{}
	tscKHz := 0
	for i, end := range []*os.File{a, b} {
		cfg := configs[i]
		cfg.Name = PairNames[i]
		cfg.Network, cfg.Address = end, pairAddresses[i]+"/24"
		cfg.MAC = fmt.Sprintf("52:54:00:77:00:%02x", i+1)
		cfg.TSCKHz = tscKHz
		if p.Hosts[i], err = StartHost(ctx, cfg); err != nil {
			p.Close()
			return nil, fmt.Errorf("host %s of a pair: %w", PairNames[i], err)
		}
		tscKHz = p.Hosts[i].Hello().TSCKHz
	}
	return p, nil
}

// SetClocks gives both hosts the same wall clock and returns by how much they may still differ.
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
