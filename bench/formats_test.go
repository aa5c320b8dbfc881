package bench

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/control/text"
)

// ran makes a run of an experiment with made-up results, and its report.
func ran(t *testing.T, e Experiment) (dir string, results []trial.Result) {
	t.Helper()
	o := newOrder(e)
	store, dir := newStore(t, o)
	plan := e.Plan(at(Quick), o.Seed)
	results, err := execute(t.Context(), o, &fake{fail: map[string]bool{plan[0].ID: true}}, nil,
		store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	_, err = WriteReport(dir)
	require.NoError(t, err)
	return dir, results
}

func readFile(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	return string(b)
}

// TestFormats: every experiment's report is whole in each format, and what a terminal shows fits
// it.
func TestFormats(t *testing.T) {
	for _, e := range Experiments() {
		t.Run(e.Name, func(t *testing.T) {
			t.Parallel()
			results := resultsOf(e, at(Quick))
			results[0] = trial.Result{Spec: results[0].Spec, Error: "no boot_of | {it}"}
			run := Run{Experiment: e.Name, Size: Quick, Host: Environment{QEMU: "10.0"}}
			findings := e.Report(at(Quick), results)
			p := pageOf(e, run, results, findings)
			pages := map[Format]string{}
			for _, format := range Formats {
				_, text, err := render(p, format)
				require.NoError(t, err)
				pages[format] = string(text)
			}
			require.True(t, strings.HasPrefix(pages[Markdown], "# "+e.Title+"\n"))
			requireMarkdown(t, pages[Markdown])
			requireLaTeX(t, pages[LaTeX])
			for _, section := range findings.Sections {
				for _, f := range section.Figures {
					require.Contains(t, pages[Markdown], "]("+f.Name+".svg)")
					require.Contains(t, pages[LaTeX], "{"+f.Name+".png}")
				}
			}
			file := filepath.Join(t.TempDir(), textFile)
			s := summary{Banners: banners(run, results), Headlines: findings.Headlines}
			require.NoError(t, writeText(file, s, results, findings))
			requireColumns(t, readFile(t, filepath.Dir(file), textFile))
			var tables strings.Builder
			for _, section := range findings.Sections { // as vmm bench speed prints them
				for _, table := range section.Tables {
					require.NoError(t, table.print(&tables))
				}
			}
			requireColumns(t, tables.String())
		})
	}
}

// requireColumns fails if a line is wider than a terminal, unless it is one word.
func requireColumns(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		if len(words) > 0 && utf8.RuneCountInString(words[len(words)-1]) > text.Columns/2 {
			continue // a path is not cut
		}
		require.LessOrEqual(t, utf8.RuneCountInString(line), text.Columns+1, line)
	}
}

// TestLongestNames: the names of a file may be as long as anybody writes them.
func TestLongestNames(t *testing.T) {
	c, err := decode(`
guests: [{name: "` + strings.Repeat("a long name ", 9) + `", cmdline: workload=kv}]
policies: [downtime, "exec:/usr/lib/own/` + strings.Repeat("rule-", 20) + `.py"]
trackers: [manual-protect, get-dirty-log]
rates: [1Gbit, 2.5Gbit]
repetitions: 1
`)
	require.NoError(t, err)
	e := c.Experiment()
	results := resultsOf(e, at(Full))
	results[0] = trial.Result{Spec: results[0].Spec, Error: strings.Repeat("went wrong ", 20)}
	var b strings.Builder
	progress := NewPlain(&b)
	progress.Begin(mostTrials, time.Now().Add(999*time.Hour))
	progress.Say(strings.Repeat("something to say ", 20))
	for _, r := range results {
		r.Report.DowntimeMS, r.Report.TotalMS, r.GapMS = 8e6, 9e5, 9e5
		progress.Trial(r)
	}
	findings := e.Report(at(Full), results)
	require.NoError(t, findings.Lead.print(&b))
	requireColumns(t, b.String())
	require.Contains(t, b.String(), "FAILED: went wrong")
	l := live{plain: plain{total: mostTrials, deadline: time.Now().Add(999 * time.Hour)}}
	before := fmt.Sprintf(counters, l.total, l.total)
	require.Equal(t, text.Columns,
		len(before)+barColumns+utf8.RuneCountInString(l.beside(results[0].Spec.ID)))
}

