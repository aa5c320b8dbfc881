package bench

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"taskguide/bench/figure"
	"taskguide/bench/stats"
	"taskguide/bench/trial"
	"taskguide/control/units"
)

//go:embed report.tmpl
var reportText string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"value": valueOf, "detail": detailOf,
	"least": func() int { return stats.LeastForInterval },
}).Parse(reportText))

// valueOf and detailOf split a table's cell into its value and the text in brackets behind it, if
// there is any.
func valueOf(cell string) string {
	if i := strings.IndexAny(cell, "[("); i > 0 && cell[i-1] == ' ' {
		return cell[:i-1]
	}
	return cell
}

func detailOf(cell string) string { return strings.TrimPrefix(cell[len(valueOf(cell)):], " ") }

// WriteReport computes everything that follows from the results in dir: the page, its pictures, CSV
// and JSON. It returns the path of the page.
func WriteReport(dir string) (string, error) { return WriteReportAs(dir, HTML) }

// WriteReportAs is WriteReport with a page in another format.
func WriteReportAs(dir string, format Format) (string, error) {
	return WriteReportWith(dir, format, nil)
}

// WriteReportWith is WriteReportAs, where another run says how far the simulator's tail can be
// trusted.
func WriteReportWith(dir string, format Format, tail *Tail) (string, error) {
	run, results, err := Load(dir)
	if err != nil {
		return "", err
	}
	e, err := ExperimentOf(run)
	if err != nil {
		return "", err
	}
	results = latest(results)
	if err := samePlan(e.Plan(run.setting(), run.Seed), results); err != nil {
		return "", fmt.Errorf("%s: %w: it was vmm %s that ran them", dir, err, run.Host.VMM)
	}
	if tail != nil && run.Experiment != policies().Name {
		return "", fmt.Errorf("%s: a run of %s: %w", dir, run.Experiment, ErrNoTail)
	}
	results = judged(results)
	at := run.setting()
	at.Tail = tail.of(run.Factors)
	moved := withoutContests(results)
	groups := inPlanOrder(e.Blocks(at), configurations(moved))
	findings := withWaterfall(withFelt(e.Report(at, results), groups), groups)
	findings.nameApart()
	page := pageOf(e, run, results, findings)
	colours := findings.colours()
	for _, s := range findings.Sections {
		for _, f := range s.Figures {
			if err := writeFigure(dir, f, colours); err != nil {
				return "", err
			}
		}
	}
	if err := writeCSVs(dir, moved); err != nil {
		return "", err
	}
	if err := writeMoves(dir, moved); err != nil {
		return "", err
	}
	s := summaryOf(e, run, results, findings)
	if err := writeSummary(filepath.Join(dir, summaryFile), s); err != nil {
		return "", err
	}
	if err := writeText(filepath.Join(dir, textFile), s, results, findings); err != nil {
		return "", err
	}
	file, text, err := render(page, format)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, file)
	return path, os.WriteFile(path, text, 0o644)
}

// latest keeps the last of several results of one trial, in the order of first appearance. A trial
// that is void does not take the place of one that is not: it was run again because it was noisy.
func latest(results []trial.Result) []trial.Result {
	at := map[string]int{}
	var out []trial.Result
	for _, r := range results {
		if i, again := at[r.Spec.ID]; again {
			if r.Error == "" || out[i].Error != "" {
				out[i] = r
			}
			continue
		}
		at[r.Spec.ID] = len(out)
		out = append(out, r)
	}
	return out
}

