package bench

import (
	"fmt"

	"taskguide/bench/trial"
)

// Banner warns of a weakness of a run. It stands above everything else that the report says.
type Banner struct {
	Kind string `json:"kind"` // QUICK, PARTIAL, MIXED, CLOCKS or NOISY
	Text string `json:"text"`
}

func (b Banner) String() string { return b.Kind + ": " + b.Text }

// banners looks for reasons why a run must not be quoted.
func banners(run Run, results []trial.Result) []Banner {
	var all []Banner
	if run.Size == Quick {
		all = append(
			all,
			Banner{
				"QUICK",
				"few and small trials, to see that all is well; not for figures to quote",
			},
		)
	}
	good := valid(results)
	goOn, repeat := "--resume goes on", "--resume --repeat-noisy runs those trials again"
	if len(run.Parts) > 0 {
		goOn = "resume the parts and join them again"
		repeat = "resume the parts with --repeat-noisy and join them again"
	}
	if len(good) < run.Trials {
		all = append(
			all,
			Banner{
				"PARTIAL",
				fmt.Sprintf(
					"%d of %d trials have a result, %d are void, %d were not run; %s",
					len(good),
					run.Trials,
					len(results)-len(good),
					max(0, run.Trials-len(results)),
					goOn,
				),
			},
		)
	}
	if run.Shard.Of > 1 {
		all = append(all, Banner{"PARTIAL", fmt.Sprintf(
			"part %d of %d alone: join it with the others", run.Shard.Index, run.Shard.Of)})
	}
	if b, is := mixedBanner(run); is {
		all = append(all, b)
	}
	if b, differ := clocksBanner(good); differ {
		all = append(all, b)
	}
	noisy := filter(good, func(r trial.Result) bool { return r.Noise.Noisy() })
	if len(noisy) > 0 {
		worst := 0.0
		for _, r := range noisy {
			worst = max(worst, loudest(r.Noise))
		}
		all = append(
			all,
			Banner{"NOISY", fmt.Sprintf("in %d of %d trials others took up to %.1f of %d CPUs; %s",
				len(noisy), len(good), worst, run.Host.CPUs, repeat)},
		)
	}
	return all
}

// loudest is the most that other processes took, in CPUs.
func loudest(n trial.Noise) float64 {
	most := max(n.BusyCPUs, n.StolenCPUs)
	if d := n.During; d != nil {
		most = max(most, d.OthersPeakCPUs, d.StolenPeakCPUs)
	}
	return most
}
