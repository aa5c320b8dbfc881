package trial

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// Hosts are the hosts of trials. A nil *Hosts is this host as both.
type Hosts struct{ Source, Destination *Host }

func (h *Hosts) both() []*Host { return []*Host{h.Source, h.Destination} }

// plain tells whether guests leave the host in plain text.
func (site *Site) plain() bool {
	if site.Hosts == nil {
		return site.Link != nil
	}
	return site.Hosts.Destination.TLSDir == ""
}

// anyAddress is where to listen to be reached by that name or address. A host's own idea of its
// name may be an address of its loopback.
func anyAddress(of string) string {
	if strings.Contains(of, ":") {
		return "::"
	}
	return "0.0.0.0"
}

// reach turns the address at which a destination listens into one for the source.
func (h *Hosts) reach(incoming string) (string, error) {
	if h == nil {
		return incoming, nil
	}
	address, ok := strings.CutPrefix(incoming, "tcp:")
	_, port, err := net.SplitHostPort(address)
	if !ok || err != nil {
		return "", fmt.Errorf("the destination listens at %q, which is no TCP address", incoming)
	}
	return "tcp:" + net.JoinHostPort(h.Destination.Conn.Address, port), nil
}

// beginTrial compares the hosts' clocks.
func (h *Hosts) beginTrial(ctx context.Context, r *Result) error {
	if h == nil {
		return nil
	}
	if what := r.Spec.LocalOnly(); what != "" {
		return fmt.Errorf("it takes %s, and cannot be between two hosts", what)
	}
	clocks, err := CompareClocks(ctx, h.Source, h.Destination)
	if err == nil {
		r.Clocks = &clocks
	}
	return err
}

// makeFolders makes the counterparts of a folder of this host.
func (h *Hosts) makeFolders(ctx context.Context, dir string) error {
	if h == nil {
		return nil
	}
	for _, at := range h.both() {
		var path string
		if err := at.call(ctx, "MakeFolder", filepath.Base(dir), &path); err != nil {
			return err
		}
	}
	return nil
}

// removeFolders removes what makeFolders made. The end of an agent does so, too.
func (h *Hosts) removeFolders(dir string) {
	if h == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	for _, at := range h.both() {
		_ = at.call(ctx, "RemoveFolder", filepath.Base(dir), &struct{}{})
	}
}

// listen measures what the hosts do before a trial, and begins to measure what others do in it.
// heard ends that. What counts is the host with more to do.
func (h *Hosts) listen(ctx context.Context, before *Noise) (heard func() NoiseDuring) {
	if h == nil {
		*before = listen(ctx)
		return newListener().stop
	}
	for _, at := range h.both() {
		var n Noise
		if at.call(ctx, "Quiet", struct{}{}, &n) == nil {
			before.worse(n)
		}
		_ = at.call(ctx, "Listen", struct{}{}, &struct{}{}) // then nothing is heard
	}
	return func() (during NoiseDuring) {
		ctx, cancel := context.WithTimeout(context.Background(), callPatience)
		defer cancel()
		for _, at := range h.both() {
			var n NoiseDuring
			if at.call(ctx, "Heard", struct{}{}, &n) == nil {
				during.worse(n)
			}
		}
		return during
	}
}

// worse takes the greater of each figure.
func (n *Noise) worse(of Noise) {
	n.Load1 = max(n.Load1, of.Load1)
	n.BusyCPUs = max(n.BusyCPUs, of.BusyCPUs)
	n.StolenCPUs = max(n.StolenCPUs, of.StolenCPUs)
}

// worse takes the greater of each figure.
func (n *NoiseDuring) worse(of NoiseDuring) {
	n.OthersCPUs = max(n.OthersCPUs, of.OthersCPUs)
	n.OthersPeakCPUs = max(n.OthersPeakCPUs, of.OthersPeakCPUs)
	n.StolenCPUs = max(n.StolenCPUs, of.StolenCPUs)
	n.StolenPeakCPUs = max(n.StolenPeakCPUs, of.StolenPeakCPUs)
}
