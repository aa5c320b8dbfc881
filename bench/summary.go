package bench

import (
	"encoding/json"
	"fmt"
	"os"

	"taskguide/bench/stats"
	"taskguide/bench/trial"
)

// summary is what summary.json holds: numbers for other programs. What is made of them for people
// is in the report.
type summary struct {
	Run       Run             `json:"run"`
	Banners   []Banner        `json:"banners"`
	Headlines []string        `json:"headlines"`
	Groups    []summaryGroup  `json:"groups"`
	Ratios    []summaryRatio  `json:"ratios"`
	Failures  []summaryFailed `json:"failures"`
	// Moves are those of experiment moves.
	Moves []movesSummary `json:"moves,omitempty"`
	// Simulated are those of contests.
	Simulated []standing `json:"simulated,omitempty"`
	// Felt are the histograms of the pauses, which tables show in part.
	Felt []feltSummary `json:"felt,omitempty"`
}

// summaryGroup is one configuration: its factors' levels, and each indicator by its name in
// trials.csv.
type summaryGroup struct {
	Factors map[string]string        `json:"factors"`
	Metrics map[string]summaryMetric `json:"metrics"`
}

type summaryMetric struct {
	stats.Summary
	Mean   float64         `json:"mean"`
	MeanCI *stats.Interval `json:"mean_ci95"`
}

// summaryRatio compares a configuration with the one that differs only in having the level Against
// of Factor, and in guidance if one of both is QEMU. Only matched trials count.
type summaryRatio struct {
	Factors map[string]string `json:"factors"`
	Factor  string            `json:"factor"`
	Against string            `json:"against"`
	// AgainstGuidance is the other one's guidance, if that differs, too.
	AgainstGuidance string `json:"against_guidance,omitempty"`

	Metric    string `json:"metric"`
	Statistic string `json:"statistic"` // median, mean or max
	stats.Ratio
	Pairs int `json:"pairs"`
}

type summaryFailed struct {
	ID    string `json:"id"`
	Error string `json:"error"`
}

// ratioMetrics are the indicators whose ratios are in summaries.
var ratioMetrics = []metric{downtime, stopCopy, gap, silenceSwitch, total, pages, wire}

// statistics are those by which two samples are compared.
var statistics = []struct {
	name string
	of   func([]float64) float64
}{{"median", stats.Median}, {"mean", stats.Mean}, {"max", stats.Max}}

func summaryOf(e Experiment, run Run, results []trial.Result, f Findings) summary {
	s := summary{
		Run: run, Banners: append([]Banner{}, banners(run, results)...),
		Headlines: append([]string{}, f.Headlines...), Groups: []summaryGroup{},
		Ratios: []summaryRatio{}, Failures: []summaryFailed{}, Moves: summarizeMoves(results),
		Simulated: standingsOf(results),
	}
	groups := configurations(results)
	s.Felt = summarizeFelt(groups)
	for _, g := range groups {
		sg := summaryGroup{g.factors, map[string]summaryMetric{}}
		for _, m := range allMetrics {
			if v := g.values(m); len(v) > 0 {
				sg.Metrics[m.key] = summaryMetric{
					stats.Summarize(v), stats.Mean(v), stats.MeanInterval(v),
				}
			}
		}
		s.Groups = append(s.Groups, sg)
	}
	if e.Base != nil {
		if factor, level, ok := e.Base(run.setting()); ok {
			s.Ratios = append(s.Ratios, ratiosAgainst(groups, factor, level)...)
		}
	}
	for _, r := range results {
		if r.Error != "" {
			s.Failures = append(s.Failures, summaryFailed{r.Spec.ID, r.Error})
		}
	}
	return s
}

// ratiosAgainst compares each configuration with its counterpart.
func ratiosAgainst(groups []group, factor, level string) []summaryRatio {
	var all []summaryRatio
	for _, g := range groups {
		base, ok := counterpartOf(g, groups, factor, level)
		if !ok {
			continue
		}
		guidance := base.factors["guidance"]
		if factor == "guidance" || g.is("guidance", guidance) {
			guidance = ""
		}
		for _, m := range ratioMetrics {
			p := pairs(g, base, m)
			for _, s := range statistics {
				if r, ok := stats.RatioOf(s.of, p); ok {
					all = append(all, summaryRatio{
						g.factors, factor, level, guidance, m.key, s.name, r, len(p),
					})
				}
			}
		}
	}
	return all
}

func writeSummary(path string, s summary) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write the summary: %w", err)
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
