package cli

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"taskguide/control/text"
	"taskguide/migration/policy"
)

// Policy is a policy as NAME[:k=v,...] or exec:PROGRAM.
type Policy struct{ Choice policy.Choice }

func NewPolicy() Policy {
	var f Policy
	if err := f.Set(policy.Default); err != nil {
		panic(err) // the registry's default
	}
	return f
}

func (f *Policy) String() string { return f.Choice.String() }

func (f *Policy) Type() string { return "NAME[:k=v,...]|exec:PROGRAM" }

func (f *Policy) Set(s string) error {
	c, err := policy.Parse(s)
	if err != nil {
		return fmt.Errorf("%w%s", err, meantByPolicy(s))
	}
	f.Choice, err = findProgram(c)
	return err
}

// findProgram makes the path of a policy's program absolute, because the VM's process starts it. A
// name without a slash is looked for in $PATH.
func findProgram(c policy.Choice) (policy.Choice, error) {
	if c.Program() == "" {
		return c, nil
	}
	path, err := exec.LookPath(c.Program())
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return c, err
	}
	return policy.Parse(policy.Exec + ":" + path)
}

// Policies is a list of policies, each as --policy has it.
type Policies struct{ Choices []policy.Choice }

func (f *Policies) String() string {
	var all []string
	for _, c := range f.Choices {
		all = append(all, c.String())
	}
	return strings.Join(all, ",")
}

func (f *Policies) Type() string { return "POLICY[,POLICY]..." }

func (f *Policies) Set(s string) error {
	choices, err := policy.ParseList(s)
	if err != nil {
		return err
	}
	f.Choices = nil
	for _, c := range choices {
		if c, err = findProgram(c); err != nil {
			return err
		}
		f.Choices = append(f.Choices, c)
	}
	return nil
}

// NameOf is the policy that was typed as lists of policies have it. What is no policy stays as it
// is.
func NameOf(typed string) string {
	var p Policy
	if p.Set(typed) != nil {
		return typed
	}
	return p.String()
}

// meantByPolicy asks whether the user meant another policy, or another name for the first parameter
// that the policy does not have.
func meantByPolicy(typed string) string {
	name, list, _ := strings.Cut(typed, ":")
	all := policy.All()
	i := slices.IndexFunc(all, func(s policy.Spec) bool { return s.Name == name })
	if i < 0 {
		return Meant(name, policy.Names())
	}
	var params []string
	for _, p := range all[i].Parameters() {
		params = append(params, p.Name)
	}
	for setting := range strings.SplitSeq(list, ",") {
		if k, _, valued := strings.Cut(setting, "="); valued && !slices.Contains(params, k) {
			return Meant(k, params)
		}
	}
	return ""
}

// policyColumns is the width of the list of policies. man indents it once more.
const policyColumns = text.Columns - 7

// PolicyHelp lists the policies, with their parameters and defaults.
func PolicyHelp() string {
	lines := []string{"Policies, NAME[:k=v,...] or exec:PROGRAM:"}
	add := func(head, words string) {
		for _, line := range text.Wrap(words, policyColumns-len(head)) {
			lines = append(lines, head+line)
			head = strings.Repeat(" ", len(head))
		}
	}
	for _, s := range policy.All() {
		add(fmt.Sprintf("  %-12s ", s.Name), s.Help)
		for _, p := range s.Parameters() {
			add(fmt.Sprintf("    %-10s ", p.Name),
				fmt.Sprintf("%s (default %s)", p.Help, p.Default))
		}
	}
	add("  exec:PROGRAM ", "a program of yours decides: docs/policies.md")
	return strings.Join(lines, "\n")
}
