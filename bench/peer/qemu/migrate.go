package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Compression is how multifd channels pack pages.
type Compression string

// The compressions that QEMU's multifd knows.
const (
	NoCompression Compression = "none"
	Zlib          Compression = "zlib"
	Zstd          Compression = "zstd"
)

// Migration describes how a guest is to be moved.
type Migration struct {
	BytesPerSecond int64         // limit of the source's sending; 0 is no limit
	DowntimeLimit  time.Duration // 0 is QEMU's own 300 ms

	// Channels of multifd; 0 is the classic migration over one connection.
	Channels    int
	Compression Compression // with Channels; NoCompression if empty

	// Delta turns on XBZRLE, which sends what changed in a page that was sent before. It excludes
	// Channels.
	Delta bool

	// PostCopy runs the guest at the destination once each page was sent once. It fetches pages
	// that it needs and has not got yet. DowntimeLimit has no effect.
	PostCopy bool
	// AutoConverge slows the guest's CPUs down for as long as it writes faster than is sent.
	AutoConverge bool
	// ZeroPages says who looks for zero pages, with Channels; empty is QEMU's default.
	ZeroPages Detection
}

// Detection is who looks for zero pages.
type Detection string

// The detections that a QEMU with the way ZeroPages knows.
const (
	InChannels Detection = "multifd" // the channels, each for its pages
	InFeeder   Detection = "legacy"  // the thread that feeds the channels
)

// ErrMigrationFailed is returned when QEMU gave a migration up. The guest runs on at the source,
// unless its post-copy had begun.
var ErrMigrationFailed = errors.New("QEMU's migration failed")

// ErrNoPostCopy is returned when a migration was to end in post-copy, and was over before.
var ErrNoPostCopy = errors.New("QEMU's migration was over before its post-copy began")

// unlimitedBytesPerSecond stands for no limit: QEMU versions disagree about what 0
// means.
const unlimitedBytesPerSecond = 1 << 40

// leastDowntimeMs is the least limit that QEMU takes but 0, which it may read as its default.
const leastDowntimeMs = 1

// Listen prepares a QEMU started with Incoming for one migration and returns the
// address to give to Migrate. The address is unix:PATH or tcp:HOST:PORT, where port
// 0 lets the kernel choose.
func (vm *VM) Listen(ctx context.Context, address string, m Migration) (string, error) {
	if err := vm.configure(ctx, m); err != nil {
		return "", err
	}
	if err := vm.execute(ctx, "migrate-incoming", map[string]any{"uri": address}, nil); err != nil {
		return "", err
	}
	stats, err := vm.MigrationStats(ctx)
	if err != nil {
		return "", err
	}
	for _, s := range stats.SocketAddress {
		if s.Type == "inet" {
			return "tcp:" + net.JoinHostPort(s.Host, s.Port), nil
		}
	}
	return address, nil
}

func (vm *VM) execute(ctx context.Context, command string, args, result any) error {
	return vm.explain(vm.qmp.Execute(ctx, command, args, result))
}

// configure sets what both ends of a migration have to agree on, and the limits of the
// source, which the destination ignores.
func (vm *VM) configure(ctx context.Context, m Migration) error {
	if m.Delta && m.Channels > 0 {
		return errors.New("QEMU cannot do delta encoding over multifd channels")
	}
	if m.ZeroPages != "" && m.Channels == 0 {
		return errors.New("QEMU can choose who looks for zero pages only with multifd channels")
	}
	if err := vm.require(ctx, m); err != nil {
		return err
	}
	capabilities := []capability{
		{"events", true},
		{"multifd", m.Channels > 0},
		{"xbzrle", m.Delta},
	}
	if m.PostCopy {
		capabilities = append(capabilities, capability{postCopy, true})
	}
	if m.AutoConverge {
		capabilities = append(capabilities, capability{autoConverge, true})
	}
	err := vm.execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": capabilities},
		nil)
	if err != nil {
		return err
	}
	parameters := map[string]any{"max-bandwidth": orDefault(m.BytesPerSecond,
		unlimitedBytesPerSecond)}
	if m.DowntimeLimit > 0 {
		parameters["downtime-limit"] = m.DowntimeLimit.Milliseconds()
	}
	if m.PostCopy {
		parameters["downtime-limit"] = leastDowntimeMs // so that pre-copy goes on until it begins
	}
	if m.ZeroPages != "" {
		parameters["zero-page-detection"] = m.ZeroPages
	}
	if m.Channels > 0 {
		parameters["multifd-channels"] = m.Channels
		parameters["multifd-compression"] = orDefault(m.Compression, NoCompression)
	}
	return vm.execute(ctx, "migrate-set-parameters", parameters, nil)
}

