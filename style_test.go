package architecture

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// How code and documents are set, so that two files fit side by side and a table fits a page.
const (
	lineColumns  = 100
	tabColumns   = 4
	tableColumns = 5
)

// written are the names of what people write, by how they end.
var written = []string{
	".go", ".c", ".h", ".S", ".ld", ".sh", ".mk", ".md", ".yml", ".yaml", "Makefile", ".ci/run",
}

// notWritten are folders with what people do not: builds, git's own, inputs and outputs of tests.
var notWritten = []string{".git", "bin", "dist", "testdata"}

// generated begins a file that a program wrote, as Go has it.
var generated = regexp.MustCompile(`(?m)^(//|#) Code generated .* DO NOT EDIT\.$`)

// listMark is what stands before the first word of a line.
var listMark = regexp.MustCompile(`^\s*(?:(?://|#|-|\*|>|[0-9]+\.)\s*)*`)

// stiff are words that plain English does without: the rule comes first, then its reason, and a
// sentence has its subject, verb and object in that order.
var stiff = regexp.MustCompile(`(?i)\b(of which|of whose|such|be it|be they)\b`)

// skips is how a test skips itself, where only package integration/need may: CI would take it for
// one that passed.
var skips = regexp.MustCompile(`\b[tb]\.Skip(f|Now)?\(`)

// maySkip are the files that may, nevertheless. Dirty rings differ from KVM to KVM; on stock KVM,
// where a skipped test makes the suite red, there are some.
var maySkip = []string{"integration/need/need.go", "vmm/tracker_kvm_test.go"}

// quoted is what a text only quotes: code, and words that it speaks about.
var quoted = regexp.MustCompile("`[^`]*`|\"[^\"]*\"|“[^”]*”")

// prose is what of a line people read as a sentence: a line of a document, or of a comment that has
// its lines to itself.
func prose(name, line string) string {
	line = strings.TrimSpace(line)
	switch filepath.Ext(name) {
	case ".md":
	case ".go":
		if !strings.HasPrefix(line, "//") {
			return ""
		}
	case ".c", ".h", ".S":
		if !strings.HasPrefix(line, "*") && !strings.HasPrefix(line, "/*") {
			return ""
		}
	default:
		if !strings.HasPrefix(line, "#") {
			return ""
		}
	}
	return quoted.ReplaceAllString(line, "")
}

// columns is how wide a line is on a screen.
func columns(line string) int {
	n := 0
	for _, r := range line {
		if r == '\t' {
			n += tabColumns - n%tabColumns
		} else {
			n++
		}
	}
	return n
}

// tooWide tells whether a line breaks the rule. A single word may be wider, because an address
// cannot be cut. A row of a table may not: its cells can be shorter, or the table a list.
func tooWide(line string) bool {
	return columns(line) > lineColumns &&
		strings.ContainsAny(listMark.ReplaceAllString(line, ""), " \t")
}

// cells counts the columns of a table whose row a line of a document is; 0: it is none.
func cells(line string) int {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "|") || !strings.HasSuffix(line, "|") || len(line) < 2 {
		return 0
	}
	row := strings.ReplaceAll(line[1:len(line)-1], `\|`, "")
	return strings.Count(row, "|") + 1
}

// faults lists what of a file's text is set otherwise than the rules have it.
func faults(name, text string) []string {
	if generated.MatchString(text) {
		return nil
	}
	var all []string
	number, fenced := 0, false
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\n")
		fault := func(what string) {
			all = append(all, fmt.Sprintf("%s:%d: %s", name, number, what))
		}
		if tooWide(line) {
			fault("more than 100 columns")
		}
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		if word := stiff.FindString(prose(name, line)); word != "" && !fenced {
			fault(fmt.Sprintf("%q: say it in plain words", word))
		}
		if strings.HasSuffix(name, ".go") && !slices.Contains(maySkip, name) &&
			skips.MatchString(line) {
			fault("a test that skips itself: use integration/need")
		}
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		if !fenced && cells(line) > tableColumns {
			fault("a table of more than five columns")
		}
	}
	return all
}

