package sim

import (
	"cmp"
	"fmt"
	"time"

	"taskguide/migration/policy"
)

// Compress chooses the encoding of pages with content, as for a migration.
type Compress string

// The encodings.
const (
	CompressAuto Compress = "auto"
	CompressZstd Compress = "zstd"
	CompressNone Compress = "none"
)

// Protection says how pages are protected under the dirty log.
type Protection string

// The protections.
const (
	// AtHarvest protects pages when the dirty log is read, as KVM_GET_DIRTY_LOG does.
	AtHarvest Protection = "harvest"
	// OnDemand leaves protection to the engine: with the trait protect=page, each stretch of pages
	// is protected just before it is read.
	OnDemand Protection = "demand"
)

// Setting is the conditions of a simulated move.
type Setting struct {
	// BitsPerSecond is the rate of the page stream, 0 for as fast as the host copies.
	BitsPerSecond int64         `json:"bits_per_second"`
	RTT           time.Duration `json:"rtt_ns"`
	// Ack is how long the link takes to acknowledge bytes; 0 is a round trip. TCP that ends at a
	// relay acknowledges at once.
	Ack        time.Duration `json:"ack_ns,omitempty"`
	Compress   Compress      `json:"compress"`
	Protection Protection    `json:"protection"`
	Costs      Costs         `json:"costs"`
}

// Costs are what the steps of a move take on a host, apart from bytes on a link.
type Costs struct {
	// Setup is from the request to the first round, without round trips.
	Setup time.Duration `json:"setup_ns"`
	// Pause is from the decision until the vCPUs stand still, with the last look at the dirty log.
	Pause time.Duration `json:"pause_ns"`
	// Handover is what of the downtime depends neither on pages nor on round trips: saving and
	// loading the state, and the vCPUs' start.
	Handover time.Duration `json:"handover_ns"`
	Page     time.Duration `json:"page_ns"` // to look at a page with content, and to copy it
	Zero     time.Duration `json:"zero_ns"` // to look at a zero page
	// Stage is to look at a page that is compressed, and to copy it to where that happens. Pack is
	// to compress it then: at the trace's first moment, and in proportion to that later.
	Stage   time.Duration `json:"stage_ns"`
	Pack    time.Duration `json:"pack_ns"`
	Receive time.Duration `json:"receive_ns"` // of the destination, for a page with content
	// Processors are what the guest and both ends share, 0 for as many as they need. With one for
	// each vCPU and three more, nobody waits.
	Processors int `json:"processors"`
}

// ProcessorsNote stands beside figures of the simulator.
func (c Costs) ProcessorsNote() string {
	if c.Processors == 0 {
		return "That a migration slows the guest down is not modelled."
	}
	return fmt.Sprintf("The simulated guest and both ends of its move share %d processors; "+
		"nothing else slows the guest down.", c.Processors)
}

// NotModelled are what simulated figures leave out.
func (c Costs) NotModelled() []string {
	slowdown := "that faults and caches slow a moved guest down"
	if c.Processors == 0 {
		slowdown = "that a migration slows the guest down"
	}
	return []string{slowdown, "disks, devices that drain slowly, delta, lost packets"}
}

// DefaultCosts are rounded. Page and Zero follow from the speeds of "full" and "idle, ready" in
// docs/results/speed.md, and Pack, for a trace that does not say it, from BenchmarkEncode of
// package transport. The others are what vmm bench run simulated has measured where the host was
// least busy. Processors are enough.
func DefaultCosts() Costs {
	return Costs{
		Setup: 25 * time.Millisecond, Pause: 100 * time.Microsecond,
		Handover: 500 * time.Microsecond, Page: 1900 * time.Nanosecond,
		Zero: 220 * time.Nanosecond, Stage: 500 * time.Nanosecond, Pack: 10 * time.Microsecond,
		Receive: 300 * time.Nanosecond,
	}
}

// DefaultSetting is a gigabit link, with the protection that a trace's tracker has.
func DefaultSetting(t *Trace) Setting {
	s := Setting{
		BitsPerSecond: 1e9, RTT: 100 * time.Microsecond, Compress: CompressAuto,
		Protection: AtHarvest, Costs: DefaultCosts(),
	}
	if pack := t.first().pack; pack > 0 {
		s.Costs.Pack = pack
	}
	if t.Tracker == "manual-protect" {
		s.Protection = OnDemand
	}
	return s
}