// TestMarkdownEscapes: a name of a custom experiment may hold every sign, and none of them is an
// order to Markdown.
func TestMarkdownEscapes(t *testing.T) {
	var b strings.Builder
	require.NoError(t, writeMarkdown(&b, page{
		Title: "a<b>c\n\n# Fake", Command: "vmm bench run policies --policies exec:/a`b",
		Headlines: []string{"exec:/srv/__init__.py is *best*"},
		Lead:      Table{Caption: "c", Head: []string{"a|b"}, Rows: [][]string{{"x]\ny"}}},
	}))
	text := b.String()
	require.Contains(t, text, `# a\<b\>c  \# Fake`+"\n")
	require.Contains(t, text, "with `` vmm bench run policies --policies exec:/a`b ``.")
	require.Contains(t, text, `- exec:/srv/\_\_init\_\_.py is \*best\*`)
	require.Contains(t, text, `| a\|b |`)
	require.Contains(t, text, `| x\] y |`)
	require.NotContains(t, text, "\n# Fake")
	require.Equal(t, "`a`", markdownCode("a"))
}

// requireMarkdown fails unless all rows of a table have as many cells.
func requireMarkdown(t *testing.T, page string) {
	t.Helper()
	cells, tables := 0, 0
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "|") {
			cells = 0
			continue
		}
		n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
		if cells == 0 {
			tables++
			cells = n
		}
		require.Equal(t, cells, n, line)
	}
	require.Positive(t, tables)
}

var tabular = regexp.MustCompile(`^\\begin\{tabular\}\{(l+)\}`)

// requireLaTeX fails unless braces and environments close, rows have as many cells as their table,
// and all signs are ones that TeX knows.
func requireLaTeX(t *testing.T, page string) {
	t.Helper()
	require.True(t, strings.HasPrefix(page, latexHead))
	page = strings.TrimPrefix(page, latexHead)
	var open []string
	for _, m := range regexp.MustCompile(`\\(begin|end)\{(\w+)\}`).
		FindAllStringSubmatch(page, -1) {
		if m[1] == "begin" {
			open = append(open, m[2])
			continue
		}
		require.NotEmpty(t, open)
		require.Equal(t, open[len(open)-1], m[2])
		open = open[:len(open)-1]
	}
	require.Empty(t, open)
	depth, columns := 0, 0
	for line := range strings.Lines(page) {
		bare := regexp.MustCompile(`\\.`).ReplaceAllString(line, "")
		depth += strings.Count(bare, "{") - strings.Count(bare, "}")
		require.GreaterOrEqual(t, depth, 0, line)
		require.NotRegexp(t, `[#_^~]`, bare)
		for _, sign := range line {
			require.Less(t, sign, rune(0x80), "%q in %s", sign, line)
		}
		if m := tabular.FindStringSubmatch(line); m != nil {
			columns = len(m[1])
		} else if strings.HasSuffix(line, "\\\\\n") {
			require.Equal(t, columns-1, strings.Count(bare, "&"), line)
		}
	}
	require.Zero(t, depth)
}

// TestColoursOfFactors: figures colour what is varied, and QEMU as QEMU.
func TestColoursOfFactors(t *testing.T) {
	two := []string{"a", "b"}
	factors := map[string]string{
		"guidance": "off", "policy": "xen", "tracker": "ring", "rate": rateText(1e9),
	}
	for want, f := range map[string]factorial{
		"off":         {guidance: two, policies: two},
		"xen":         {guidance: two[:1], policies: two, trackers: two},
		"ring":        {policies: two[:1], trackers: two},
		rateText(1e9): {rates: []int64{1e9, 2e9}},
	} {
		require.Equal(t, want, f.colour(factors))
		f.peers = []string{"QEMU, multifd"}
		require.Equal(t, "QEMU, multifd", f.colour(map[string]string{"policy": "QEMU, multifd"}))
	}
	require.Equal(t, "off", factorial{}.colour(factors))
}

