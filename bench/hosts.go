package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"taskguide/bench/remote"
	"taskguide/bench/trial"
	"taskguide/control/text"
)

// HandCommand is the command of this program that works at another host.
const HandCommand = "hand"

// TwoHosts says between which hosts guests are moved, over ssh. The zero value is this host alone.
type TwoHosts struct {
	Source      remote.Target
	Destination remote.Target
	Insecure    bool // moves them in plain text
}

// Set tells whether there are two hosts.
func (t TwoHosts) Set() bool { return t.Source.Host != "" }

// RunHosts are the hosts of a run over ssh.
type RunHosts struct {
	Source      RunHost `json:"source"`
	Destination RunHost `json:"destination"`
	Insecure    bool    `json:"insecure"` // plain text, instead of TLS
	// Clocks compares those of the hosts, when the run began. Each result has its own.
	Clocks trial.Clocks `json:"clocks"`
}

// RunHost is one of them.
type RunHost struct {
	SSH string `json:"ssh"`
	Environment
}

// CheckHosts refuses two hosts for an experiment that needs one.
func (e Experiment) CheckHosts(at Setting) error {
	for _, s := range e.Plan(at, 0) {
		if what := s.LocalOnly(); what != "" {
			return fmt.Errorf("--source and --destination: trial %s takes %s, and cannot be "+
				"between two hosts", s.ID, what)
		}
	}
	if e.LoopbackOnly {
		return fmt.Errorf("--source and --destination: %s is about the loopback of one host: "+
			"leave them out", e.Name)
	}
	return nil
}

// Facts is the service by which an agent describes its host.
type Facts struct{}

// factsName is its name.
const factsName = "Facts"

// Host describes the host. A QEMU there has no part in the run.
func (Facts) Host(_ struct{}, e *Environment) (err error) {
	*e, err = ThisHost(Programs{})
	e.QEMU = ""
	return err
}

// ServeHand works at this host, in dir, for the controller that has started this program there,
// until the controller has gone. All that was started has ended then.
func ServeHand(dir string) error {
	hand := trial.NewHand(dir)
	defer hand.Close()
	return remote.Serve(os.Stdin, os.Stdout, dir,
		map[string]any{trial.HandName: hand, factsName: Facts{}})
}

// connections are agents at both hosts of a run.
type connections struct {
	trial.Hosts
	facts RunHosts
}

// Close ends the agents, and all that they have started.
func (c *connections) Close() {
	for _, h := range []*trial.Host{c.Source, c.Destination} {
		if h != nil {
			h.Conn.Close()
		}
	}
}

