package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"taskguide/control/text"
	"taskguide/migration/policy"
)

// policyFlag is a policy as NAME[:k=v,...] or exec:PROGRAM.
type policyFlag struct{ choice policy.Choice }

func newPolicy() policyFlag {
	var f policyFlag
	if err := f.Set(policy.Default); err != nil {
		panic(err) // the registry's default
	}
	return f
}

func (f *policyFlag) String() string { return f.choice.String() }
func (f *policyFlag) Type() string   { return "NAME[:k=v,...]|exec:PROGRAM" }
func (f *policyFlag) Set(s string) error {
	c, err := policy.Parse(s)
	if err != nil {
		return fmt.Errorf("%w%s", err, meantByPolicy(s))
	}
	f.choice, err = findProgram(c)
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

// shadowFlag is a list of policies, each as --policy has it.
type shadowFlag struct{ choices []policy.Choice }

func (f *shadowFlag) String() string {
	var all []string
	for _, c := range f.choices {
		all = append(all, c.String())
	}
	return strings.Join(all, ",")
}

func (f *shadowFlag) Type() string { return "POLICY[,POLICY]..." }

func (f *shadowFlag) Set(s string) error {
	choices, err := policy.ParseList(s)
	if err != nil {
		return err
	}
	f.choices = nil
	for _, c := range choices {
		if c, err = findProgram(c); err != nil {
			return err
		}
		f.choices = append(f.choices, c)
	}
	return nil
}

// meantByPolicy asks whether the user meant another policy, or another name for the first parameter
// that the policy does not have.
func meantByPolicy(typed string) string {
	name, list, _ := strings.Cut(typed, ":")
	all := policy.All()
	i := slices.IndexFunc(all, func(s policy.Spec) bool { return s.Name == name })
	if i < 0 {
		return meant(name, policy.Names())
	}
	var params []string
	for _, p := range all[i].Parameters() {
		params = append(params, p.Name)
	}
	for setting := range strings.SplitSeq(list, ",") {
		if k, _, valued := strings.Cut(setting, "="); valued && !slices.Contains(params, k) {
			return meant(k, params)
		}
	}
	return ""
}

// policyColumns is the width of the list of policies. man indents it once more.
const policyColumns = text.Columns - 7

// policyHelp lists the policies, with their parameters and defaults.
func policyHelp() string {
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
