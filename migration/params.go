package migration

import (
	"fmt"
	"time"

	"taskguide/tagging"
)

// Rule names the test that decides when pre-copy has converged.
type Rule string

const (
	// RuleDowntime is satisfied when the remaining dirty pages fit the downtime
	// limit at the measured bandwidth.
	RuleDowntime Rule = "downtime"
	// RuleXen is the classic rule set of Xen's toolstack: fewer than 50 dirty
	// pages, 29 rounds, or three times the RAM sent.
	RuleXen Rule = "xen"
)

// Guidance says what a closed gate holds back.
type Guidance string

const (
	GuidanceSwitchover Guidance = "switchover" // only the stop-and-copy waits for the gate
	GuidanceSuspend    Guidance = "suspend"    // as start, and a closing gate suspends the page stream
	GuidanceStart      Guidance = "start"      // the migration begins once the gate is open
	GuidanceOff        Guidance = "off"        // nothing waits
	// GuidanceNone is reported, never asked for: the guest has no registered task.
	GuidanceNone Guidance = "none"
)

// OnTimeout says what happens once a migration was held back for MaxDefer.
type OnTimeout string

const (
	TimeoutForce  OnTimeout = "force"  // the rule alone decides from then on
	TimeoutCancel OnTimeout = "cancel" // the migration ends, the guest stays
)

// Compress chooses the encoding of pages that are not zero.
type Compress string

const (
	CompressAuto Compress = "auto" // compress when it wins on this link
	CompressZstd Compress = "zstd"
	CompressNone Compress = "none"
)

// Params is one migration's order, as POSTed to /v1/migration. The zero value of
// an optional field means its default; durations travel as nanoseconds.
type Params struct {
	// Destination is tcp:HOST:PORT or unix:PATH.
	Destination   string        `json:"destination"`
	Rule          Rule          `json:"rule"`
	DowntimeLimit time.Duration `json:"downtime_limit_ns"`
	// MaxRounds ends pre-copy after that many rounds, whether or not the rule is
	// satisfied. 0: 29 under RuleXen, no limit under RuleDowntime.
	MaxRounds int      `json:"max_rounds"`
	Guidance  Guidance `json:"guidance"`
	// Gate is "all" or "any": which tasks must be inside a segment.
	Gate tagging.Policy `json:"gate"`
	// SwitchAtExit, when set, overrides the default: on with GuidanceSwitchover.
	SwitchAtExit *bool         `json:"switch_at_exit,omitempty"`
	MaxDefer     time.Duration `json:"max_defer_ns"`
	OnTimeout    OnTimeout     `json:"on_timeout"`
	// BitsPerSecond limits the page stream of all channels together; 0 is unlimited.
	BitsPerSecond int64 `json:"bits_per_second"`
	// Channels is the number of parallel connections; 0 lets the engine choose.
	Channels int      `json:"channels"`
	Compress Compress `json:"compress"`
	Delta    bool     `json:"delta"`
	Verify   bool     `json:"verify"`
	// TLSDir holds ca.pem, cert.pem and key.pem; empty means no TLS.
	TLSDir string `json:"tls_dir,omitempty"`
}

// Defaults of Params.
const (
	DefaultDowntimeLimit = 300 * time.Millisecond
	DefaultMaxDefer      = 60 * time.Second
	MaxChannels          = 16
)

// WithDefaults fills in what was left out and refuses what makes no sense.
func (p Params) WithDefaults() (Params, error) {
	setDefault(&p.Rule, RuleDowntime)
	setDefault(&p.DowntimeLimit, DefaultDowntimeLimit)
	setDefault(&p.Guidance, GuidanceSwitchover)
	setDefault(&p.Gate, tagging.All)
	setDefault(&p.MaxDefer, DefaultMaxDefer)
	setDefault(&p.OnTimeout, TimeoutForce)
	setDefault(&p.Compress, CompressAuto)
	if p.MaxRounds == 0 && p.Rule == RuleXen {
		p.MaxRounds = xenMaxRounds
	}
	if p.SwitchAtExit == nil {
		on := p.Guidance == GuidanceSwitchover
		p.SwitchAtExit = &on
	}
	return p, p.validate()
}

// deferLimit is MaxDefer as it is told: of the nanosecond that stands for "not at all" it makes 0.
func (p Params) deferLimit() time.Duration { return p.MaxDefer.Round(time.Microsecond) }

func (p Params) switchAtExit() bool { return p.SwitchAtExit != nil && *p.SwitchAtExit }

func (p Params) validate() error {
	if p.Destination == "" {
		return fmt.Errorf("no destination given: use tcp:HOST:PORT or unix:PATH")
	}
	if err := oneOf("rule", p.Rule, RuleDowntime, RuleXen); err != nil {
		return err
	}
	if err := oneOf("guidance", p.Guidance, GuidanceSwitchover, GuidanceSuspend, GuidanceStart, GuidanceOff); err != nil {
		return err
	}
	if err := oneOf("gate", p.Gate, tagging.All, tagging.Any); err != nil {
		return err
	}
	if err := oneOf("on-timeout", p.OnTimeout, TimeoutForce, TimeoutCancel); err != nil {
		return err
	}
	if err := oneOf("compress", p.Compress, CompressAuto, CompressZstd, CompressNone); err != nil {
		return err
	}
	if p.DowntimeLimit < 0 {
		return fmt.Errorf("downtime limit %v is negative", p.DowntimeLimit)
	}
	if p.MaxDefer < 0 {
		return fmt.Errorf("max defer %v is negative", p.MaxDefer)
	}
	if p.MaxRounds < 0 {
		return fmt.Errorf("max rounds %d is negative", p.MaxRounds)
	}
	if p.BitsPerSecond < 0 {
		return fmt.Errorf("bandwidth %d bit/s is negative", p.BitsPerSecond)
	}
	if p.Channels < 0 || p.Channels > MaxChannels {
		return fmt.Errorf("%d channels: use 1 to %d", p.Channels, MaxChannels)
	}
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func oneOf[T ~string](what string, got T, want ...T) error {
	for _, w := range want {
		if got == w {
			return nil
		}
	}
	return fmt.Errorf("%s %q is unknown: use one of %v", what, got, want)
}