// writtenFiles are all files of the project that people write, by their paths.
func writtenFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && slices.Contains(notWritten, e.Name()):
			return filepath.SkipDir
		case e.Type().IsRegular() && slices.ContainsFunc(written, func(end string) bool {
			return strings.HasSuffix(path, end)
		}):
			files = append(files, path)
		}
		return nil
	})
	require.NoError(t, err)
	return files
}

// TestStyle: no line is wider than 100 columns, no table has more than five, and no sentence has a
// stiff word.
func TestStyle(t *testing.T) {
	var all []string
	files := writtenFiles(t)
	require.Contains(t, files, "README.md")
	require.Contains(t, files, ".ci/run")
	require.Contains(t, files, "vmm/run.go")
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, utf8.Valid(text), "%s is not UTF-8", file)
		all = append(all, faults(file, string(text))...)
	}
	require.Empty(t, all)
}

// TestStyleFaultsAreSeen gives the test what breaks the rules, and what only seems to.
func TestStyleFaultsAreSeen(t *testing.T) {
	wide := strings.Repeat("word ", 20) // 100 columns, the last of them a space
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"a.go", wide + "\n", nil},
		{"a.go", "\tt." + "Skip(1)", []string{
			"a.go:1: a test that skips itself: use integration/need",
		}},
		{"vmm/tracker_kvm_test.go", "\tt." + "Skip(1)", nil},
		{"a.go", "// " + wide + "\n", []string{"a.go:1: more than 100 columns"}},
		{"a.go", "\n\t" + wide[:96] + "\n", nil},
		{"a.go", "\n\t" + wide[:98] + "\n", []string{"a.go:2: more than 100 columns"}},
		{"a.go", strings.Repeat("ä", 100), nil},
		{"a.go", "// https://" + strings.Repeat("x", 100), nil},
		{"a.go", "// see https://" + strings.Repeat("x", 100),
			[]string{"a.go:1: more than 100 columns"}},
		{"a.md", "- <https://" + strings.Repeat("x", 100) + ">", nil},
		{"a.md", "| " + wide[:96] + " |", nil},
		{"a.md", "| " + wide[:97] + " |", []string{"a.md:1: more than 100 columns"}},
		{"a.md", "```\n| " + wide + " |\n```\n", []string{"a.md:2: more than 100 columns"}},
		{"a.go", "| " + wide + " |", []string{"a.go:1: more than 100 columns"}},
		{"a.md", "| 1 | 2 | 3 | 4 | 5 |", nil},
		{"a.md", `| 1 | 2 \| 2 | 3 | 4 | 5 |`, nil},
		{"a.md", "|1|2|3|4|5|6|", []string{"a.md:1: a table of more than five columns"}},
		{"a.md", "```\n|1|2|3|4|5|6|\n```\n", nil},
		{"a.go", "|1|2|3|4|5|6|", nil},
		{
			"a.go", "\t// a list of which one is left",
			[]string{`a.go:1: "of which": say it in plain words`},
		},
		{"a.go", "\t// be it here or there", []string{`a.go:1: "be it": say it in plain words`}},
		{"a.h", " * Such a page", []string{`a.h:1: "Such": say it in plain words`}},
		{"a.sh", "# such a file", []string{`a.sh:1: "such": say it in plain words`}},
		{"a.md", "such a file", []string{`a.md:1: "such": say it in plain words`}},
		{"a.md", "the error is `no such file`, or \"no such VM\"", nil},
		{"a.go", `err := errors.New("no such VM")`, nil},
		{"a.go", "// Code generated by x. DO NOT EDIT.\n\n// " + wide, nil},
	} {
		require.Equal(t, c.want, faults(c.name, c.text), c.text)
	}
}
