package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Default is the policy of an order that names none.
const Default = "downtime"

// Spec describes a policy: an entry of the registry.
type Spec struct {
	Name   string // as on the command line
	Help   string // when it ends pre-copy, in a line
	Params []Param
	Traits Traits // unless the order sets them
	// New makes the policy. Params must list every parameter that New reads from the arguments.
	New func(*Args) Policy
}

// Param is a parameter of a policy.
type Param struct {
	Name, Help, Default string
	Words               []string // the allowed values, if they are a few words
}

// Traits say what the engine does for a policy besides asking it. Each can be set for any policy.
type Traits struct {
	// Skip leaves a page that is dirty again before its turn to the next round.
	Skip bool
	// Protect says when pages are protected, with a dirty log that leaves that to the engine. Empty
	// means ProtectRound with Skip and ProtectPage without.
	Protect Protect
	// Polish lets rounds go on that clearly shrink the rest, although the policy is already content
	// with it.
	Polish bool
}

// Protect says which pages of a round are protected at a time.
type Protect string

// What Traits.Protect may be.
const (
	// ProtectPage protects each page just before it is read. A page written before that is sent
	// once.
	ProtectPage Protect = "page"
	// ProtectRound protects all of a round's pages when it begins.
	ProtectRound Protect = "round"
)

var (
	onOrOff       = []string{"on", "off"}
	whenToProtect = []string{string(ProtectPage), string(ProtectRound)}
)

// traitParams are the traits as parameters, which all policies take.
var traitParams = []Param{
	{Name: "skip", Words: onOrOff,
		Help: "on or off: leave pages that are dirty again to the next round"},
	{Name: "protect", Words: whenToProtect,
		Help: "round or page: all when a round begins, or each before it is read"},
	{Name: "polish", Words: onOrOff,
		Help: "on or off: go on while rounds clearly shrink what would do already"},
}

// params returns the traits as values of traitParams.
func (t Traits) params() Values {
	word := map[bool]string{true: "on", false: "off"}
	return Values{"skip": word[t.Skip], "protect": string(t.Protect), "polish": word[t.Polish]}
}

// registry has the policies by name. Each policy's file registers its own when the program starts,
// and nothing changes the registry later.
var registry = make(map[string]Spec)

func register(s Spec) {
	if _, taken := registry[s.Name]; taken {
		panic("two policies have the name " + s.Name)
	}
	if s.Traits.Protect == "" {
		s.Traits.Protect = ProtectPage
		if s.Traits.Skip {
			s.Traits.Protect = ProtectRound
		}
	}
	registry[s.Name] = s
}

