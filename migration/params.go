package migration

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"taskguide/migration/policy"
	"taskguide/migration/program"
	"taskguide/tagging"
	"taskguide/transport"
)

// Rule names a policy, which decides when pre-copy has converged, in the form that policy.Parse
// reads.
type Rule string

const (
	// RuleDowntime is satisfied when the remaining dirty pages fit the downtime
	// limit at the measured bandwidth.
	RuleDowntime Rule = "downtime"
	// RuleXen is the classic rule set of Xen's toolstack: fewer than 50 dirty
	// pages, 29 rounds, or three times the RAM sent.
	RuleXen Rule = "xen"
)

// Rules returns all rules, the default first.
func Rules() []Rule {
	var rules []Rule
	for _, name := range policy.Names() {
		rules = append(rules, Rule(name))
	}
	return rules
}

// Guidance says what a closed gate holds back.
type Guidance = policy.Guidance

// What Guidance may be.
const (
	GuidanceSwitchover = policy.GuidanceSwitchover
	GuidanceSuspend    = policy.GuidanceSuspend
	GuidanceStart      = policy.GuidanceStart
	GuidanceOff        = policy.GuidanceOff
	GuidanceNone       = policy.GuidanceNone // reported, never asked for
)

// OnTimeout says what happens once a migration has been held back for MaxDefer.
type OnTimeout = policy.OnTimeout

// What OnTimeout may be.
const (
	TimeoutForce  = policy.TimeoutForce
	TimeoutCancel = policy.TimeoutCancel
)

// Compress chooses the encoding of pages that are not zero.
type Compress string

const (
	CompressAuto Compress = "auto" // compress when it wins on this link
	CompressZstd Compress = "zstd"
	CompressNone Compress = "none"
)

// packings are the packings to choose from, by effort.
func (c Compress) packings() []transport.Packing {
	switch c {
	case CompressNone:
		return []transport.Packing{transport.PackRaw}
	case CompressZstd:
		return []transport.Packing{transport.PackFast, transport.PackSmall}
	}
	return []transport.Packing{transport.PackRaw, transport.PackFast, transport.PackSmall}
}

// Params is one migration's order. The zero value of an optional field means its default. The body
// of POST /v1/migration has these fields, and package control adds words for the times.
type Params struct {
	// Destination is tcp:HOST:PORT or unix:PATH.
	Destination string `json:"destination"`
	Rule        Rule   `json:"rule"`
	// PolicyLimit is how long the program of an exec policy may lead; 0 means ten minutes.
	PolicyLimit time.Duration `json:"policy_limit_ns,omitempty"`
	// Shadow are policies that are asked, too, and not obeyed, in the form that policy.ParseList
	// reads. The report says what they would have done.
	Shadow        string        `json:"shadow,omitempty"`
	DowntimeLimit time.Duration `json:"downtime_limit_ns"`
	// MaxRounds is the rule's parameter max-rounds, unless Rule sets it: pre-copy ends after that
	// many rounds, whether or not the rule is satisfied. 0 means the rule's default.
	MaxRounds int      `json:"max_rounds"`
	Guidance  Guidance `json:"guidance"`
	// Gate is "all" or "any": how many of the tasks must be inside a segment.
	Gate tagging.Quorum `json:"gate"`
	// SwitchAtExit, when set, overrides the default: on with GuidanceSwitchover.
	SwitchAtExit *bool         `json:"switch_at_exit,omitempty"`
	MaxDefer     time.Duration `json:"max_defer_ns"`
	OnTimeout    OnTimeout     `json:"on_timeout"`
	// StandstillLimit is how long the guest may stand still before its switchover is taken back,
	// while that is still possible. 0 means ten times the downtime limit and at least a second, but
	// no limit for a switchover that was forced or whose rule gave up. NoStandstillLimit means
	// none.
	StandstillLimit time.Duration `json:"standstill_limit_ns,omitempty"`
	// StandstillRetries is how many switchovers may be taken back; with that many, the migration
	// ends.
	StandstillRetries int `json:"standstill_retries,omitempty"`
	// BitsPerSecond limits the page stream of all channels together; 0 is unlimited.
	BitsPerSecond int64 `json:"bits_per_second"`
	// Channels is the number of parallel connections; 0 lets the engine choose.
	Channels int      `json:"channels"`
	Compress Compress `json:"compress"`
	Delta    bool     `json:"delta"`
	Verify   bool     `json:"verify"`
	// TLSDir holds ca.pem, cert.pem and key.pem; empty means no TLS.
	TLSDir string `json:"tls_dir,omitempty"`
	// Insecure lets the guest go to another host without TLS.
	Insecure bool `json:"insecure,omitempty"`
}

