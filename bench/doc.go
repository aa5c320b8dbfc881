// Package bench reproduces and extends the experiments behind task guidance: what it gains, what it costs, and how the
// engine compares with others.
//
// # From an idea to a picture
//
//	Experiment ──Plan──► trials in random order ──Execute──► raw.jsonl ──WriteReport──► report.html, SVG, PNG, CSV, JSON
//	                     (blocks, seed)            trial.Run    one line a trial
//
// An [Experiment] is a list of trials and an analysis, nothing else; how to run a trial is package trial's business, how to
// draw is package figure's, and how sure to be is package stats'. A new experiment is a function that returns one, listed in
// [Experiments].
//
// # What makes results worth something
//
//   - Every trial has a fresh guest in processes of its own. No trial inherits anything from another.
//   - Trials come in blocks, each with one trial of every configuration, in random order: what drifts (other users of the
//     host, temperature) hits all configurations alike. The seed of the order is recorded.
//   - Every report of every trial is kept, with its spec, what the host was doing just before, and what the guest said.
//   - Medians and means with bootstrap intervals, and every point in the figures.
//   - Tags that are wrong on purpose (experiment validity): if they helped too, the gain would be an artefact.
//
// A trial that fails is void, is listed, and is run once more by a resumed run. Results are on the disk before the next
// trial begins, so that a run that is interrupted, by whatever, goes on where it was.
package bench
