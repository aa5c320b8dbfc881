package policy

import (
	"errors"
	"strings"
)

// Exec is the name of the policy that is a program. It is not in the registry, because it cannot
// decide here: the engine asks the program.
const Exec = "exec"

// parseExec chooses a program. It takes no parameters, because its path may contain anything.
func parseExec(program string) (Choice, error) {
	if program == "" || strings.ContainsAny(program, "\x00\n\r") {
		return Choice{}, errors.New("\"exec:\": want exec:PROGRAM, the path of a program")
	}
	instead := registry[Default]
	return Choice{
		spec: Spec{
			Name: Exec, Help: "a program decides", Params: instead.Params,
			Traits: Traits{Protect: ProtectPage}, New: instead.New,
		},
		program: program, given: make(Values), traits: Traits{Protect: ProtectPage},
	}, nil
}

// Program is the path of the program that leads, empty if a policy of the registry does. New then
// makes the policy that takes its place once it has ended: the default one.
func (c Choice) Program() string { return c.program }

// ParseList reads policies with commas between them. A setting behind a comma belongs to the policy
// before it.
func ParseList(s string) ([]Choice, error) {
	var all []string
	for part := range strings.SplitSeq(s, ",") {
		if n := len(all); n > 0 && isSetting(part) && !strings.HasPrefix(all[n-1], Exec+":") {
			all[n-1] += "," + part
			continue
		}
		all = append(all, part)
	}
	var choices []Choice
	for _, one := range all {
		c, err := Parse(one)
		if err != nil {
			return nil, err
		}
		choices = append(choices, c)
	}
	return choices, nil
}

// isSetting tells k=v from NAME:k=v.
func isSetting(s string) bool {
	equals, colon := strings.Index(s, "="), strings.Index(s, ":")
	return equals >= 0 && (colon < 0 || equals < colon)
}