// Bounds of Params, and what a value may stand for.
const (
	MaxChannels = 16

	// DefaultDowntimeLimit is the downtime limit of a policy without one of its own.
	DefaultDowntimeLimit = policy.DefaultLimit

	// DefaultPolicyLimit is how long a program may lead.
	DefaultPolicyLimit = 10 * time.Minute
	// MaxShadows is how many shadows there may be.
	MaxShadows = 8

	minStandstillLimit = time.Second
	standstillFactor   = 10 // of the downtime limit

	// NoTime is a limit of zero, because 0 stands for the default. As a downtime limit it means
	// that nothing dirty may be left; as MaxDefer, that guidance may not defer the migration at
	// all.
	NoTime = time.Duration(-1)
	// NoStandstillLimit lets the guest stand still for as long as it takes.
	NoStandstillLimit = time.Duration(-1)
)

// Defaults returns the nonzero values of an order that gives only the destination. Defaults come
// from here and from the registry of policies alone; the registry has those of the policies'
// parameters, so a policy with a limit of its own also has that limit's default.
func Defaults() Params {
	return Params{
		Rule:              policy.Default,
		DowntimeLimit:     DefaultDowntimeLimit,
		Guidance:          GuidanceSwitchover,
		Gate:              tagging.All,
		MaxDefer:          time.Minute,
		OnTimeout:         TimeoutForce,
		StandstillRetries: 3,
		Compress:          CompressAuto,
	}
}

// WithDefaults fills in what was left out, and returns an error for what makes no sense.
func (p Params) WithDefaults() (Params, error) {
	d := Defaults()
	setDefault(&p.Rule, d.Rule)
	if p.MaxRounds >= 0 && p.DowntimeLimit >= NoTime {
		p.followPolicy()
	}
	setDefault(&p.DowntimeLimit, d.DowntimeLimit)
	setDefault(&p.Guidance, d.Guidance)
	setDefault(&p.Gate, d.Gate)
	setDefault(&p.MaxDefer, d.MaxDefer)
	setDefault(&p.OnTimeout, d.OnTimeout)
	setDefault(&p.StandstillRetries, d.StandstillRetries)
	setDefault(&p.Compress, d.Compress)
	if p.SwitchAtExit == nil {
		on := p.Guidance == GuidanceSwitchover
		p.SwitchAtExit = &on
	}
	return p, p.validate()
}

// followPolicy copies the values of the policy's parameters to the fields with the same meaning, so
// that all code that reads these fields uses the policy's values.
func (p *Params) followPolicy() {
	c, err := p.choice()
	if err != nil {
		return
	}
	fields := p.forPolicy(p.DowntimeLimit)
	if n, err := strconv.Atoi(c.Value(maxRounds, fields)); err == nil {
		p.MaxRounds = n
	}
	if d, err := time.ParseDuration(c.Value(limit, fields)); err == nil {
		p.DowntimeLimit = orNoTime(d)
	}
}

// orNoTime returns a limit for a field in which 0 stands for the default: 0 becomes NoTime.
func orNoTime(d time.Duration) time.Duration {
	if d == 0 {
		return NoTime
	}
	return d
}

// downtimeLimit and maxDefer are the limits in use, with NoTime as 0.
func (p Params) downtimeLimit() time.Duration { return max(p.DowntimeLimit, 0) }
func (p Params) maxDefer() time.Duration      { return max(p.MaxDefer, 0) }
func (p Params) policyLimit() time.Duration {
	return cmp.Or(p.PolicyLimit, DefaultPolicyLimit)
}

// choice returns the policy that Rule names.
func (p Params) choice() (policy.Choice, error) {
	c, err := policy.Parse(string(p.Rule))
	if err != nil {
		return c, fmt.Errorf("rule %w", err)
	}
	return c, nil
}

// The parameters of policies that MaxRounds and DowntimeLimit set.
const (
	maxRounds = "max-rounds"
	limit     = "limit"
)

// forPolicy returns the parameters of policies that other fields set: the time that the rest must
// fit, and the number of rounds after which to give up.
func (p Params) forPolicy(fits time.Duration) policy.Values {
	v := policy.Values{}
	if fits != 0 {
		v[limit] = max(fits, 0).String()
	}
	if p.MaxRounds > 0 {
		v[maxRounds] = strconv.Itoa(p.MaxRounds)
	}
	return v
}

// policy returns the policy that says when pre-copy has converged.
func (p Params) policy(choice policy.Choice) (policy.Policy, error) {
	fits := p.promise()
	if fits < p.downtimeLimit() {
		choice = choice.With(limit, fits.String())
	}
	return choice.New(p.forPolicy(orNoTime(fits)))
}

// counsel returns who is asked besides the head.
func (p Params) counsel(choice policy.Choice) (*program.Counsel, error) {
	shadows, err := p.shadows()
	if err != nil {
		return nil, err
	}
	return program.NewCounsel(choice.Program(), shadows, p.forPolicy(orNoTime(p.promise())))
}

