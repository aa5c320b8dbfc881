// Package bench reproduces and extends the experiments behind task guidance: what guidance gains,
// what it costs, and how the engine compares with others.
//
// # From an idea to a picture
//
//	Experiment ─Plan─► trials ─Execute─► raw.jsonl ─WriteReport─► report.html
//	            (in blocks, in   (trial.Run,  (a line             (with SVG, PNG,
//	             random order)    in turn)     a trial)            CSV and JSON)
//
// An [Experiment] is a list of trials and an analysis, and nothing else. Package trial runs a
// trial, package figure draws, and package stats computes how sure a result is. A new experiment is
// a function that returns one, listed in [Experiments]. Users compare levels of their own without
// one: by [Factors] on the command line, and by [Custom], an experiment in a file. A [shard.Shard]
// is a part of a run, and [Join] puts parts together.
//
// # What makes results worth something
//
//   - Every trial has a fresh guest in processes of its own. No trial inherits anything from
//     another.
//   - Trials come in blocks, each with one trial of every configuration, in random order: what
//     drifts (other users of the host, temperature) hits all configurations alike. The seed of the
//     order is recorded.
//   - Every report of every trial is kept, with its spec, what the host was doing just before, and
//     what the guest said.
//   - Medians with intervals by order statistics, means and ratios with bootstrap intervals, and
//     every point in the figures.
//   - Tags that are wrong on purpose (experiment validity): if they helped too, the gain would be
//     an artefact.
//
// A trial that fails is void. It is listed, and a resumed run tries it once more. Results are on
// the disk before the next trial begins, so that an interrupted run can go on where it stopped.
package bench