// Order is what somebody orders of a migration.
type Order struct {
	Policy   policy.Choice
	Guidance policy.Guidance
	// AtExit lets the switchover happen at the EXIT that would close the gate.
	AtExit    bool
	Gate      Quorum
	MaxDefer  time.Duration
	OnTimeout policy.OnTimeout
	// Lead starts the program that leads, if the policy is one. Each move has its own.
	Lead func() (Leader, error)
	// Limit is the parameter limit of policies that have one and were not given another; 0 is the
	// policy's default.
	Limit time.Duration
}

// Leader is a program that decides in a policy's place. Virtual time stands still while it thinks,
// so it has no deadline.
type Leader interface {
	// Ask returns its answer to an event. After an error it is asked no more, and the default
	// policy takes its place.
	Ask(now time.Duration, e policy.Event) (*policy.Action, error)
	// Tell tells it of an event to which there is no answer.
	Tell(now time.Duration, e policy.Event)
	Close()
}

// ProgramLimit is for how long a program may lead, as by default.
const ProgramLimit = 10 * time.Minute

// DefaultOrder is the order of a policy that gives only its guidance.
func DefaultOrder(p policy.Choice, g policy.Guidance) Order {
	return Order{
		Policy: p, Guidance: g, AtExit: g == policy.GuidanceSwitchover, Gate: All,
		MaxDefer: time.Minute, OnTimeout: policy.TimeoutForce,
	}
}

// values are the policy's parameters that the order sets.
func (o Order) values() policy.Values {
	v := policy.Values{}
	if o.Limit > 0 {
		v["limit"] = o.Limit.String()
	}
	return v
}

// retries is how many switchovers may be taken back, as by default.
const retries = 3

// head returns the head of a migration that is led by a policy.
func (o Order) head(p policy.Policy) *policy.Head {
	return policy.NewHead(policy.Config{
		Policy: p, Remote: o.Policy.Program() != "", Polish: o.Policy.Traits().Polish,
		Guidance: o.Guidance, AtExit: o.AtExit, Retries: retries, MaxDefer: o.MaxDefer,
		OnTimeout: o.OnTimeout,
	})
}

// standstill is how long a switchover may take, 0 for any time: ten times the downtime limit and at
// least a second, as by default.
func (o Order) standstill() time.Duration {
	limit, err := time.ParseDuration(o.Policy.Value("limit", o.values()))
	if err != nil {
		limit = policy.DefaultLimit
	}
	return max(10*limit, time.Second)
}

// ack is how long the link takes to acknowledge bytes.
func (s Setting) ack() time.Duration { return cmp.Or(s.Ack, s.RTT) }

// check refuses what cannot be simulated.
func (s Setting) check(o Order) error {
	switch {
	case o.Policy.Program() != "" && o.Lead == nil:
		return fmt.Errorf("policy %q: nobody starts the program", o.Policy)
	case s.BitsPerSecond < 0 || s.RTT < 0 || s.Ack < 0 || o.MaxDefer < 0:
		return fmt.Errorf("a rate, a round trip or a time to defer below 0")
	}
	return s.Costs.Check()
}

// Bounds of costs: of a step, and of a page in it. Virtual time holds a page's of 1 TiB for years.
const (
	mostOfStep = time.Hour
	mostOfPage = 10 * time.Millisecond
)

// mostProcessors is what the largest hosts of KVM have.
const mostProcessors = 4096

// Check refuses costs that virtual time cannot hold.
func (c Costs) Check() error {
	for _, cost := range []struct {
		name     string
		is, most time.Duration
	}{
		{"the setup", c.Setup, mostOfStep}, {"the pause", c.Pause, mostOfStep},
		{"the handover", c.Handover, mostOfStep}, {"a page", c.Page, mostOfPage},
		{"a zero page", c.Zero, mostOfPage}, {"packing a page", c.Pack, mostOfPage},
		{"staging a page", c.Stage, mostOfPage}, {"receiving a page", c.Receive, mostOfPage},
	} {
		if cost.is < 0 || cost.is > cost.most {
			return fmt.Errorf("%v for %s: use 0 to %v", cost.is, cost.name, cost.most)
		}
	}
	if c.Processors < 0 || c.Processors > mostProcessors {
		return fmt.Errorf("%d processors: use 0 to %d", c.Processors, mostProcessors)
	}
	return nil
}