// shadows are the policies that are asked and not obeyed.
func (p Params) shadows() ([]policy.Choice, error) {
	if p.Shadow == "" {
		return nil, nil
	}
	all, err := policy.ParseList(p.Shadow)
	switch {
	case err != nil:
		return nil, fmt.Errorf("shadow %w", err)
	case len(all) > MaxShadows:
		return nil, fmt.Errorf("%d shadows: use at most %d", len(all), MaxShadows)
	}
	for _, c := range all {
		if err := checkProgram(c); err != nil {
			return nil, fmt.Errorf("shadow %w", err)
		}
	}
	return all, nil
}

// checkProgram refuses a program whose path depends on where it is read.
func checkProgram(c policy.Choice) error {
	if path := c.Program(); path != "" && !filepath.IsAbs(path) {
		return fmt.Errorf("%q: want exec: and an absolute path", c)
	}
	return nil
}

// newHead returns the head of a migration with these parameters, which must be validated.
func (p Params) newHead(choice policy.Choice, rule policy.Policy) *policy.Head {
	return policy.NewHead(policy.Config{
		Policy:    rule,
		Remote:    choice.Program() != "",
		Polish:    choice.Traits().Polish,
		Guidance:  p.Guidance,
		AtExit:    p.switchAtExit(),
		Retries:   p.StandstillRetries,
		MaxDefer:  p.maxDefer(),
		OnTimeout: p.OnTimeout,
	})
}

// standstillLimit is how long a switchover may take, 0 for any time. An exempt switchover has no
// limit by default.
func (p Params) standstillLimit(exempt bool) time.Duration {
	switch {
	case p.StandstillLimit == NoStandstillLimit, p.StandstillLimit == 0 && exempt:
		return 0
	case p.StandstillLimit > 0:
		return p.StandstillLimit
	case p.DowntimeLimit > math.MaxInt64/standstillFactor:
		return math.MaxInt64
	}
	return max(standstillFactor*p.downtimeLimit(), minStandstillLimit)
}

// promise is the time that the remaining pages must fit for a rule that has a limit. It is at most
// the standstill limit, so that no switchover begins that is expected to be taken back.
func (p Params) promise() time.Duration {
	if p.StandstillLimit > 0 {
		return min(p.downtimeLimit(), p.StandstillLimit)
	}
	return p.downtimeLimit()
}

func (p Params) switchAtExit() bool { return p.SwitchAtExit != nil && *p.SwitchAtExit }

// CheckWay returns an error for a destination that is not an address, and for one that would be
// reached in plain text over a network, unless Insecure allows it.
func (p Params) CheckWay() error {
	if p.TLSDir != "" {
		_, _, err := transport.ParseAddress(p.Destination)
		return err
	}
	return transport.Security{Plain: p.plain()}.Check(p.Destination)
}

func (p Params) plain() transport.Plain {
	if p.Insecure {
		return transport.PlainAnywhere
	}
	return transport.PlainLocal
}

func (p Params) validate() error {
	if p.Destination == "" {
		return fmt.Errorf("no destination given: use tcp:HOST:PORT or unix:PATH")
	}
	c, err := p.choice()
	if err != nil {
		return err
	}
	if err := checkProgram(c); err != nil {
		return fmt.Errorf("rule %w", err)
	}
	if p.PolicyLimit < 0 {
		return errors.New("policy limit: use more than 0")
	}
	if _, err := p.counsel(c); err != nil {
		return err
	}
	if p.MaxRounds > 0 && c.Value(maxRounds, nil) == "" {
		return fmt.Errorf("max rounds %d: %s has no parameter %s", p.MaxRounds, c.Name(), maxRounds)
	}
	if err := oneOf("guidance", p.Guidance, GuidanceSwitchover, GuidanceSuspend, GuidanceStart,
		GuidanceOff); err != nil {
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
	if p.Insecure && p.TLSDir != "" {
		return fmt.Errorf("insecure, and a directory for TLS: use one of them")
	}
	if p.DowntimeLimit < NoTime {
		return fmt.Errorf("downtime limit %v is negative", p.DowntimeLimit)
	}
	if p.MaxDefer < NoTime {
		return fmt.Errorf("max defer %v is negative", p.MaxDefer)
	}
	if p.StandstillLimit < 0 && p.StandstillLimit != NoStandstillLimit {
		return fmt.Errorf("standstill limit %v is negative", p.StandstillLimit)
	}
	if p.StandstillRetries < 0 {
		return fmt.Errorf("standstill retries %d is negative", p.StandstillRetries)
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
	if _, err := c.New(p.forPolicy(p.promise())); err != nil {
		return fmt.Errorf("rule %q: %w", p.Rule, err)
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