// Stats is QEMU's account of a migration, so far or at its end. See query-migrate in QEMU's QMP
// reference manual. Version 7.2 counts multifd's bytes before compression, so bytes on the wire
// must be counted at the wire.
type Stats struct {
	// none, setup, active, device, completed, failed, cancelled...
	Status     string `json:"status"`
	ErrorDesc  string `json:"error-desc"`
	TotalMs    int64  `json:"total-time"`
	SetupMs    int64  `json:"setup-time"`
	DowntimeMs int64  `json:"downtime"`          // source's CPUs stopped until all is sent
	ExpectedMs int64  `json:"expected-downtime"` // while active
	// Throttle is how much of the guest's CPU time auto-converge takes now, in percent; 0 for none.
	Throttle int64 `json:"cpu-throttle-percentage"`

	RAM struct {
		TotalBytes       int64   `json:"total"`
		RemainingBytes   int64   `json:"remaining"`
		TransferredBytes int64   `json:"transferred"` // everything sent, all channels
		MultifdBytes     int64   `json:"multifd-bytes"`
		ZeroPages        int64   `json:"duplicate"`
		NormalPages      int64   `json:"normal"`
		NormalBytes      int64   `json:"normal-bytes"`
		Rounds           int64   `json:"dirty-sync-count"`
		PostCopyBytes    int64   `json:"postcopy-bytes"`    // sent in post-copy
		PostCopyRequests int64   `json:"postcopy-requests"` // pages that the destination asked for
		DirtyPagesPerSec int64   `json:"dirty-pages-rate"`
		MegabitsPerSec   float64 `json:"mbps"`
	} `json:"ram"`

	Delta *struct {
		Bytes     int64 `json:"bytes"`
		Pages     int64 `json:"pages"`
		CacheMiss int64 `json:"cache-miss"`
		Overflow  int64 `json:"overflow"` // pages whose delta was larger than the page
	} `json:"xbzrle-cache"`

	// SocketAddress is where a destination listens.
	SocketAddress []struct {
		Type string `json:"type"` // inet, unix
		Host string `json:"host"`
		Port string `json:"port"`
		Path string `json:"path"`
	} `json:"socket-address"`
}

// MigrationStats asks QEMU about its current or last migration.
func (vm *VM) MigrationStats(ctx context.Context) (Stats, error) {
	var s Stats
	err := vm.execute(ctx, "query-migrate", nil, &s)
	return s, err
}

// statsInterval is how often a running migration is asked about itself.
const statsInterval = 50 * time.Millisecond

// Migrate moves the guest to the QEMU that listens at address and returns once the migration has
// completed or failed. It calls progress, unless nil, with QEMU's account about 20 times a second.
// The end of ctx cancels the migration.
func (vm *VM) Migrate(
	ctx context.Context, address string, m Migration, progress func(Stats),
) (Stats, error) {
	if err := vm.configure(ctx, m); err != nil {
		return Stats{}, err
	}
	if err := vm.execute(ctx, "migrate", map[string]any{"uri": address}, nil); err != nil {
		return Stats{}, err
	}
	poll := time.NewTicker(intervalOf(m))
	defer poll.Stop()
	asked, begun := false, false // post-copy
	for {
		s, err := vm.MigrationStats(context.WithoutCancel(ctx))
		if err != nil {
			return s, err
		}
		if progress != nil {
			progress(s)
		}
		begun = begun || s.RAM.PostCopyBytes > 0 || strings.HasPrefix(s.Status, "postcopy-")
		if over, err := s.over(ctx); over {
			if err == nil && m.PostCopy && !begun {
				err = ErrNoPostCopy
			}
			return s, err
		}
		if m.PostCopy && !asked && s.Status == "active" && s.RAM.Rounds > 1 {
			if err := vm.execute(ctx, "migrate-start-postcopy", nil, nil); err != nil {
				return s, err
			}
			asked = true
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			if err := vm.execute(context.WithoutCancel(ctx), "migrate_cancel", nil,
				nil); err != nil {
				return s, err
			}
			<-poll.C
		}
	}
}

// intervalOf is how often a migration is asked about itself. One that is to end in post-copy is
// asked more often, because its first round must not be over for long.
func intervalOf(m Migration) time.Duration {
	if m.PostCopy {
		return statsInterval / 10
	}
	return statsInterval
}

// over tells whether the migration has ended, and returns an error if it has failed.
func (s Stats) over(ctx context.Context) (bool, error) {
	switch s.Status {
	case "completed":
		// QEMU reports the end a moment before it has taken the times. Until then they are 0.
		return s.TotalMs > 0 || ctx.Err() != nil, nil
	case "failed", "cancelled", "postcopy-paused":
		return true, errors.Join(fmt.Errorf("%w: %s: %s", ErrMigrationFailed, s.Status,
			s.ErrorDesc), ctx.Err())
	}
	return false, nil
}