// All returns the policies, the default first and the others by name.
func All() []Spec {
	return slices.SortedFunc(maps.Values(registry), func(a, b Spec) int {
		if (a.Name == Default) != (b.Name == Default) {
			if a.Name == Default {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
}

// Names returns the names of All, in its order.
func Names() []string {
	var names []string
	for _, s := range All() {
		names = append(names, s.Name)
	}
	return names
}

// Parameters returns the policy's own parameters and the traits, with the policy's defaults.
func (s Spec) Parameters() []Param {
	all := slices.Clone(s.Params)
	own := s.Traits.params()
	for _, p := range traitParams {
		p.Default = own[p.Name]
		all = append(all, p)
	}
	return all
}

// Values are parameters by name, in the form in which they are typed.
type Values map[string]string

// Choice is a policy with the parameters that somebody gave it.
type Choice struct {
	spec    Spec
	program string // of exec:PROGRAM
	given   Values
	traits  Traits
}

// Parse reads NAME[:k=v,...] or exec:PROGRAM. Its error begins with the text that was given.
func Parse(s string) (Choice, error) {
	if program, is := strings.CutPrefix(s, Exec+":"); is {
		return parseExec(program)
	}
	name, list, listed := strings.Cut(s, ":")
	spec, known := registry[name]
	if !known {
		all := strings.Join(Names(), ", ")
		return Choice{}, fmt.Errorf("%q is unknown: use one of %s, or exec:PROGRAM", name, all)
	}
	c := Choice{spec: spec, given: make(Values)}
	if listed {
		for setting := range strings.SplitSeq(list, ",") {
			if err := c.give(setting); err != nil {
				return Choice{}, fmt.Errorf("%q: %w", s, err)
			}
		}
	}
	var err error
	if c.traits, err = c.readTraits(); err == nil {
		_, err = c.New(nil)
	}
	if err != nil {
		return Choice{}, fmt.Errorf("%q: %w", s, err)
	}
	return c, nil
}

// give notes a k=v.
func (c *Choice) give(setting string) error {
	k, v, ok := strings.Cut(setting, "=")
	if !ok || v == "" {
		return fmt.Errorf("%q: want NAME=VALUE", setting)
	}
	if _, twice := c.given[k]; twice {
		return fmt.Errorf("%s is there twice", k)
	}
	var names []string
	for _, p := range c.spec.Parameters() {
		names = append(names, p.Name)
	}
	if !slices.Contains(names, k) {
		return fmt.Errorf("no parameter %q: use %s", k, strings.Join(names, ", "))
	}
	c.given[k] = v
	return nil
}

// errProtectBySkip refuses page-wise protection with skip: the dirty log reports every page that is
// not protected yet, so all pages of a round would be skipped.
var errProtectBySkip = errors.New("protect=page goes with skip=off only: " +
	"what is not protected yet looks as if it were dirty again")

// readTraits returns the policy's own traits, overridden by those that were given.
func (c Choice) readTraits() (Traits, error) {
	values := c.spec.Traits.params()
	maps.Copy(values, c.given)
	a := Args{values: values}
	t := Traits{
		Skip:    a.oneOf("skip", onOrOff...) == "on",
		Protect: Protect(a.oneOf("protect", whenToProtect...)),
		Polish:  a.oneOf("polish", onOrOff...) == "on",
	}
	if a.err == nil && t.Skip && t.Protect == ProtectPage {
		if c.given["protect"] != "" {
			return t, errProtectBySkip
		}
		t.Protect = ProtectRound
	}
	return t, a.err
}

// Name is the policy's name.
func (c Choice) Name() string { return c.spec.Name }

// String returns the choice in the form that Parse reads, with its parameters in order.
func (c Choice) String() string {
	if c.program != "" {
		return c.spec.Name + ":" + c.program
	}
	var b strings.Builder
	b.WriteString(c.spec.Name)
	separator := ":"
	for _, k := range slices.Sorted(maps.Keys(c.given)) {
		b.WriteString(separator + k + "=" + c.given[k])
		separator = ","
	}
	return b.String()
}

// Traits returns the policy's traits, overridden by what was given.
func (c Choice) Traits() Traits { return c.traits }

// Value returns a parameter's value: the one given, else the one in others, else the policy's
// default. It is empty if the policy has no parameter of that name.
func (c Choice) Value(name string, others Values) string { return c.values(others)[name] }

func (c Choice) values(others Values) Values {
	values := make(Values)
	for _, p := range c.spec.Params {
		values[p.Name] = cmp.Or(c.given[p.Name], others[p.Name], p.Default)
	}
	return values
}

// With returns the choice with that value given for a parameter.
func (c Choice) With(name, value string) Choice {
	c.given = maps.Clone(c.given)
	c.given[name] = value
	return c
}

// New makes the policy. A parameter that was not given comes from others, which has the command
// line's flags of the same meaning.
func (c Choice) New(others Values) (Policy, error) {
	a := Args{values: c.values(others)}
	p := c.spec.New(&a)
	return p, a.err
}

// Args are the arguments of a policy's constructor: its parameters, read by type. The first invalid
// value makes New fail, whatever the constructor returns.
type Args struct {
	values Values
	err    error
}

// Int reads a whole number that is not negative.
func (a *Args) Int(name string) int {
	n, err := strconv.Atoi(a.get(name))
	if err != nil || n < 0 {
		a.fail(name, "want a whole number from 0")
	}
	return n
}

// Duration reads a duration that is not negative.
func (a *Args) Duration(name string) time.Duration {
	d, err := time.ParseDuration(a.get(name))
	if err != nil || d < 0 {
		a.fail(name, "want a duration, as in 300ms")
	}
	return d
}

func (a *Args) oneOf(name string, words ...string) string {
	v := a.get(name)
	if !slices.Contains(words, v) {
		a.fail(name, "use "+strings.Join(words, " or "))
	}
	return v
}

func (a *Args) get(name string) string {
	v, known := a.values[name]
	if !known {
		panic("a policy reads " + name + ", which it does not have in Params")
	}
	return v
}

func (a *Args) fail(name, want string) {
	if a.err == nil {
		a.err = fmt.Errorf("%s %q: %s", name, a.values[name], want)
	}
}
