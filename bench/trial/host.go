package trial

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"taskguide/bench/remote"
)

// Host is another host, at which one end of each trial is.
type Host struct {
	Conn *remote.Conn
	// TLSDir is the folder there with the certificates of migrations; empty for plain text.
	TLSDir string

	mu    sync.Mutex
	files map[string]string // copied there, by their paths here
	clock remote.Clock      // as it was last compared with this host's
}

// Clocks is how the clocks of the two hosts of a trial differ.
type Clocks struct {
	// AheadMS is how far the destination's clock is ahead of the source's, and WithinMS bounds the
	// error of that.
	AheadMS  float64 `json:"ahead_ms"`
	WithinMS float64 `json:"within_ms"`
}

// CompareClocks asks both hosts for their time.
func CompareClocks(ctx context.Context, source, destination *Host) (Clocks, error) {
	var clocks [2]remote.Clock
	for i, h := range []*Host{source, destination} {
		var err error
		if clocks[i], err = h.Conn.Clock(ctx); err != nil {
			return Clocks{}, err
		}
		h.mu.Lock()
		h.clock = clocks[i]
		h.mu.Unlock()
	}
	d := clocks[1].Since(clocks[0])
	return Clocks{ms(d.Ahead), ms(d.Within)}, nil
}

// local turns a time of the host into one of this host. h may be nil: then it is one.
func (h *Host) local(t time.Time) time.Time {
	if h == nil {
		return t
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.clock.Local(t)
}

func (h *Host) call(ctx context.Context, method string, args, reply any) error {
	return h.Conn.Call(ctx, HandName+"."+method, args, reply)
}

// bring copies a file to the host, once, and returns its path there. h may be nil.
func (h *Host) bring(file string) (string, error) {
	if h == nil || file == "" {
		return file, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if at, there := h.files[file]; there {
		return at, nil
	}
	// A number, because other folders may have files of the same name.
	name := fmt.Sprintf("files/%d-%s", len(h.files), filepath.Base(file))
	at, err := h.Conn.Put(name, file)
	if err != nil {
		return "", err
	}
	if h.files == nil {
		h.files = map[string]string{}
	}
	h.files[file] = at
	return at, nil
}