func writeFigure(dir string, f NamedFigure, colours figure.Colours) error {
	for suffix, render := range map[string]func(figure.Colours) ([]byte, error){
		".svg": f.SVG, ".png": f.PNG,
	} {
		b, err := render(colours)
		if err != nil {
			return fmt.Errorf("figure %s: %w", f.Name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name+suffix), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// page is what the template shows. That of a simulation has neither Source nor Command, and a
// Summary in sentences.
type page struct {
	Title, Summary, Source string
	Command                string
	Banners                []Banner
	Facts                  [][2]string
	Headlines              []string
	Lead                   Table
	Sections               []pageSection
	Failures               []string
	Seed                   uint64
	Moves                  bool // moves.csv is beside the page
}

// opening says what the page is about, and after whom.
func (p page) opening() string {
	if p.Source == "" {
		return p.Summary
	}
	return p.Summary + ". After " + p.Source + "."
}

type pageSection struct {
	Title   string
	Text    []string
	Figures []pageFigure
	Tables  []Table
}

type pageFigure struct {
	Name, Caption string
	SVG           template.HTML
}

func pageOf(e Experiment, run Run, results []trial.Result, f Findings) page {
	p := page{
		Title: e.Title, Summary: e.Summary, Source: e.Source, Headlines: f.Headlines, Lead: f.Lead,
		Seed: run.Seed, Command: commandOf(run),
	}
	p.Banners, p.Facts = banners(run, results), facts(run, results)
	p.Moves = slices.ContainsFunc(valid(results), func(r trial.Result) bool {
		return len(r.Moves) > 0
	})
	colours := f.colours()
	for _, s := range f.Sections {
		section := pageSection{Title: s.Title, Text: s.Text, Tables: s.Tables}
		for _, fig := range s.Figures {
			svg, err := fig.SVG(colours)
			if err != nil {
				continue // writeFigure has reported the error
			}
			// This is safe: this program made it from its own numbers and names.
			section.Figures = append(section.Figures,
				pageFigure{fig.Name, fig.Caption, template.HTML(figure.Inline(svg))})
		}
		p.Sections = append(p.Sections, section)
	}
	for _, r := range results {
		if r.Error != "" {
			p.Failures = append(p.Failures, r.Spec.ID+": "+r.Error)
		}
	}
	return p
}

func commandOf(run Run) string {
	c := "vmm bench run " + run.Experiment
	if run.Custom != nil {
		c = "vmm bench custom FILE"
	}
	if run.Size == Quick {
		c += " --quick"
	}
	if run.BitsPerSecond > 0 {
		c += fmt.Sprintf(" --netns %dbit", run.BitsPerSecond)
	}
	if h := run.Hosts; h != nil {
		c += hostFlags(run.pairs())
		if h.Insecure {
			c += " --insecure"
		}
	}
	if run.Shard.Of > 0 {
		c += " --shard " + run.Shard.String()
	}
	return c + run.Factors.flags() + fmt.Sprintf(" --seed %d", run.Seed)
}

func facts(run Run, results []trial.Result) [][2]string {
	h := run.Host
	link := "loopback, limited by the engine as given"
	if run.BitsPerSecond > 0 {
		link = "network namespaces, veth and tbf at " + units.BitRate(float64(run.BitsPerSecond)/8)
	}
	pairs := run.pairs()
	if len(pairs) > 0 {
		link = "the network between two hosts, limited by the engine as given, " +
			ofPairs(pairs, RunHosts.route)
	}
	all := [][2]string{
		{"trials", fmt.Sprintf("%d of %d, %d of them void", len(results),
			max(run.Trials, len(results)), len(results)-len(valid(results)))},
		{"begun", run.Started.UTC().Format(time.RFC1123) + resumptions(run) + parts(run)},
		{"host", fmt.Sprintf("%s, %d CPUs, %s", h.CPU, h.CPUs, units.Bytes(h.MemoryBytes))},
		{"kernel", fmt.Sprintf("Linux %s, KVM by %s", h.Kernel, h.KVM)},
		{"versions", versions(h)},
		{"link", link},
		{"noise", noise(results)},
	}
	if len(pairs) > 0 {
		all = append(all,
			[2]string{"destination", ofPairs(pairs, destinationText)},
			[2]string{"clocks", clocksOf(pairs, results)})
	}
	return all
}

func destinationText(h RunHosts) string {
	d := h.Destination
	return fmt.Sprintf("%s, %d CPUs, %s; Linux %s, KVM by %s", d.CPU, d.CPUs,
		units.Bytes(d.MemoryBytes), d.Kernel, d.KVM)
}

// resumptions says when a run was resumed, and on which hosts if those were others.
func resumptions(run Run) string {
	text := ""
	at := builds(run.begun(), run.Resumed)
	for i, r := range run.Resumed {
		last, now := at[i], at[i+1]
		text += "; resumed " + r.Started.UTC().Format(time.RFC1123)
		if now.host != last.host {
			text += fmt.Sprintf(" on another host or with other versions (%s, Linux %s, %s)",
				now.host.CPU, now.host.Kernel, versions(now.host))
		}
		if d := now.destination; d != last.destination {
			text += fmt.Sprintf(" to another destination, or one with other versions (%s, "+
				"Linux %s, vmm %s, %s)", d.CPU, d.Kernel, d.VMM, d.Go)
		}
	}
	return text
}

// noise says what other processes did before the trials and during them.
func noise(results []trial.Result) string {
	var busy, stolen, others, taken []float64
	for _, r := range results {
		busy, stolen = append(busy, r.Noise.BusyCPUs), append(stolen, r.Noise.StolenCPUs)
		if d := r.Noise.During; d != nil {
			others, taken = append(others, d.OthersCPUs), append(taken, d.StolenCPUs)
		}
	}
	text := fmt.Sprintf("just before trials others used %s, and %s were stolen",
		cpus(busy), cpus(stolen))
	if len(others) > 0 {
		text += "; during trials " + cpus(others) + ", and " + cpus(taken)
	}
	return text
}

func cpus(v []float64) string {
	s := stats.Summarize(v)
	return fmt.Sprintf("%.2f CPUs in the median (up to %.2f)", s.Median, s.Max)
}

// configurations groups results by all factors together.
func configurations(results []trial.Result) []group {
	var groups []group
	at := map[string]int{}
	for _, r := range withoutContests(valid(results)) {
		key := fmt.Sprint(r.Spec.Factors) // maps are printed in the order of their keys
		i, known := at[key]
		if !known {
			i = len(groups)
			at[key] = i
			groups = append(groups, group{factors: r.Spec.Factors})
		}
		groups[i].results = append(groups[i].results, r)
	}
	sort.Slice(groups, func(i, j int) bool {
		return fmt.Sprint(groups[i].factors) < fmt.Sprint(groups[j].factors)
	})
	return groups
}

// inPlanOrder sorts configurations as the plan's blocks have them, where levels that are compared
// stand one below the other.
func inPlanOrder(blocks [][]trial.Spec, groups []group) []group {
	rank := map[string]int{}
	for _, s := range slices.Concat(blocks...) {
		key := fmt.Sprint(s.Factors)
		if _, known := rank[key]; !known {
			rank[key] = len(rank)
		}
	}
	slices.SortStableFunc(groups, func(a, b group) int {
		return cmp.Compare(rank[fmt.Sprint(a.factors)], rank[fmt.Sprint(b.factors)])
	})
	return groups
}

// fileName turns words into a file name.
func fileName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r >= 'A' && r <= 'Z':
			return r
		case r == ' ', r == '/', r == '-':
			return '-'
		default:
			return -1
		}
	}, s)
}