// TestSummaryIsNumbers: other programs read means, medians, ratios and intervals, and need not take
// a string apart.
func TestSummaryIsNumbers(t *testing.T) {
	o := newOrder(policies())
	o.Factors = Factors{
		Policies: []string{"downtime", "xen"}, Programs: []string{"kv"}, Repetitions: 6,
		Guidance: []string{"off"}, Against: "xen",
	}
	results := resultsOf(o.Experiment, o.Setting)
	for i := range results {
		r := &results[i]
		r.Report.DowntimeMS = 10 * (1 + r.Spec.Offset)
		if r.Spec.Factors["policy"] == "xen" {
			r.Report.DowntimeMS *= 4
		}
	}
	s := summaryOf(o.Experiment, Run{Size: Quick, Factors: o.Factors}, results, Findings{})
	b, err := json.Marshal(s)
	require.NoError(t, err)
	var read struct {
		Groups []struct {
			Factors map[string]string
			Metrics map[string]struct {
				N        int
				Mean     float64
				Median   float64
				MeanCI95 *struct{ Low, High float64 } `json:"mean_ci95"`
			}
		}
		Ratios []struct {
			Factors                            map[string]string
			Factor, Against, Metric, Statistic string
			Value                              float64
			CI95                               *struct{ Low, High float64 }
			Pairs                              int
		}
	}
	require.NoError(t, json.Unmarshal(b, &read))
	require.Len(t, read.Groups, 2)
	require.Equal(t, "downtime", read.Groups[0].Factors["policy"])
	m := read.Groups[0].Metrics["downtime_ms"]
	require.Equal(t, 6, m.N)
	require.InDelta(t, 15, m.Mean, 1e-9)
	require.InDelta(t, 15, m.Median, 1e-9)
	require.Less(t, m.MeanCI95.Low, m.Mean)
	found := 0
	for _, r := range read.Ratios {
		require.Equal(t, "policy", r.Factor)
		require.Equal(t, "xen", r.Against)
		require.Equal(t, "downtime", r.Factors["policy"])
		if r.Metric == "downtime_ms" {
			found++
			require.InDelta(t, 0.25, r.Value, 1e-9, r.Statistic)
			require.InDelta(t, 0.25, r.CI95.Low, 1e-9)
			require.Equal(t, 6, r.Pairs)
		}
	}
	require.Equal(t, len(statistics), found)
}

// TestRoundsAndEvents: each round and each event of a trial is a row.
func TestRoundsAndEvents(t *testing.T) {
	dir, results := ran(t, tagging())
	rows := func(name string) [][]string {
		all, err := csv.NewReader(strings.NewReader(readFile(t, dir, name))).ReadAll()
		require.NoError(t, err)
		return all
	}
	good := len(results) - 1
	rounds := rows(roundsFile)
	require.Len(t, rounds, 1+3*good)
	require.Equal(t, slices.Concat([]string{"id", "policy", "program", "rule"}, roundColumns),
		rounds[0])
	require.Equal(t, []string{
		"1", string(results[1].Report.Rounds[0].Phase), "0", "19000", "0", "0", "0", "0", "0",
		"80000000", "500", "5000", "0", "false",
	}, rounds[1][4:])
	require.Len(t, rows(eventsFile), 1+9*good)
	for _, row := range rows(eventsFile)[1:] {
		require.Len(t, row, 4+len(eventColumns))
	}
}

// documentedNames are the names in the first columns of the tables of a document.
func documentedNames(document []byte) []string {
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllSubmatch(document, -1) {
		for _, name := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllSubmatch(m[1], -1) {
			names = append(names, string(name[1]))
		}
	}
	return names
}

// TestSummaryIsDocumented: the dictionary has every key of summary.json, and no others.
func TestSummaryIsDocumented(t *testing.T) {
	manual, err := os.ReadFile("../docs/bench-columns.md")
	require.NoError(t, err)
	_, manual, _ = bytes.Cut(manual, []byte("## summary.json"))
	var keys []string
	for i := range reflect.TypeFor[summary]().NumField() {
		key, _, _ := strings.Cut(reflect.TypeFor[summary]().Field(i).Tag.Get("json"), ",")
		keys = append(keys, key)
	}
	require.ElementsMatch(t, keys, documentedNames(manual))
}

// TestPageTellsItsIntervals: what the page says of intervals is what package stats does.
func TestPageTellsItsIntervals(t *testing.T) {
	_, html, err := render(page{}, HTML)
	require.NoError(t, err)
	require.Contains(t, string(html), "of medians by order statistics, of means and ratios by "+
		"percentile bootstrap")
	require.Contains(t, string(html), fmt.Sprintf("fewer than %d values", stats.LeastForInterval))
	require.Contains(t, string(html), fmt.Sprintf("fewer than %d pairs", stats.LeastForInterval))
}

// TestColumnsAreDocumented: the dictionary has every column, and no others.
func TestColumnsAreDocumented(t *testing.T) {
	manual, err := os.ReadFile("../docs/bench-columns.md")
	require.NoError(t, err)
	manual, _, _ = bytes.Cut(manual, []byte("## summary.json"))
	documented := documentedNames(manual)
	columns := slices.Concat([]string{"id", "error"}, trialColumns)
	for _, m := range allMetrics {
		columns = append(columns, m.key)
	}
	columns = append(append(columns, roundColumns...), eventColumns...)
	for _, list := range []*[]string{&columns, &documented} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	require.Equal(t, columns, documented)
}

func TestDecimalsForPrograms(t *testing.T) {
	for want, v := range map[string]float64{
		"12345678901": 12345678901, "0": 0, "-1": -1, "0.125": 0.125, "1234.5678": 1234.5678,
		"NaN": nan(), "1e+300": 1e300,
	} {
		require.Equal(t, want, decimal(v))
	}
}

func nan() float64 { var zero float64; return zero / zero }