// connect starts an agent at each host, which has this program, vmm and certificates then. dir is a
// folder for temporary files.
func (t TwoHosts) connect(ctx context.Context, vmm, dir string) (*connections, error) {
	c := &connections{facts: RunHosts{Insecure: t.Insecure}}
	ends := []struct {
		target remote.Target
		host   **trial.Host
		facts  *RunHost
	}{
		{t.Source, &c.Source, &c.facts.Source},
		{t.Destination, &c.Destination, &c.facts.Destination},
	}
	err := t.makeCertificates(ctx, vmm, dir)
	for _, e := range ends {
		if err == nil {
			*e.host, err = t.board(ctx, e.target, vmm, dir)
		}
		if err == nil {
			e.facts.SSH = e.target.String()
			err = (*e.host).Conn.Call(ctx, factsName+".Host", struct{}{}, &e.facts.Environment)
			e.facts.VMM = buildName(e.facts.VMM, vmm) // that it was sent
		}
	}
	if err == nil {
		c.facts.Clocks, err = trial.CompareClocks(ctx, c.Source, c.Destination)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// board starts an agent, and copies to its host what trials need.
func (t TwoHosts) board(
	ctx context.Context, target remote.Target, vmm, dir string,
) (h *trial.Host, err error) {
	h = &trial.Host{}
	if h.Conn, err = remote.Connect(ctx, target, HandCommand); err != nil {
		return nil, err
	}
	// Copying takes long, and knows no context.
	defer context.AfterFunc(ctx, h.Conn.Close)()
	if _, err = h.Conn.Put(trial.VMMFile, vmm); err == nil && !t.Insecure {
		h.TLSDir, err = h.Conn.PutFolder(tlsFolder, filepath.Join(dir, tlsFolder, target.Address))
	}
	if err != nil {
		h.Conn.Close()
		return nil, err
	}
	return h, nil
}

// tlsFolder is the name of the folder with certificates.
const tlsFolder = "tls"

// makeCertificates makes those of a run, in dir, with a CA that nobody else has.
func (t TwoHosts) makeCertificates(ctx context.Context, vmm, dir string) error {
	if t.Insecure {
		return nil
	}
	args := []string{"tls", "init", filepath.Join(dir, tlsFolder)}
	for _, name := range slices.Compact([]string{t.Source.Address, t.Destination.Address}) {
		args = append(args, "--host", name)
	}
	out, err := exec.CommandContext(ctx, vmm, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make certificates for the hosts: %w: %s", err,
			strings.TrimSpace(string(out)))
	}
	return nil
}

// errOtherHosts is of a run that cannot go on.
var errOtherHosts = errors.New("it ran between other hosts: name them by --source and " +
	"--destination as the run has them")

// sameHosts checks that a run goes on between the hosts at which it began.
func sameHosts(run *RunHosts, t TwoHosts) error {
	switch {
	case run == nil && !t.Set():
		return nil
	case run == nil, !t.Set(), run.Source.SSH != t.Source.String(),
		run.Destination.SSH != t.Destination.String(), run.Insecure != t.Insecure:
		return errOtherHosts
	}
	return nil
}

// route says how guests went between the hosts.
func (h RunHosts) route() string {
	way := "TLS"
	if h.Insecure {
		way = "plain text"
	}
	return fmt.Sprintf("from %s to %s, over %s", h.Source.SSH, h.Destination.SSH, way)
}

// pairs are the hosts of a run over ssh, or those of each of its parts. Older builds stored the
// hosts of the first part alone.
func (r Run) pairs() []RunHosts {
	var all []RunHosts
	for _, p := range r.Parts {
		if p.Hosts != nil {
			all = append(all, *p.Hosts)
		}
	}
	if len(all) == 0 && r.Hosts != nil {
		all = append(all, *r.Hosts)
	}
	return all
}

// ofPairs says something of the first pair of hosts, and for how many others it is another thing.
func ofPairs(pairs []RunHosts, say func(RunHosts) string) string {
	all := sayings(pairs, say)
	if n := len(all) - 1; n > 0 {
		return fmt.Sprintf("%s; and %s, in run.json", all[0], text.Plural(n, "other"))
	}
	return all[0]
}

// sayings are what is said of pairs of hosts, each once.
func sayings(pairs []RunHosts, say func(RunHosts) string) []string {
	var all []string
	for _, h := range pairs {
		if said := say(h); !slices.Contains(all, said) {
			all = append(all, said)
		}
	}
	return all
}

// hostFlags names the hosts as they are typed. The shards of several pairs have no names in common.
func hostFlags(pairs []RunHosts) string {
	flags := sayings(pairs, func(h RunHosts) string {
		return " --source " + h.Source.SSH + " --destination " + h.Destination.SSH
	})
	if len(flags) > 1 {
		return " --source SOURCE --destination DESTINATION"
	}
	return flags[0]
}

// clocksOf is clocksText of a run with those pairs of hosts. Of several, it is about the clocks
// that differ most.
func clocksOf(pairs []RunHosts, results []trial.Result) string {
	most := slices.MaxFunc(pairs, func(a, b RunHosts) int {
		return cmp.Compare(math.Abs(a.Clocks.AheadMS), math.Abs(b.Clocks.AheadMS))
	})
	said := clocksText(most, results)
	if len(pairs) > 1 {
		said = "in the part where it differs most, " + said
	}
	return said
}

// clocksText says how the clocks of the hosts differ: when the run began, and at most in a trial.
func clocksText(h RunHosts, results []trial.Result) string {
	text := "the destination's clock is ahead by " + aheadText(h.Clocks)
	if c, ok := farthest(results, apartMS); ok {
		text += "; in trials by at most " + aheadText(c)
	}
	return text
}

func aheadText(c trial.Clocks) string {
	return fmt.Sprintf("%.3f ms (within %.3f ms)", c.AheadMS, c.WithinMS)
}

// apartMS is how much two clocks differ as measured, and surelyMS how much they do at least.
func apartMS(c trial.Clocks) float64  { return math.Abs(c.AheadMS) }
func surelyMS(c trial.Clocks) float64 { return math.Abs(c.AheadMS) - c.WithinMS }

// farthest is the greatest difference of the clocks in any trial, by a measure of it.
func farthest(
	results []trial.Result, by func(trial.Clocks) float64,
) (most trial.Clocks, ok bool) {
	for _, r := range results {
		if r.Clocks != nil && (!ok || by(*r.Clocks) > by(most)) {
			most, ok = *r.Clocks, true
		}
	}
	return most, ok
}

// tolerableMS is the difference of clocks, in ms, that is not worth a warning.
const tolerableMS = 1

// clocksBanner warns of clocks that certainly differ by more than that. A greater difference that
// is less certain does not hide them.
func clocksBanner(results []trial.Result) (Banner, bool) {
	c, ok := farthest(results, surelyMS)
	if !ok || surelyMS(c) <= tolerableMS {
		return Banner{}, false
	}
	return Banner{"CLOCKS", fmt.Sprintf("the destination's clock is ahead by up to %s: what the "+
		"guest says of its gap and of its longest pauses is off by that", aheadText(c))}, true
}
