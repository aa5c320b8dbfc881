package readme

import (
	"fmt"
	"regexp"
	"strings"
)

// Step is one command of the page.
type Step struct {
	Line    int // of the page, counted from 1
	Command string
	Output  []string // the lines that the page shows below it
}

// Background tells whether the next steps begin while this one still runs.
func (s Step) Background() bool { return strings.HasPrefix(s.Command, "vmm run ") }

var nameFlag = regexp.MustCompile(`--name[ =](\S+)`)

// Name returns the name of the VM that the step runs.
func (s Step) Name() (string, error) {
	m := nameFlag.FindStringSubmatch(s.Command)
	if m == nil {
		return "", fmt.Errorf("line %d: a vmm run of the tour needs a --name", s.Line)
	}
	return m[1], nil
}

// Parse lists the steps of a page.
func Parse(page string) ([]Step, error) {
	var steps []Step
	inside, begun, goesOn := false, false, false
	for i, line := range strings.Split(page, "\n") {
		switch {
		case !inside:
			inside = line == "```console"
			begun, goesOn = false, false
		case line == "```":
			inside = false
		case goesOn:
			last := &steps[len(steps)-1]
			last.Command += "\n" + strings.TrimPrefix(line, "> ")
			goesOn = strings.HasSuffix(line, `\`)
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, Step{Line: i + 1, Command: line[2:]})
			begun, goesOn = true, strings.HasSuffix(line, `\`)
		case !begun:
			return nil, fmt.Errorf("line %d: output before any command (%q)", i+1, "$ ...")
		default:
			last := &steps[len(steps)-1]
			last.Output = append(last.Output, line)
		}
	}
	if inside {
		return nil, fmt.Errorf("a block is not closed")
	}
	return steps, nil
}

// parts splits a line into the parts that are compared in different ways.
var parts = regexp.MustCompile(`\.\.\.|[0-9]+(?:\.[0-9]+)?|[ \t]+|[^0-9 \t.]+|\.`)

// pattern returns what a line of the program must match to count as that line of the page.
func pattern(line string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("^")
	for _, part := range parts.FindAllString(strings.TrimSpace(line), -1) {
		switch {
		case part == "...":
			b.WriteString(".*")
		case part[0] >= '0' && part[0] <= '9':
			b.WriteString(`[0-9]+(?:\.[0-9]+)?`)
		case strings.Trim(part, " \t") == "":
			b.WriteString(`[ \t]+`)
		default:
			b.WriteString(regexp.QuoteMeta(part))
		}
	}
	b.WriteString("$")
	return regexp.MustCompile(b.String())
}

// Missing returns the first line of the page that is missing from a program's output, or out of
// order. It returns false if there is none.
func Missing(page []string, output string) (string, bool) {
	printed := strings.Split(output, "\n")
	for _, want := range page {
		if strings.TrimSpace(want) == "" {
			continue
		}
		p := pattern(want)
		for len(printed) > 0 && !p.MatchString(strings.TrimSpace(printed[0])) {
			printed = printed[1:]
		}
		if len(printed) == 0 {
			return want, true
		}
		if strings.TrimSpace(want) != "..." {
			printed = printed[1:]
		}
	}
	return "", false
}
