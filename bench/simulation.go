package bench

import (
	"fmt"
	"io"
	"strings"

	"taskguide/bench/sim"
	"taskguide/bench/simrun"
)

// SimulationFormats are those in which a simulation's tables are printed.
var SimulationFormats = []Format{Markdown, LaTeX}

// WriteSimulation prints a simulation's tables as a page, in one of SimulationFormats.
func WriteSimulation(w io.Writer, c simrun.Comparison, format Format) error {
	_, written, err := render(simulationPage(c), format)
	if err != nil {
		return err
	}
	_, err = w.Write(written)
	return err
}

// simulationPage has a section for each table. Captions repeat what the sections' titles say,
// because a table is copied into a paper without its section.
func simulationPage(c simrun.Comparison) page {
	r := c.Report()
	var costs sim.Costs
	if len(c.Results) > 0 {
		costs = c.Results[0].Setting.Costs // the same in all
	}
	p := page{
		Title: r.Title, Summary: r.Summary + " " + costs.ProcessorsNote(),
		Facts: [][2]string{
			{"vmm", c.VMM}, {"moments of request", fmt.Sprint(c.Moments)},
			{"seed", fmt.Sprint(c.Seed)},
		},
	}
	if kind, missing, partial := strings.Cut(r.Partial, ": "); partial {
		p.Banners = []Banner{{kind, missing}}
	}
	for _, t := range r.Tables {
		p.Sections = append(p.Sections, pageSection{
			Title: t.Place, Text: t.Notes,
			Tables: []Table{{Caption: t.Caption, Head: t.Head, Rows: t.Rows}},
		})
	}
	p.Sections = append(p.Sections, pageSection{Title: "How to read this", Text: r.Notes})
	return p
}
